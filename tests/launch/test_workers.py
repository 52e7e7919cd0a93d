"""launch/workers.py: its arguments, devices of the workers, and what happens to those that are killed or stopped."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "workers.py"
STAND_IN = "--program=tests.launch.worker_stand_in"


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments: str) -> tuple[int, str, str]:
    child = start(*arguments)
    output, errors = child.communicate(timeout=60)
    return child.returncode, output, errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --workers"),
        (("--workers=0", "--", "--x"), "--workers=0: must be at least 1"),
        (("--workers=2",), "nothing to run: give the flags of the search after --"),
        (("--workers=2", "--gpus=0,1,2", "--", "--x"), "--gpus=0,1,2: 3 GPUs cannot be divided among 2 workers"),
        (("--workers=2", "--gpus=a", "--", "--x"), "--gpus=a: must be numbers of GPUs, as 0,1,2,3"),
        (("--workers=2", "--gpus=1,1", "--", "--x"), "--gpus=1,1: names one twice"),
    ],
)
def test_a_mistake_is_one_message(arguments: tuple[str, ...], message: str) -> None:
    expected = f"workers.py: {message}\nRun launch/workers.py --help for the usage.\n"
    assert run(*arguments) == (2, "", expected)


def test_a_dry_run_prints_commands_for_a_shell() -> None:
    code, output, _ = run("--workers=2", "--gpus=0,1,2,3", "--python=py", "--dry-run", "--", "--workdir=a b")
    command = "py -m jaxfm.search '--workdir=a b' &"
    variables = [f"CUDA_VISIBLE_DEVICES={gpus} PYTHONUNBUFFERED=1" for gpus in ("0,1", "2,3")]
    assert code == 0 and output.splitlines() == [*(f"{each} {command}" for each in variables), "wait"]


def test_a_killed_worker_is_started_again_and_no_trial_is_lost(tmp_path: pathlib.Path) -> None:
    flags = (f"--folder={tmp_path}", "--trials=9", "--crash=3,5")
    code, _, errors = run("--workers=3", "--devices=2", STAND_IN, "--", *flags)
    assert code == 0, errors
    assert len(list(tmp_path.glob("trial-*"))) == 9 and len(list(tmp_path.glob("crashed-*"))) == 2
    assert errors.count("was killed by SIGKILL; starting it again") == 2
    devices = [path.read_text() for path in tmp_path.glob("worker-*")]
    assert devices == ["2"] * 5


def test_workers_that_may_not_start_again_leave_their_trials_to_the_others(tmp_path: pathlib.Path) -> None:
    flags = (f"--folder={tmp_path}", "--trials=6", "--crash=1")
    code, _, errors = run("--workers=2", "--crashes=0", STAND_IN, "--", *flags)
    assert (code, errors, len(list(tmp_path.glob("trial-*")))) == (0, "", 6)
    code, _, _ = run("--workers=1", "--crashes=0", STAND_IN, "--", f"--folder={tmp_path}", "--trials=8", "--crash=7")
    assert code == 128 + signal.SIGKILL


def test_a_mistake_in_the_search_ends_all(tmp_path: pathlib.Path) -> None:
    code, output, errors = run(
        "--workers=2", STAND_IN, f"--logs={tmp_path / 'logs'}", "--", f"--folder={tmp_path}", "--mistake"
    )
    assert code == 2 and "ended with exit code 2; ending the others" in errors
    assert "error: --space=x: there is no such file." in output + errors
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"worker0.log", "worker1.log"}


@pytest.mark.parametrize(("own", "code"), [(75, 75), (143, 75), (1, 1)])
def test_a_signal_is_passed_on(own: int, code: int, tmp_path: pathlib.Path) -> None:
    child = start("--workers=2", STAND_IN, "--", f"--folder={tmp_path}", f"--waits={own}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(list(tmp_path.glob("ready-*"))) < 2:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=30)
    assert (child.returncode, errors) == (code, "workers.py: passing SIGTERM on to all workers\n")
