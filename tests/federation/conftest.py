"""A session of plain gradient descent over tagged sentences that the tests of local training share."""

import dataclasses
import functools
from typing import Any

import jax
import pytest

from jaxfm.config import Config, MeshConfig
from jaxfm.core.task import Task
from jaxfm.federation.client import Client, ClientData
from jaxfm.federation.local import LocalRules, LocalTraining
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.session import Session, make_session
from tests import tiny

ROUNDS, STEPS = 3, 2


@dataclasses.dataclass(frozen=True, eq=False)
class Began:
    """What local training begins with."""

    config: Config
    task: Task
    session: Session
    params: Any

    @functools.cache  # noqa: B019  one for the session: its programs are compiled once
    def work(self, method: str = "fedavg", proximal: float = 0.0) -> LocalTraining:
        rules = LocalRules(method, proximal, steps=STEPS, stride=STEPS)
        return LocalTraining(self.session, self.config, self.params, rules)

    def clients(self, work: LocalTraining, count: int) -> list[Client]:
        """Clients on the same rows, which they see in orders of their own."""
        rows, valid = self.task.datasets["train"], self.task.datasets["valid"]
        return [
            Client(number, ClientData(rows, 31 + number, valid, 16, self.task.scorer("valid")), work)
            for number in range(count)
        ]


@pytest.fixture(scope="session")
def began(tmp_path_factory: pytest.TempPathFactory) -> Began:
    # Gradient descent without momentum: rounds then differ from a run in nothing but rounding.
    config = tiny.config(
        tmp_path_factory.mktemp("federated"),
        model__dropout=0.1,
        optim__name="sgd",
        optim__sgd__momentum=0.0,
        optim__learning_rate=0.1,
        optim__weight_decay=0.01,
        adapt__freeze_layers=1,
        adapt__freeze=("encoder/embeddings/*",),
        train__batch_size=8,
    )
    task, loaded = registry.create(config, resolve(config.model))
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    session = make_session(config, task.objective, mesh, total_steps=ROUNDS * STEPS)
    return Began(config, task, session, session.initial_state(config.seed, loaded).params)
