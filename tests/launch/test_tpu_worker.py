"""launch/tpu_worker.sh run for real, over command lines that tpu_pod.sh gives to gcloud."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.stand_ins import LAUNCH, ODD_FLAGS, StandIns

pytestmark = pytest.mark.skipif(
    shutil.which("setsid") is None or not pathlib.Path("/proc/self/cmdline").exists(), reason="the hosts run Linux"
)

# A training: writes down what it got, says so, and ends with the code in the file `code`; "wait" waits for SIGTERM.
TRAINING = """#!{python}
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path("got.json").write_text(json.dumps([sys.argv[1:], os.environ.get("LIBTPU_INIT_ARGS")]))
print("step 1", flush=True)
code = pathlib.Path("code").read_text()
while code == "wait":
    time.sleep(0.05)
sys.exit(int(code))
"""


class Host:
    """A host of a pod: its home directory, and what gcloud would run there."""

    def __init__(self, home: pathlib.Path):
        self.home, self.folder = home, home / "jaxfm"
        (self.folder / "venv" / "bin").mkdir(parents=True)
        shutil.copy(LAUNCH / "tpu_worker.sh", self.folder)
        python = self.folder / "venv" / "bin" / "python"
        python.write_text(TRAINING.format(python=sys.executable))
        python.chmod(0o755)
        pod = StandIns(home, "gcloud")
        pod.reply("gcloud", "describe", replies=[("ACTIVE\n", "", 0)])
        pod.reply("gcloud", "outcome", replies=[("jaxfm-worker h 0\n", "", 0)])
        calls = pod.run("tpu_pod.sh", "run", "--name=pod", "--zone=us-west4-a", "--pause=0", "--", *ODD_FLAGS).calls
        given = [call.arguments[-1].removeprefix("--command=") for call in calls if "ssh" in call.arguments]
        stop = pod.run("tpu_pod.sh", "stop", "--name=pod", "--zone=us-west4-a").calls[0]
        self.commands = dict(zip(("start", "follow", "outcome"), given, strict=True))
        self.commands["stop"] = stop.arguments[-1].removeprefix("--command=")

    def do(self, what: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", self.commands[what]], cwd=self.home, capture_output=True, text=True, check=False, timeout=60
        )

    def outcome(self) -> str:
        word, _, state = self.do("outcome").stdout.split()
        assert word == "jaxfm-worker"
        return state

    def ends(self) -> str:
        """How the training ended, once it has."""
        for _ in range(400):
            if (state := self.outcome()) != "running":
                return state
            time.sleep(0.05)
        raise AssertionError("it still runs")


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    if host.outcome() == "running":
        os.killpg(int((host.folder / "run" / "pid").read_text()), signal.SIGKILL)


def test_nothing_was_started(host):
    assert host.outcome() == "none"
    assert host.do("follow").returncode == 1


def test_the_training_gets_its_flags_and_its_environment(host):
    (host.folder / "code").write_text("0")
    assert host.do("start").returncode == 0
    assert host.ends() == "0"
    arguments, libtpu = json.loads((host.folder / "got.json").read_text())
    assert arguments == ["-m", "jaxfm.train", *ODD_FLAGS]
    assert libtpu is not None and libtpu.startswith("--xla_tpu_")


@pytest.mark.slow
@pytest.mark.parametrize("code", ["1", "2", "75", "137"])
def test_its_exit_code_is_kept(host, code):
    (host.folder / "code").write_text(code)
    host.do("start")
    assert host.ends() == code
    assert host.do("follow").stdout == "step 1\n"


@pytest.mark.slow
def test_stop_lets_it_save(host):
    (host.folder / "code").write_text("wait")
    host.do("start")
    follower = subprocess.Popen(
        ["bash", "-c", host.commands["follow"]],
        cwd=host.home,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert follower.stdout is not None and follower.stdout.readline() == "step 1\n"  # it has set its handler by now
    assert host.outcome() == "running"
    assert host.do("stop").returncode == 0
    assert host.ends() == "75"
    assert follower.wait(timeout=30) == 0
    follower.stdout.close()
    assert host.do("stop").returncode == 0, "nothing to stop is no failure"


@pytest.mark.slow
def test_a_second_start_leaves_the_first_alone(host):
    (host.folder / "code").write_text("wait")
    host.do("start")
    pid = (host.folder / "run" / "pid").read_text()
    second = host.do("start")
    assert second.returncode == 0 and "left as it is" in second.stdout
    assert (host.folder / "run" / "pid").read_text() == pid


@pytest.mark.slow
def test_a_restart_keeps_the_log_before(host):
    (host.folder / "code").write_text("75")
    for _ in range(2):
        host.do("start")
        assert host.ends() == "75"
    assert (host.folder / "run" / "log.previous").read_text() == "step 1\n" == (host.folder / "run" / "log").read_text()


@pytest.mark.slow
def test_an_end_without_a_code_is_lost(host):
    (host.folder / "code").write_text("wait")
    host.do("start")
    os.killpg(int((host.folder / "run" / "pid").read_text()), signal.SIGKILL)
    assert host.ends() == "lost"


@pytest.mark.slow
def test_a_number_that_another_program_has_now_is_lost(host):
    (host.folder / "run").mkdir()
    (host.folder / "run" / "pid").write_text(f"{os.getpid()}\n")
    assert host.outcome() == "lost"


def test_an_end_between_two_looks_is_not_lost(host):
    """The training writes its exit code after the first look for it, and is gone at the look at its process."""
    run, tools = host.folder / "run", host.home / "tools"
    run.mkdir()
    tools.mkdir()
    (run / "pid").write_text(str(os.getpid()))  # a process that is there and not the training
    (tools / "tr").write_text("#!/bin/sh\necho 0 > run/exit\n")
    (tools / "tr").chmod(0o755)
    done = subprocess.run(
        ["bash", str(host.folder / "tpu_worker.sh"), "outcome"],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "0"
