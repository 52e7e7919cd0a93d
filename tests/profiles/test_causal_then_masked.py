"""Shares that are compared, paired differences beside scipy's, and runs that are made once."""

import argparse
import pathlib
from typing import Any

import pytest
from scipy import stats

from jaxfm.errors import UserError
from profiles import causal_then_masked
from profiles.causal_then_masked import fine_tuning, pretraining, run_once, shares, summary, table
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def arguments_of(folder: pathlib.Path, **changes: Any) -> argparse.Namespace:
    values = {
        "corpus": folder / "text",
        "ner": folder / "data",
        "preset": "bert_tiny",
        "steps": 4,
        "ner_steps": 3,
        "fine_tunings": 2,
        "workdir": folder / "work",
    }
    return argparse.Namespace(**{**values, **changes})


def test_masked_tokens_alone_are_always_there_and_first() -> None:
    assert shares(["0.5", "0.25", "0.5"]) == [0.0, 0.5, 0.25] and shares(["0"]) == [0.0]
    for word in ("1", "-0.1", "half"):
        with pytest.raises(UserError, match=f"--until: '{word}' must be a number of at least 0 and below 1"):
            shares(["0.5", word])


def record(loss: float, f1: float) -> dict[str, float]:
    return {"masked_loss": loss, "masked_accuracy": 10.0, "ner_f1": f1, "seconds": 1.0}


def test_differences_are_paired_by_seed() -> None:
    runs = {
        "0": {"0": record(4.0, 60.0), "1": record(4.2, 62.0), "2": record(4.1, 61.0)},
        "0.5": {"0": record(3.9, 63.0), "1": record(4.2, 63.0), "2": record(4.15, 65.0)},
    }
    found = summary(runs)["0.5"]["ner_f1"]
    test = stats.ttest_rel([63.0, 63.0, 65.0], [60.0, 62.0, 61.0]).confidence_interval()
    assert found["mean"] == pytest.approx(63 + 2 / 3) and found["sd"] == pytest.approx(stats.tstd([63.0, 63.0, 65.0]))
    assert found["difference"]["mean"] == pytest.approx(8 / 3)
    assert found["difference"]["interval"] == pytest.approx([test.low, test.high])
    rows = table(summary(runs)).rows
    assert [row[:3] for row in rows if row[1] == "masked_loss"] == [("0", "masked_loss", 3), ("0.5", "masked_loss", 3)]
    assert rows[0][5:] == (None, None, None)  # of itself
    one = {share: {"0": seeds["0"]} for share, seeds in runs.items()}
    assert summary(one)["0.5"]["ner_f1"]["sd"] is None and table(summary(one)).rows[-1][6] is None


def test_runs_differ_in_the_share_and_the_seed_alone(tmp_path: pathlib.Path) -> None:
    asked = arguments_of(tmp_path)
    one, other = (pretraining(asked, ["--config.train.batch_size=8"], until, 3) for until in (0.0, 0.5))
    assert one == tiny.replaced(other, task__causal_until=0.0) and other.task.causal_until == 0.5
    assert (one.seed, one.train.steps, one.train.batch_size, one.eval.select) == (3, 4, 8, "last")
    tuned = fine_tuning(asked, tmp_path / "first", 1)
    assert (tuned.task.name, tuned.train.steps, tuned.seed) == ("ner", 3, 1)


def test_a_run_is_made_once(tmp_path: pathlib.Path) -> None:
    tiny.write_text(tmp_path / "text", {"train": 60, "valid": 16})
    tiny.write_corpus(tmp_path / "data")
    words = [
        "--config.model.tokenizer=train:wordpiece/200",
        "--config.data.row_length=32",
        "--config.train.batch_size=4",
        "--config.eval.batch_size=4",
        "--config.eval.every_steps=2",
    ]
    asked = arguments_of(tmp_path)
    found = run_once(asked, words, 0.5, 0)
    assert found["updates"] == 4 and len(found["ner_f1_of_each"]) == 2 and found["masked_loss"] > 0
    assert [step for step, _ in found["curve"]][:2] == [2, 4] and found["curve"][1][1] == found["masked_loss"]
    assert sorted(path.name for path in asked.workdir.iterdir()) == ["cache", "until0.5_seed0", "until0.5_seed0.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_then_masked, "train", None)
        assert run_once(asked, words, 0.5, 0) == found
