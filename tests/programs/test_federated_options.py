"""Options of a simulation: checked before anything is read."""

import pathlib
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.federation.server import ServerRules
from jaxfm.programs.federated_options import FederatedOptions, options_of


def test_defaults_are_plain_averaging_of_all() -> None:
    options = FederatedOptions()
    assert options.server_rules(10, 7) == ServerRules(10, 10, 7)
    assert options.local_rules(4).method == "fedavg" and options.local_rules(4).stride == 4
    assert options.beside_names == () and not options.of_quorum(10, 0).size


def test_numbers_of_a_round() -> None:
    for given, expected in (("all", 12), ("5", 5), ("0.25", 3), ("0.01", 1), ("1.0", 12), (4, 4)):
        assert FederatedOptions(clients="12", per_round=given).number_per_round(12) == expected  # type: ignore[arg-type]


def test_python_may_give_numbers_and_paths(tmp_path: pathlib.Path) -> None:
    assert options_of({"clients": 4, "holdout": 0.5, "proximal": 1, "method": "fedprox"}).proximal == 1.0
    assert options_of({"clients": tmp_path, "split": "files"}).folder() == tmp_path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rounds": "3"}, "rounds: is '3', but must be a int"),
        ({"holdout": 0.0}, "--holdout=0"),
        ({"rounds": 0}, "--rounds=0: must be at least 1"),
        ({"min_examples": 1}, "--min_examples=1: must be at least 2"),
        ({"tolerance": -0.1}, "--tolerance=-0.1"),
        ({"beside": "central,locl"}, "'locl' is unknown. Did you mean 'local'"),
        ({"clients": "folder"}, "--clients=folder: is a number, unless --split=files"),
        ({"clients": "0"}, "--clients=0"),
        ({"per_round": "11"}, "--per_round=11: must be 'all', a number from 1 to the 10 clients"),
        ({"per_round": "many"}, "--per_round=many"),
        ({"aggregate": "medain"}, "Did you mean 'median'"),
        ({"server_optimizer": "yogy"}, "Did you mean 'yogi'"),
        ({"slow": "1=2"}, "must be CLIENT:VALUE"),
        ({"leave": "10:1"}, "--leave: there is no client 10"),
    ],
)
def test_what_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options_of(values)


def test_a_folder_of_clients_must_exist() -> None:
    with pytest.raises(UserError, match="is no folder"):
        options_of({"clients": "absent", "split": "files"}).folder()
