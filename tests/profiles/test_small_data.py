"""Each run once, the best of the search by valid, and nothing left of finished runs."""

import json
import pathlib
from typing import Any

import pytest

from profiles import small_data
from profiles.small_data import Record, Runner
from profiles.small_sets import SETS


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Puts something quick in place of training: it scores best at rate 1e-4 and twice the updates on valid."""
    made: list[Any] = []

    def train(config: Any, workdir: pathlib.Path) -> dict[str, Any]:
        made.append((config.seed, config.optim.learning_rate, config.train.steps, config.eval.patience))
        (workdir / "big").write_text("checkpoint")
        valid = 0.5 + 0.2 * (config.optim.learning_rate == 1e-4) + 0.1 * (config.train.steps == 400)
        splits = {"valid": {"macro_f1": valid}, "test": {"macro_f1": valid - 0.1 + config.seed / 100}}
        return {"splits": splits, "training": {"steps": config.train.steps or 120}}

    monkeypatch.setattr(small_data, "train", train)
    monkeypatch.setattr(small_data, "resolve", lambda model: None)
    monkeypatch.setattr(small_data, "plan_updates", lambda config, initial: type("Plan", (), {"updates": 200}))
    return made


def test_runs_are_kept_and_their_folders_removed(tmp_path: pathlib.Path, calls: list[Any]) -> None:
    runner = Runner(SETS["questions"], tmp_path / "data", tmp_path / "runs")
    first, again = (runner.jaxfm(1, {}, "defaults") for _ in range(2))
    assert first == again and len(calls) == 1
    assert (first.test, first.updates) == (pytest.approx(61.0), 120)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["defaults_1.json"]


def test_the_search_chooses_by_valid_of_the_first_seed(tmp_path: pathlib.Path, calls: list[Any]) -> None:
    records = Runner(SETS["questions"], tmp_path / "data", tmp_path / "runs").search([0, 1])
    assert [record.valid for record in records] == pytest.approx([80.0, 80.0])
    assert records[0].settings == {"optim.learning_rate": 1e-4, "train.steps": 400, "eval.patience": 0}
    assert len(calls) == len(small_data.RATES) * len(small_data.LONGER) + 1  # the best once more, on the other seed
    assert calls[-1] == (1, 1e-4, 400, 0)


def test_the_table_has_mean_and_deviation(tmp_path: pathlib.Path) -> None:
    records = [Record(0.0, score, 200, 1.0, {}) for score in (50.0, 52.0, 54.0)]
    entry = {"what": "TREC", "metric": "macro_f1", "train": 60, "defaults": small_data.summary(records)}
    table = small_data.table({"sets": {"questions": entry}})
    assert table.columns[-1] == "defaults" and table.rows == [("questions", "TREC", 60, "macro_f1", "52.0 (2.0)")]
    json.dumps(entry)


def test_sets_of_real_data_are_small_and_have_a_fair_test(shared_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = small_data.write_set(SETS["questions"], shared_data, tmp_path)
    names = ("train", "valid", "test")
    rows = {name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()] for name in names}
    assert (len(rows["train"]), len(rows["valid"]), len(rows["test"])) == (60, 11, 300)
    shares = {name: sum(row["label"] == name for row in rows["train"]) for name in ("HUM", "NUM", "LOC")}
    assert shares == {"HUM": 33, "NUM": 24, "LOC": 3}
    texts = {split: {row["text"] for row in found} for split, found in rows.items()}
    assert not texts["train"] & texts["valid"] and not (texts["train"] | texts["valid"]) & texts["test"]
