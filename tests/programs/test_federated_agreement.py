"""What parties over a network agree on: the same config and options again, and what a network does not have."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.programs.federated import write_agreement
from jaxfm.programs.federated_agreement import count_of, read_agreement
from jaxfm.programs.federated_options import FederatedOptions
from tests import tiny


def test_an_agreement_has_config_and_options_with_what_data_decide(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, train__batch_size=4)
    path = tmp_path / "agreed" / "federation.json"
    write_agreement(config, path, overrides={"train.batch_size": 8}, clients="3", rounds=4, private="")
    read, options = read_agreement(path)
    assert read.train.batch_size == 8 and read.data.source == config.data.source
    assert (config.task.pooling, read.task.pooling) == ("auto", "cls")  # what the task has chosen
    assert options == FederatedOptions(clients="3", rounds=4) and count_of(options) == 3
    assert json.loads(path.read_text())["clients"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "scaffold"}, "--method=scaffold: is not there where clients are reached over a network"),
        ({"secure": 64}, "--secure=64: .* the simulation would be shown what it hides"),
        ({"beside": "local"}, "--beside=local: .* the server has no client's data"),
        ({"quorum": 9}, "--quorum=9: is more than the 3 clients"),
    ],
)
def test_what_a_network_does_not_have_is_refused(tmp_path: pathlib.Path, options: dict[str, Any], message: str) -> None:
    config = tiny.classification_config(tmp_path, train__batch_size=4)
    with pytest.raises(UserError, match=message):
        write_agreement(config, tmp_path / "f.json", clients="3", **options)
    assert not (tmp_path / "f.json").exists()


def test_files_that_are_no_agreement(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"version": 9}')
    with pytest.raises(UserError, match="is no agreement of version 1"):
        read_agreement(path)
