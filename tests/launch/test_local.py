"""launch/local.py: its arguments, and how it ends processes; what it is told to run is a stand-in."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import local

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "local.py"
STAND_IN = "--program=tests.launch.local_stand_in"


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_other=1"},
    )


def run(*arguments: str) -> tuple[int, str, str]:
    child = start(*arguments)
    output, errors = child.communicate(timeout=60)
    return child.returncode, output, errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: --processes"),
        (("--processes=2",), "nothing to run: give the flags of the training after --"),
        (("--processes=0", "--", "--x"), "--processes=0: must be at least 1"),
        (("--processes=two", "--", "--x"), "argument --processes: invalid int value: 'two'"),
        (("--processes=2", "--devices=0", "--", "--x"), "--devices=0: must be at least 1"),
        (("--processes=2", "--restarts=-1", "--", "--x"), "--restarts=-1: must be at least 0"),
        (("--processes=2", "--port=70000", "--", "--x"), "--port=70000: must be at most 65535"),
        (("--processes=2", "--proc=3", "--", "--x"), "unrecognized arguments: --proc=3"),
        (("--processes=2", "--config=x"), "unrecognized arguments: --config=x"),
        (("--processes=2", "--", "--process_id=1"), "--process_id=1: is set by this launcher; leave it out"),
    ],
)
def test_a_mistake_is_one_message(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert local.main(arguments) == 2
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", f"local.py: {message}\nRun launch/local.py --help for the usage.\n")


def test_a_dry_run_prints_commands_for_a_shell_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=4 --xla_b=2")
    assert local.main(["--processes=2", "--devices=3", "--python=py", "--dry-run", "--", "--workdir=a b"]) == 0
    flags = "--xla_cpu_collective_call_terminate_timeout_seconds=600 --xla_a=1 --xla_b=2"
    variables = f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 XLA_FLAGS='{flags}' PYTHONUNBUFFERED=1"
    assert capsys.readouterr().out.splitlines() == [
        f"{variables} py -m jaxfm.train --coordinator=127.0.0.1:12345 --num_processes=2 --process_id={process} "
        "'--workdir=a b' &"
        for process in (0, 1)
    ] + ["wait"]


def test_only_process_0_is_shown_and_all_is_kept(tmp_path: pathlib.Path) -> None:
    ended = run("--processes=3", "--devices=2", STAND_IN, f"--logs={tmp_path / 'logs'}", "--", "process-0=0")
    assert ended == (0, "[0] process 0 of 3 with 2 devices\n", "")
    kept = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert kept == {f"process{process}.log": f"process {process} of 3 with 2 devices\n" for process in range(3)}


@pytest.mark.slow
def test_a_failure_ends_the_others_is_named_and_shown_and_gives_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "END_SECONDS", 2.0)
    monkeypatch.chdir(ROOT)
    options = local.parse(["--processes=3", STAND_IN, "--", "process-0=waits", "process-1=2", "process-2=waits"])
    with local.log_folder(None) as folder:
        launcher = local.Launcher(lambda text: print(text, file=sys.stderr))
        assert launcher.run(local.plan(options, 1234, os.environ), folder) == 2
    output, errors = capsys.readouterr()
    assert output.splitlines()[-1] == "[0] saved on SIGTERM"
    assert errors.splitlines() == [
        "process 1 ended with exit code 2; ending the others",
        "the last lines of process 1:",
        "[1] process 1 of 3 with 1 devices",
        "[1] process 1 has a mistake",
    ]


@pytest.mark.slow
def test_a_killed_process_is_named_and_one_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "END_SECONDS", 0.5)
    monkeypatch.setattr(local, "KILL_SECONDS", 0.5)
    monkeypatch.chdir(ROOT)
    said: list[str] = []
    launcher = local.Launcher(said.append)
    options = local.parse(["--processes=2", STAND_IN, "--", "process-0=deaf", "process-1=killed"])
    with local.log_folder(None) as folder:
        assert launcher.run(local.plan(options, 1234, os.environ), folder) == 128 + signal.SIGKILL
        assert (folder / "process0.log").is_file()
    assert said[0] == "process 1 was killed by SIGKILL; ending the others"


@pytest.mark.slow
def test_preempted_it_starts_again(tmp_path: pathlib.Path) -> None:
    words = (f"mark={tmp_path / 'mark'}", "process-0=75-once", "process-1=75-once")
    code, output, errors = run("--processes=2", "--restarts=3", STAND_IN, "--", *words)
    assert (code, output.count("process 0 of 2")) == (0, 2)
    assert errors == "local.py: stopped by preemption after a good save; starting again (1 of 3)\n"


@pytest.mark.slow
def test_preempted_without_restarts_it_hands_the_code_on() -> None:
    assert run("--processes=2", STAND_IN, "--", "process-0=75", "process-1=75")[0] == 75


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_is_passed_on_and_all_end_politely(number: int, code: int, tmp_path: pathlib.Path) -> None:
    child = start(
        "--processes=2", "--restarts=5", STAND_IN, f"--logs={tmp_path}", "--", "process-0=waits", "process-1=waits"
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not all(
        "ready" in path.read_text() if path.exists() else False
        for path in (tmp_path / "process0.log", tmp_path / "process1.log")
    ):
        time.sleep(0.05)
    child.send_signal(number)
    _, errors = child.communicate(timeout=60)
    name = signal.Signals(number).name
    assert (child.returncode, errors) == (code, f"local.py: passing {name} on to all processes\n")
    for process in (0, 1):
        assert re.search(rf"saved on {name}\n$", (tmp_path / f"process{process}.log").read_text())


@pytest.mark.slow
def test_the_others_are_given_time_to_end_with_their_own_messages() -> None:
    """Those that end because of another say so with 69; the one to blame is the one that did not."""
    code, _, errors = run("--processes=3", STAND_IN, "--", "process-0=69", "process-1=69", "process-2=1")
    assert (code, errors.splitlines()[0]) == (1, "local.py: process 2 ended with exit code 1; ending the others")
