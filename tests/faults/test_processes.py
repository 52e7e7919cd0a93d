"""How the outcome of a fault is judged, and one fault made in earnest."""

import dataclasses
import pathlib

import pytest

from jaxfm.errors import UserError
from jaxfm.observe.tables import to_plain
from profiles.faults import processes, small_runs
from profiles.faults.processes import BY_NAME, Ended, Fault, _judged

LOST = "process 1 (a) has not been heard of for 5 s: it was killed or stopped, or its machine is gone. The last ...\n"
FAULT = "step 7/30\nFAULT at 1000.5\n"


def test_each_of_the_others_must_end_in_time_with_its_code_and_name_the_process() -> None:
    killed = BY_NAME["killed"]
    ended = [Ended(69, 1006.0, f"step 7/30\n{LOST}"), Ended(-9, 1000.6, FAULT)]
    outcome = _judged(killed, 1, ended, 900.0, heartbeat=5.0)
    assert (outcome.wrong, outcome.seconds, outcome.stated_seconds) == ("", 5.5, 7.0)
    assert (outcome.codes, outcome.named, outcome.own) == ([69, -9], {0: True}, "FAULT at 1000.5")
    for other, part in (
        (Ended(1, 1006.0, LOST), "exit codes {0: 1}, not 69"),
        (Ended(None, 1006.0, LOST), "exit codes {0: None}, not 69"),
        (Ended(69, 1006.0, LOST.replace("1", "2")), "not named by [0]: process 2 (a)"),
        (Ended(69, 1030.0, LOST), "ended after 29.5 s, stated are 7.0"),
    ):
        assert part in _judged(killed, 1, [other, ended[1]], 900.0, heartbeat=5.0).wrong
    assert "the fault never came" in _judged(killed, 1, [ended[0], Ended(0, 1, "")], 900.0, heartbeat=5.0).wrong


def test_a_stopped_process_must_explain_itself_once_it_is_continued() -> None:
    other, own = (
        Ended(69, 1006.0, LOST),
        f"{FAULT}this process, 1 (a), stood still for 9 s: it was stopped, or its machine was.",
    )
    assert _judged(BY_NAME["stopped"], 1, [other, Ended(69, 1007.0, own)], 900.0, 5.0).wrong == ""
    for code, text in ((-6, own), (69, FAULT)):
        assert f"the process itself ended with {code}" in (
            _judged(BY_NAME["stopped"], 1, [other, Ended(code, 1007.0, text)], 900.0, 5.0).wrong
        )


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("other config", "error: the processes of this run do not agree: config.seed is 5 on process 1 (a), but 0 on"),
        (
            "other version",
            'error: the processes of this run do not agree: the version of optax is "0" on process 1 (a)',
        ),
        ("slow", "WARNING: x\n  other processes: process 1 (a): the next batch (wait for data), 7 updates dispatched"),
    ],
)
def test_faults_without_a_moment_are_judged_by_what_is_said(fault: str, text: str) -> None:
    code, own = BY_NAME[fault].code, FAULT if fault == "slow" else text
    outcome = _judged(BY_NAME[fault], 1, [Ended(code, 1010.0, text), Ended(code, 1010.0, own)], 1000.0, 5.0)
    assert outcome.wrong == "" and outcome.stated_seconds is None
    other = text.replace("process 1", "process 0")
    assert "not named" in _judged(BY_NAME[fault], 1, [Ended(code, 1, other), Ended(code, 1, own)], 1.0, 5.0).wrong


def test_the_table_has_a_row_for_each_run() -> None:
    outcome = _judged(BY_NAME["killed"], 1, [Ended(None, 1006.0, ""), Ended(-9, 1000.6, FAULT)], 900.0, 5.0)
    text = to_plain(processes.table([dataclasses.asdict(outcome)]))
    assert "killed" in text and "hung, -9" in text and "0 of 1" in text and "wrong" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--faults=kiled"], "--faults: 'kiled' is none of killed, "),
        (["--processes=2,one"], "--processes=2,one: must be whole numbers"),
        (["--processes=1"], "--processes=1: must be at least 2"),
    ],
)
def test_a_mistake_is_one_message(words: list[str], message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=message):
        processes.main([*words, f"--output={tmp_path / 'o.json'}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stopped", "slow", "other data"])
def test_a_fault_in_earnest(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SLOW_SECONDS", 10.0)
    small_runs.write_all(tmp_path / "data")
    fault: Fault = BY_NAME[name]
    outcome = processes.run(fault, 2, tmp_path / "data", heartbeat=3.0)
    assert outcome.wrong == ""
