"""A party's client is that of the simulation, and its own data take the place of the part that is dealt."""

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs import federated_run
from jaxfm.programs.federated import write_agreement
from jaxfm.programs.federated_agreement import read_agreement
from jaxfm.programs.federated_network import open_client
from tests import tiny

OPTIONS: dict[str, Any] = {"clients": "3", "rounds": 2, "local_steps": 2, "min_examples": 5}


@pytest.fixture(scope="module")
def agreement(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("federation")
    write_agreement(tiny.classification_config(folder, train__batch_size=4), folder / "federation.json", **OPTIONS)
    return folder / "federation.json"


@pytest.mark.slow
def test_a_client_trains_as_in_the_simulation(agreement: pathlib.Path) -> None:
    config, options = read_agreement(agreement)
    with Progress(None) as progress:
        simulation = federated_run.set_up(config, options, progress)
    expected = simulation.clients[1]
    found = open_client({"federation": str(agreement), "client": 1}, simulation.work.rules.stride)
    assert found.number == 1 and found.steps == expected.steps
    assert found.data.rows.fingerprint() == expected.data.rows.fingerprint()
    values = simulation.work.values_of(simulation.work.base)
    one, other = expected.train(values, 1), found.train(values, 1)
    for path, value in one.difference.items():
        np.testing.assert_allclose(other.difference[path], value, atol=1e-6)


def test_a_client_of_its_own_data(agreement: pathlib.Path) -> None:
    config, _ = read_agreement(agreement)
    client = open_client({"federation": str(agreement), "client": 2, "data": config.data.source}, 2)
    assert client.number == 2 and client.data.examples + client.data.held_out_examples == tiny.SIZES["train"]


@pytest.mark.parametrize(
    ("node_config", "message"),
    [
        ({"client": 1}, "has the keys federation, client, data. federation is missing"),
        ({"federation": "f.json", "client": 1, "dta": "x"}, "Did you mean 'data'"),
        ({"client": 7}, "client=7: must be from 0 to 2"),
    ],
)
def test_node_configs_that_are_refused(agreement: pathlib.Path, node_config: dict[str, Any], message: str) -> None:
    if "client=7" in message:
        node_config = {**node_config, "federation": str(agreement)}
    with pytest.raises(UserError, match=message):
        open_client(node_config, 1)
