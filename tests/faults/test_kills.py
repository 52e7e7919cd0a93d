"""The suite of kills: what it compares, how it counts, and a short form of it."""

import json
import pathlib
import shutil
import signal

import pytest

from profiles.faults import kills, small_runs
from profiles.faults.kills import Kill, Trial


def write_run(workdir: pathlib.Path) -> None:
    """What a comparison reads of a run that never saved."""
    (workdir / "predictions").mkdir(parents=True)
    (workdir / "checkpoints").mkdir()
    (workdir / "predictions" / "test.jsonl").write_text('{"label": "a"}\n')
    (workdir / "task.json").write_text('{"task": "ner"}')
    (workdir / "metrics.jsonl").write_text(
        '{"step": 1, "split": "train", "loss": 0.5, "useful_tokens_per_second": 9.0}\n'
    )
    (workdir / "report.json").write_text('{"splits": {"test": {"f1": 0.5}}, "training": {"seconds": 3.0}}')


CHANGES = {
    "predictions/test.jsonl": ('"a"', '"b"', "predictions/test.jsonl is another"),
    "task.json": ("ner", "nor", "task.json is another"),
    "metrics.jsonl": ("0.5", "0.6", "metrics/0/loss is 0.6, of the twin 0.5"),
    "report.json": ("0.5", "0.6", "report/splits/test/f1 is 0.6, of the twin 0.5"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_told(name: str, tmp_path: pathlib.Path) -> None:
    for run in ("twin", "run"):
        write_run(tmp_path / run)
    before, after, told = CHANGES[name]
    path = tmp_path / "run" / name
    path.write_text(path.read_text().replace(before, after))
    (difference,) = kills.run_differences(tmp_path / "run", tmp_path / "twin")
    assert told in difference


def test_times_and_speeds_are_no_difference(tmp_path: pathlib.Path) -> None:
    for run in ("twin", "run"):
        write_run(tmp_path / run)
    for name, before, after in (("metrics.jsonl", "9.0", "8.0"), ("report.json", "3.0", "4.0")):
        path = tmp_path / "run" / name
        path.write_text(path.read_text().replace(before, after))
    assert kills.run_differences(tmp_path / "run", tmp_path / "twin") == []


@pytest.mark.parametrize(
    ("said", "last", "lost"),
    [
        ("resuming after step 5 of 40\nstep 6/40", 7, 2),
        ("resuming after step 5 of 40", 5, 0),
        ("step 1/40 (2 %)", 3, 3),  # there was no checkpoint yet
        ("weights: none", 3, None),  # killed again before it was opened
        ("resuming after step 5 of 40", None, None),
    ],
)
def test_lost_updates_are_counted(said: str, last: int | None, lost: int | None, tmp_path: pathlib.Path) -> None:
    (tmp_path / "log").write_text(said)
    assert kills._lost(tmp_path / "log", Kill("ner", "SIGKILL", "any", "in training", -9, last)) == lost


def test_a_run_that_hangs_or_fails_is_wrong(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(output: pathlib.Path) -> list[str]:
        output.mkdir(exist_ok=True)
        return ["sh", "-c", script]

    case = kills.Case("made", command, lambda *_: [], tmp_path, 0.2)
    script = "trap '' TERM; while :; do sleep 1; done"
    monkeypatch.setattr(kills, "STOP_SECONDS", 0.5)
    monkeypatch.setattr(kills, "_CODES", {signal.SIGTERM: (-signal.SIGTERM,)})
    monkeypatch.setattr(kills, "_moment", lambda *_: kills.Moment("any", 0.2))
    assert "attempt 1 ended with" in kills.trial(case, tmp_path, 1, 0).wrong
    script = "exit 3"
    assert "attempt 1 ended with 3, not by its signal" in kills.trial(case, tmp_path, 1, 1).wrong


def test_counts() -> None:
    trials = [
        Trial([Kill("ner", "SIGKILL", "any", "starting", -9), Kill("ner", "SIGTERM", "a save", "in a save", 75, 4)]),
        Trial([Kill("prepare", "SIGKILL", "any", "starting", -9)], "rows-00000 is another"),
    ]
    counts = kills.summary(trials)
    assert (counts["kills"], counts["runs"], counts["runs_unlike_their_twin"]) == (3, 2, 1)
    assert counts["updates_lost"] == {
        "most": 4,
        "mean": 4.0,
        "kills_that_cost_more_than_the_interval": 0,
        "known_of": 1,
    }
    assert counts["by_signal"] == {"SIGKILL": 2, "SIGTERM": 1}
    assert len(kills.table(counts).rows) == 6


@pytest.mark.slow
def test_a_killed_preparation_is_its_twin(tmp_path: pathlib.Path) -> None:
    trials, _ = kills.run_trials(tmp_path / "runs", [kills.PREPARE], 1, seed=1, most=1, jobs=1)
    assert [each.wrong for each in trials] == [""] and len(trials[0].kills) == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", small_runs.BY_NAME)
def test_a_killed_run_is_its_twin(case: str, tmp_path: pathlib.Path) -> None:
    trials, made = kills.run_trials(tmp_path / "runs", [case], 2, seed=0, most=2, jobs=1)
    assert [each.wrong for each in trials if each.wrong] == []
    # The comparison sees what it claims to: the twin of another seed differs.
    shutil.copytree(made[0].twin, tmp_path / "other")
    report = json.loads((tmp_path / "other" / "report.json").read_text())
    report["training"]["chosen_step"] += 1
    (tmp_path / "other" / "report.json").write_text(json.dumps(report))
    assert kills.run_differences(tmp_path / "other", made[0].twin)
