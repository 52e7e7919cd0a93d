"""--private and --secure of jaxfm federated: what they leave in the run, and what is refused."""

import importlib.util
import json
import pathlib
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.programs import federated_protection as protection
from jaxfm.programs.federated import federated
from jaxfm.programs.federated_options import FederatedOptions
from tests import tiny

needs_accountant = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="needs the extra `privacy`: dp-accounting"
)
PRIVATE = "noise:0.8,delta:1e-2,clip_norm:0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"private": PRIVATE, "aggregate": "median"}, "--aggregate=median: does not go with --private="),
        ({"private": PRIVATE, "method": "scaffold"}, "--method=scaffold: does not go with --private="),
        ({"private": PRIVATE, "quorum": 2}, "--quorum=2: does not go with .*: the clients' votes have no noise"),
        ({"private": PRIVATE, "secure": 64, "per_round": "0.5"}, "would tell who was drawn. Take --per_round=all"),
        ({"private": "epsilon:8"}, "--private=epsilon:8: must have delta and clip_norm"),
        (
            {"secure": 64, "aggregate": "trimmed_mean"},
            "--aggregate=trimmed_mean: does not go with --secure=64: the server",
        ),
        ({"secure": 64, "poison": "1:sign_flip"}, "--poison=1:sign_flip: .* nobody would see who sent it"),
        ({"secure": 16}, "modulo 2.16: must be 2.32 or 2.64"),
    ],
)
def test_what_does_not_go_with_protection(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        protection.check(FederatedOptions(clients="6", **options), 6)


def test_without_protection_nothing_is_checked_or_said() -> None:
    protection.check(FederatedOptions(aggregate="median"), 10)
    assert protection.lines({"asked": {"secure": 0}}) == []


@pytest.mark.slow
@needs_accountant
def test_a_private_masked_simulation_says_what_it_has_spent(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, train__batch_size=4)
    options = {"clients": "4", "rounds": 2, "local_steps": 1, "min_examples": 5, "secure": 64}
    found = federated(config, tmp_path / "run", private=PRIVATE, **options)
    spent = found["privacy"]
    assert spent["rounds"] == 2 and spent["rate"] == 1.0 and spent["unit"] == "client" and 0 < spent["epsilon"] < 20
    assert all(each["accepted"] and each["unmasked_without"] == [] for each in found["rounds"])
    text = (tmp_path / "run" / "federated.md").read_text()
    assert (
        "differential privacy: epsilon" in text and "are not noised" in text and "secure aggregation, simulated" in text
    )
    study = json.loads((tmp_path / "run" / "studies" / "privacy.json").read_text())
    assert study["step"] == 0 and study["summary"][0].startswith("Epsilon ")
