"""launch/tpu_vm.sh, driven with a stand-in for gcloud that records its arguments and ends as the test says."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch" / "tpu_vm.sh"
WHERE = ("--name=my-tpu", "--zone=us-west4-a")
FLAGS = ("--config=configs/ner.py", "--workdir=runs/ner")

# Every call appends its arguments to calls.jsonl. `describe` prints the number of hosts; the n-th `ssh` ends with the
# n-th exit code, and then runs no more.
GCLOUD = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if "describe" in sys.argv:
    answer = (here / "hosts").read_text()
    print(answer)
    sys.exit(0 if answer else 1)
codes = json.loads((here / "codes").read_text())
(here / "codes").write_text(json.dumps(codes[1:]))
sys.exit(codes[0])
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launch scripts need bash")


@dataclasses.dataclass
class Outcome:
    code: int
    stdout: str
    stderr: str
    calls: list[list[str]]

    @property
    def starts(self) -> list[list[str]]:
        return [call for call in self.calls if "ssh" in call]


@pytest.fixture
def launch(tmp_path):
    """Runs the script on a TPU VM of `hosts` hosts ("" = not found); its trainings end with `codes`, one by one."""
    stand_in = tmp_path / "gcloud"
    stand_in.write_text(GCLOUD.format(python=sys.executable))
    stand_in.chmod(0o755)

    def run(*arguments: str, hosts: str = "1", codes: tuple[int, ...] = (0,), gcloud: bool = True) -> Outcome:
        (tmp_path / "hosts").write_text(hosts)
        (tmp_path / "codes").write_text(json.dumps(codes))
        bash = str(shutil.which("bash"))
        path = f"{tmp_path}:{os.environ['PATH']}" if gcloud else str(tmp_path / "empty")
        done = subprocess.run(
            [bash, str(SCRIPT), *arguments], env={"PATH": path}, capture_output=True, text=True, check=False, timeout=60
        )
        record = tmp_path / "calls.jsonl"
        calls = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        return Outcome(done.returncode, done.stdout, done.stderr, calls)

    return run


def test_the_training_runs_once_on_all_workers_of_the_vm(launch):
    done = launch(*WHERE, "--", *FLAGS, "--config.seed=3")
    assert done.code == 0, done.stderr
    assert done.calls == [
        [
            "compute",
            "tpus",
            "tpu-vm",
            "describe",
            "my-tpu",
            "--zone=us-west4-a",
            "--format=value(networkEndpoints.len())",
        ],
        [
            *("compute", "tpus", "tpu-vm", "ssh", "my-tpu", "--zone=us-west4-a", "--worker=all"),
            f"--command=cd jaxfm && python3 -m jaxfm.train {' '.join(FLAGS)} --config.seed=3",
        ],
    ]


def test_the_options_reach_gcloud_and_the_vm(launch):
    done = launch(*WHERE, "--project=p-1", "--directory=src/j", "--python=.venv-3.11/bin/python", "--", *FLAGS)
    assert done.code == 0, done.stderr
    assert all("--project=p-1" in call for call in done.calls)
    assert done.starts[0][-1] == f"--command=cd src/j && .venv-3.11/bin/python -m jaxfm.train {' '.join(FLAGS)}"


def test_the_shell_of_the_vm_gets_the_flags_as_they_were_given(launch, tmp_path):
    odd = ("--config=a b.py", "--workdir=$HOME/it's; touch *", '--config.data.source=conll:"x"\\n')
    done = launch(*WHERE, f"--directory={tmp_path}", "--python=./recorder", "--", *odd)
    recorder = tmp_path / "recorder"
    recorder.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    recorder.chmod(0o755)
    remote = done.starts[0][-1].removeprefix("--command=")
    received = subprocess.run(["bash", "-c", remote], capture_output=True, text=True, check=True).stdout
    assert json.loads(received) == ["-m", "jaxfm.train", *odd]


def test_preemption_starts_the_same_command_again(launch):
    done = launch(*WHERE, "--pause=0", "--", *FLAGS, codes=(75, 75, 0))
    assert done.code == 0
    assert len(done.starts) == 3
    assert done.starts[0] == done.starts[1] == done.starts[2]
    assert "preempted; start 2 " in done.stderr and "preempted; start 3 " in done.stderr


@pytest.mark.parametrize("code", [1, 2, 255])
def test_any_other_exit_code_is_final_and_handed_back(launch, code):
    done = launch(*WHERE, "--pause=0", "--", *FLAGS, codes=(75, code, 0))
    assert done.code == code
    assert len(done.starts) == 2


def test_the_restarts_have_a_limit(launch):
    done = launch(*WHERE, "--pause=0", "--restarts=2", "--", *FLAGS, codes=(75, 75, 75, 0))
    assert done.code == 75
    assert len(done.starts) == 3
    assert "after 2 restarts; the same command resumes" in done.stderr


def test_a_dry_run_prints_the_two_commands_and_runs_nothing(launch):
    dry = launch(*WHERE, "--dry-run", "--", *FLAGS, "--config.name=a b")
    assert (dry.code, dry.calls) == (0, [])
    printed = [shlex.split(line) for line in dry.stdout.splitlines()]
    real = launch(*WHERE, "--", *FLAGS, "--config.name=a b")
    assert printed == [["gcloud", *call] for call in real.calls]


@pytest.mark.parametrize("hosts", ["4", "0"])
def test_only_a_single_host_is_accepted(launch, hosts):
    done = launch(*WHERE, "--", *FLAGS, hosts=hosts)
    assert (done.code, done.starts) == (2, [])
    assert f"'my-tpu' has {hosts} hosts" in done.stderr and "single-host" in done.stderr


def test_an_unknown_vm_is_reported(launch):
    done = launch(*WHERE, "--", *FLAGS, hosts="")
    assert (done.code, done.starts) == (2, [])
    assert "cannot describe the TPU VM 'my-tpu' in 'us-west4-a'" in done.stderr


MISTAKES = (
    ((), "--name='' is not the name"),
    (("--name=My_TPU", "--zone=us-west4-a", "--", *FLAGS), "--name='My_TPU'"),
    (("--name=--quiet", "--zone=us-west4-a", "--", *FLAGS), "--name='--quiet'"),
    (("--name=my-tpu", "--", *FLAGS), "--zone='' is not a zone"),
    ((*WHERE, "--restarts=often", "--", *FLAGS), "--restarts='often'"),
    ((*WHERE, "--pause=-1", "--", *FLAGS), "--pause='-1'"),
    ((*WHERE, "--directory=", "--", *FLAGS), "--directory and --python"),
    ((*WHERE, *FLAGS), "unknown argument '--config=configs/ner.py'"),
    ((*WHERE, "--", "--workdir=runs/ner"), "need --config=FILE"),
    ((*WHERE, "--", "--config=configs/ner.py"), "need --workdir=DIR"),
)


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_ends_in_one_message_and_nothing_runs(launch, arguments, message):
    done = launch(*arguments)
    assert (done.code, done.calls, done.stdout) == (2, [], "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr


def test_a_missing_gcloud_is_reported(launch):
    done = launch(*WHERE, "--", *FLAGS, gcloud=False)
    assert done.code == 2
    assert "gcloud is not on PATH" in done.stderr


def test_help_names_every_option(launch):
    done = launch("--help")
    assert (done.code, done.calls) == (0, [])
    options = set(re.findall(r"^    (--[a-z-]+)", SCRIPT.read_text(), flags=re.MULTILINE))
    assert {"--name", "--zone", "--restarts", "--dry-run"} <= options
    assert [option for option in sorted(options) if option not in done.stdout] == []
