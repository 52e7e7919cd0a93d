"""launch/slurm_workers.sh: what sbatch gets, and what a worker's script does, run with stand-ins."""

import pathlib
import shutil

import pytest

from tests.launch.stand_ins import ODD_FLAGS, StandIns
from tests.launch.test_slurm import directives, job

REQUIRED = ("--name=search", "--workers=4", "--gpus=2", "--time=12:00:00")
FLAGS = ("--config=configs/ner.py", "--space=s.json", "--workdir=/data/search", "--storage=journal:/data/journal")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launch scripts need bash")


@pytest.fixture
def slurm(tmp_path: pathlib.Path) -> StandIns:
    return StandIns(tmp_path, "sbatch", "srun", "scontrol")


def script(slurm: StandIns, tmp_path: pathlib.Path, *arguments: str, flags: tuple[str, ...] = FLAGS) -> str:
    done = slurm.run("slurm_workers.sh", *REQUIRED, *arguments, "--", *flags, cwd=tmp_path)
    assert done.code == 0, done.stderr
    (call,) = done.calls
    return call.stdin.replace("set -u", "SLURM_JOB_ID=7\nset -u")


def test_an_array_of_single_processes_with_gpus_of_their_own(slurm: StandIns, tmp_path: pathlib.Path) -> None:
    batch = script(slurm, tmp_path, "--cpus=3", "--partition=gpu")
    found = directives(batch)
    assert (found["array"], found["nodes"], found["ntasks"], found["gpus-per-node"]) == ("0-3", "1", "1", "2")
    assert (found["cpus-per-task"], found["partition"], found["output"]) == ("6", "gpu", "logs/search-%A-%a.log")
    assert {"requeue", "open-mode"} <= found.keys() and found["signal"] == "TERM@120"
    done = job(slurm, tmp_path, batch, [0])
    (srun,) = done.calls
    assert done.code == 0 and srun.arguments == ["--cpus-per-task=6", "python3", "-m", "jaxfm.search", *FLAGS]


@pytest.mark.parametrize(
    ("codes", "code", "starts"), [([75], 75, 1), ([143], 75, 1), ([1, 0], 0, 2), ([2], 2, 1), ([1, 1], 1, 2)]
)
def test_how_a_worker_ends(slurm: StandIns, tmp_path: pathlib.Path, codes: list[int], code: int, starts: int) -> None:
    done = job(slurm, tmp_path, script(slurm, tmp_path, "--crashes=1"), codes)
    assert done.code == code and len([call for call in done.calls if call.name == "srun"]) == starts
    requeued = [call.line for call in done.calls if call.name == "scontrol"]
    assert requeued == ([["scontrol", "requeue", "7"]] if code == 75 else [])


def test_flags_reach_the_search_as_they_were_given(slurm: StandIns, tmp_path: pathlib.Path) -> None:
    odd = (*ODD_FLAGS, "--storage=journal:a b")
    done = job(slurm, tmp_path, script(slurm, tmp_path, flags=odd), [0])
    assert done.calls[0].arguments[-len(odd) :] == list(odd)


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        (("--workers=0",), FLAGS, "--workers='0' is not a number of workers"),
        ((), FLAGS[:3], "several nodes need --storage=journal:FILE or a database after --"),
        (("--time=soon",), FLAGS, "--time='soon' is not a time limit"),
        (("--wait=3",), FLAGS, "unknown argument '--wait=3'"),
    ],
)
def test_a_mistake_is_one_message(
    slurm: StandIns, tmp_path: pathlib.Path, arguments: tuple[str, ...], flags: tuple[str, ...], message: str
) -> None:
    done = slurm.run("slurm_workers.sh", *REQUIRED, *arguments, "--", *flags, cwd=tmp_path)
    assert (done.code, done.calls, done.stdout) == (2, [], "") and message in done.stderr
