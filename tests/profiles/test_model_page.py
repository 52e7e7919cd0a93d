"""docs/models.md is what the script writes from the measured numbers, and these are within their goals."""

import pathlib

import pytest

from jaxfm import files
from jaxfm.families.registry import FAMILIES
from profiles import model_page, training_parity

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARITY, TRAINING = (files.read_json(model_page.RESULTS / f"{name}_parity.json") for name in ("model", "training"))


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == model_page.page(PARITY, TRAINING)
    assert set(model_page.MODELS) == set(FAMILIES)


def test_the_measured_differences_are_within_the_goals() -> None:
    for name, kinds in PARITY["families"].items():
        for kind, found in kinds.items():
            assert found["in"] <= 1e-4 and found["packed"] <= 1e-4 and found["out"] == 0 and found["bytes"], (
                name,
                kind,
            )
    for name, runs in TRAINING["families"].items():
        assert len(runs) == 3 and all(run["largest relative difference"] <= 1e-3 for run in runs.values()), name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_updates_are_those_of_torch(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
    monkeypatch.setattr(training_parity, "STEPS", 8)
    found = training_parity.compare(family, seed=0)
    assert len(found["jaxfm"]) == 8 and found["largest relative difference"] < 1e-3
