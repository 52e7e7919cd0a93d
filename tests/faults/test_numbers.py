"""The scripts on faults of numbers: their mistakes, their tables, and each of them on little."""

import json
import pathlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from jaxfm.data.pipeline import TrainBatches
from jaxfm.errors import UserError
from profiles.faults import guard_cost, numbers, spike_guard
from tests import tiny

# ml_collections loads config files in a way that Python 3.12 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

MISTAKES = (
    (numbers, ["--at=3"], "--at=3: must be more than 8"),
    (guard_cost, ["--steps=150"], "--steps=150: must be a multiple of --verify=100"),
    (guard_cost, ["--turns=0"], "--turns=0: must be at least 1"),
    (spike_guard, ["--kinds=rates"], "--kinds: 'rates' is none of usual, rate"),
    (spike_guard, ["--seeds=0,one"], "--seeds=0,one: must be whole numbers"),
)


@pytest.mark.parametrize(("script", "words", "said"), MISTAKES)
def test_a_mistake_is_one_message(script: ModuleType, words: list[str], said: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=said):
        script.main([*words, f"--output={tmp_path / 'o.json'}"])
    with pytest.raises(SystemExit):
        script.main(["--no-such-flag=1", f"--output={tmp_path / 'o.json'}"])
    assert not list(tmp_path.iterdir())


def record(**values: Any) -> dict[str, Any]:
    usual = {"fault": "f", "guard": "g", "struck": 11, "caught": True, "ended": False, "skipped": [11]}
    return {**usual, "checkpoint_before": None, "finite": True, "same_as_untouched": False, **values}


def test_the_table_says_what_became_of_a_run() -> None:
    ended = record(ended=True, skipped=[], checkpoint_before=10)
    refused = record(ended=True, skipped=[], struck=0, finite=None, same_as_untouched=None)
    table = numbers.table([record(), record(caught=False, skipped=[]), ended, refused])
    assert [row[4] for row in table.rows] == [
        "update 11 left out",
        "nobody noticed",
        "ended; went on from step 10",
        "refused before step 1",
    ]
    assert table.rows[3][2] is None and table.rows[3][5] == ""


def test_ratios_are_of_the_same_turn() -> None:
    found = guard_cost.ratios({guard_cost.OFF: [1.0, 2.0], guard_cost.SPIKES: [1.1, 2.0], guard_cost.VERIFIED: [2, 2]})
    assert found == {guard_cost.SPIKES: [1.1, 1.0], guard_cost.VERIFIED: [2.0, 1.0]}


def test_batches_are_corrupted_where_they_should_be() -> None:
    tokens = np.arange(5, 85).reshape(8, 10)
    segments = np.ones((8, 10), int)
    segments[:, 8:] = 0
    batches = TrainBatches(tiny.text_dataset({"tokens": tokens, "segment_ids": segments}), batch_size=4, seed=0)
    plain = [batches.batch(step)["tokens"] for step in range(3)]
    for kind, distinct in ((spike_guard.REPEATED, 1), (spike_guard.RANDOM, 20)):
        with spike_guard.corrupted(kind, [2], 4096):
            struck = [batches.batch(step)["tokens"] for step in range(3)]
        for step in (0, 2):
            np.testing.assert_array_equal(struck[step], plain[step])
        np.testing.assert_array_equal(struck[1][:, 8:], plain[1][:, 8:])  # padding stays
        found = len(np.unique(struck[1][:, :8]))
        assert found == distinct if kind == spike_guard.REPEATED else found > distinct


def test_losses_are_paired_by_seed() -> None:
    usual = {"kind": "rate", "clip_norm": 1.0, "left_out": [], "caught": 0, "corrupted": 0}
    runs = [
        {**usual, "spike_factor": factor, "seed": seed, "valid_loss": loss}
        for factor, losses in ((0.0, (3.0, 4.0)), (6.0, (2.5, 4.5)))
        for seed, loss in enumerate(losses)
    ]
    runs[-1] |= {"left_out": [4, 7], "caught": 1, "corrupted": 3}
    ((kind, clip, off, on, better, caught, others),) = spike_guard.table(runs).rows
    assert (kind, clip, better, caught, others) == ("rate", 1.0, "1 of 2", "1 of 3", 1)
    assert (off, on) == ("3.500 (0.707)", "3.500 (1.414)")


@pytest.mark.slow
def test_faults_are_caught_and_named(tmp_path: pathlib.Path) -> None:
    chosen = [fault for fault in numbers.FAULTS if fault.guard in ("spike guard", "verified, this update")]
    records = numbers.measure(16, 11, tmp_path, [numbers.FAULTS[1], *chosen])
    assert all(each["caught"] and each["as_expected"] for each in records), records
    assert all(each["finite"] in (True, None) for each in records)
    wrong = next(each for each in records if each["guard"] == "verified, this update")
    assert "update 12, computed twice" in wrong["message"] and wrong["same_as_untouched"]


@pytest.mark.slow
def test_the_cost_is_measured_in_turns(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--preset=bert_tiny", "--batch=4", "--row-length=16", "--verify=2", "--steps=4", "--turns=2"]
    guard_cost.main([*small, f"--output={tmp_path / 'o.json'}"])
    found = json.loads((tmp_path / "o.json").read_text())
    assert {name: len(each) for name, each in found["step_seconds"].items()} == dict.fromkeys(
        (guard_cost.OFF, guard_cost.SPIKES, guard_cost.VERIFIED), 2
    )
    assert "one of 2 verified" in capsys.readouterr().out
