"""Local rounds are the ordinary step: one client that takes part in every round trains as a run does."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.federation.client import Client, ClientData, client_seed
from jaxfm.federation.local import LocalRules, LocalTraining
from jaxfm.federation.server import Server, ServerRules
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.session import make_session
from tests import tiny

STEPS, ROUNDS = 2, 3


@pytest.fixture(scope="module")
def began(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Config, task, session and first parameters of plain gradient descent, on two devices."""
    config = tiny.config(
        tmp_path_factory.mktemp("federated"),
        model__dropout=0.1,
        optim__name="sgd",
        optim__sgd__momentum=0.0,
        optim__learning_rate=0.1,
        optim__weight_decay=0.01,
        train__batch_size=8,
    )
    task, loaded = registry.create(config, resolve(config.model))
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    session = make_session(config, task.objective, mesh, total_steps=ROUNDS * STEPS)
    return config, task, session, session.initial_state(config.seed, loaded).params


def test_one_client_of_fedavg_trains_as_the_run_does(began: Any) -> None:
    config, task, session, params = began
    work = LocalTraining(session, config, params, LocalRules(steps=STEPS, stride=STEPS))
    client = Client(0, ClientData(task.datasets["train"], 31), work)
    server = Server(work.values_of(params), ServerRules(1, 1))
    first = server.values
    for round in range(ROUNDS):
        server.receive([client.train(server.values, round)])
    state = work.start(first, client_seed(config.seed, 0), 0, None)
    *_, last = session.steps(state, client.round_batches(0, STEPS * ROUNDS))
    central = work.values_of(last.state.params)
    assert int(last.state.step) == STEPS * ROUNDS
    for path, value in server.values.items():
        # x + (y - x) is rounded where y is not: the only difference.
        np.testing.assert_allclose(value, central[path], rtol=2e-6, atol=1e-7, err_msg=path)
    assert any(np.abs(value - first[path]).max() > 1e-3 for path, value in server.values.items())
