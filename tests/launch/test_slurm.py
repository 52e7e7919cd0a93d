"""launch/slurm.sh: what sbatch gets, and what the batch script does, run with stand-ins for srun and scontrol."""

import os
import re
import shutil
import subprocess

import pytest

from tests.launch import stand_ins
from tests.launch.stand_ins import FLAGS, ODD_FLAGS, Outcome, StandIns

REQUIRED = ("--name=ner", "--nodes=2", "--gpus=8", "--time=12:00:00")

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launch scripts need bash")


@pytest.fixture
def slurm(tmp_path) -> StandIns:
    return StandIns(tmp_path, "sbatch", "srun", "scontrol")


def script(slurm, tmp_path, *arguments, flags=FLAGS) -> str:
    """The batch script, as sbatch gets it."""
    done = slurm.run("slurm.sh", *REQUIRED, *arguments, "--", *flags, cwd=tmp_path)
    assert done.code == 0, done.stderr
    (call,) = done.calls
    assert call.line == ["sbatch"]
    return call.stdin


def job(slurm, tmp_path, batch: str, codes: list[int]) -> Outcome:
    """Runs a batch script as SLURM would; the trainings end with these codes, one by one."""
    slurm.reply("srun", replies=[("", "", code) for code in codes])
    path = tmp_path / "script"
    path.write_text(batch)
    # A launch script's stand-ins serve here too: the batch script takes the place of one.
    return slurm.run(os.path.relpath(path, stand_ins.LAUNCH), cwd=tmp_path)


def directives(batch: str) -> dict[str, str]:
    found = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", batch, flags=re.MULTILINE))
    last = batch.rindex("#SBATCH")
    before = [line for line in batch[:last].splitlines() if line.strip() and not line.startswith("#")]
    assert before == [], "sbatch reads no further than the first line that is no comment"
    return found


def test_one_process_a_gpu_that_sees_all_gpus_of_its_node(slurm, tmp_path):
    batch = script(slurm, tmp_path)
    found = directives(batch)
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("2", "8", "8")
    assert "gpus-per-task" not in found and "gres" not in found
    assert "--gpu-bind=none" in batch


def test_jax_finds_its_place_by_what_srun_sets():
    """The script relies on it: process SLURM_PROCID of SLURM_NTASKS, on the GPU SLURM_LOCALID."""
    from jax._src.clusters import SlurmCluster

    given = {
        **{"SLURM_JOB_ID": "4", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS": "16"},
        **{"SLURM_PROCID": "11", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_NODES": "2"},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        assert SlurmCluster.is_env_present()
        assert (SlurmCluster.get_process_count(), SlurmCluster.get_process_id()) == (16, 11)
        assert SlurmCluster.get_local_process_id() == 3
        assert SlurmCluster.get_coordinator_address(None, None).startswith("gpu07:")


def test_the_job_can_be_requeued_and_keeps_its_log(slurm, tmp_path):
    found = directives(script(slurm, tmp_path, "--logs=my/logs", "--grace=300"))
    assert {"requeue", "open-mode"} <= found.keys() and found["open-mode"] == "append"
    assert found["output"] == "my/logs/ner-%j.log" and (tmp_path / "my" / "logs").is_dir()
    assert found["signal"] == "TERM@300", "without B: it goes to the training, not to the script"


@pytest.mark.slow
def test_where_and_on_whose_account(slurm, tmp_path):
    assert not {"partition", "account", "qos"} & directives(script(slurm, tmp_path)).keys()
    found = directives(script(slurm, tmp_path, "--partition=gpu,gpu2", "--account=lab", "--qos=high"))
    assert (found["partition"], found["account"], found["qos"]) == ("gpu,gpu2", "lab", "high")


def test_the_training_runs_once_with_its_environment(slurm, tmp_path):
    batch = script(slurm, tmp_path, "--cpus=4")
    done = job(slurm, tmp_path, batch, [0])
    assert done.code == 0, done.stderr
    (srun,) = done.calls
    assert srun.arguments[-5:] == ["python3", "-m", "jaxfm.train", *FLAGS]
    assert {"--cpus-per-task=4", "--kill-on-bad-exit=0", "--wait=300"} <= set(srun.arguments)
    exports = subprocess.run(
        ["bash", "-c", "\n".join(line for line in batch.splitlines() if line.startswith("export ")) + "\nenv"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout
    assert "XLA_FLAGS=--xla_gpu_enable_latency_hiding_scheduler=true\n" in exports
    assert "JAX_PLATFORMS=cuda,cpu\n" in exports


def test_the_training_gets_its_flags_as_they_were_given(slurm, tmp_path):
    done = job(slurm, tmp_path, script(slurm, tmp_path, flags=ODD_FLAGS), [0])
    assert done.calls[0].arguments[-len(ODD_FLAGS) :] == list(ODD_FLAGS)


@pytest.mark.slow
def test_exit_code_75_requeues_the_job(slurm, tmp_path):
    batch = script(slurm, tmp_path).replace("set -u", "SLURM_JOB_ID=1234\nset -u")
    done = job(slurm, tmp_path, batch, [75])
    assert done.code == 75
    assert [call.line for call in done.calls][1:] == [["scontrol", "requeue", "1234"]]


@pytest.mark.slow
def test_a_requeue_that_fails_says_what_to_do(slurm, tmp_path):
    slurm.reply("scontrol", replies=[("", "scontrol: error: Requested operation not supported\n", 1)])
    batch = script(slurm, tmp_path).replace("set -u", "SLURM_JOB_ID=1234\nset -u")
    done = job(slurm, tmp_path, batch, [75])
    assert done.code == 75 and "submit it again to resume" in done.stdout


@pytest.mark.slow
def test_the_users_mistake_is_final(slurm, tmp_path):
    done = job(slurm, tmp_path, script(slurm, tmp_path), [2])
    assert done.code == 2 and len(done.calls) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("codes", "code", "starts"), [([1, 0], 0, 2), ([134, 137, 1], 1, 3), ([1, 2], 2, 2)])
def test_a_crash_is_started_again_a_few_times(slurm, tmp_path, codes, code, starts):
    done = job(slurm, tmp_path, script(slurm, tmp_path, "--crashes=2"), codes)
    assert done.code == code and len(done.calls) == starts
    assert "restart 1 of at most 2" in done.stdout


@pytest.mark.slow
def test_a_dry_run_prints_what_would_be_done(slurm, tmp_path):
    arguments = (*REQUIRED, "--partition=gpu", "--", *ODD_FLAGS)
    dry = slurm.run("slurm.sh", "--dry-run", *arguments, cwd=tmp_path)
    assert (dry.code, dry.calls) == (0, []) and not (tmp_path / "logs").exists()
    real = slurm.run("slurm.sh", *arguments, cwd=tmp_path)
    # What is printed, given to a shell, does the same.
    path = tmp_path / "printed"
    path.write_text(dry.stdout)
    (tmp_path / "logs").rmdir()
    again = slurm.run(os.path.relpath(path, stand_ins.LAUNCH), cwd=tmp_path)
    assert again.calls == real.calls and (tmp_path / "logs").is_dir()


def test_sbatchs_failure_is_handed_back(slurm, tmp_path):
    slurm.reply("sbatch", replies=[("", "sbatch: error: Invalid account\n", 1)])
    done = slurm.run("slurm.sh", *REQUIRED, "--", *FLAGS, cwd=tmp_path)
    assert done.code == 1 and "Invalid account" in done.stderr


MISTAKES = (
    ((), "--name='' is not a name"),
    ((*REQUIRED, "--name=a b", "--", *FLAGS), "--name='a b'"),
    ((*REQUIRED, "--nodes=0", "--", *FLAGS), "--nodes='0'"),
    ((*REQUIRED, "--gpus=all", "--", *FLAGS), "--gpus='all'"),
    ((*REQUIRED, "--cpus=", "--", *FLAGS), "--cpus=''"),
    ((*REQUIRED, "--time=12h", "--", *FLAGS), "--time='12h' is not a time limit"),
    ((*REQUIRED, "--partition=a\n#SBATCH --x", "--", *FLAGS), "--partition="),
    ((*REQUIRED, "--account=-x", "--", *FLAGS), "--account='-x'"),
    ((*REQUIRED, "--qos=a b", "--", *FLAGS), "--qos='a b'"),
    ((*REQUIRED, "--logs=a b", "--", *FLAGS), "--logs='a b'"),
    ((*REQUIRED, "--crashes=x", "--", *FLAGS), "--crashes='x'"),
    ((*REQUIRED, *FLAGS), "unknown argument"),
    ((*REQUIRED, "--", FLAGS[0]), "need --workdir=DIR"),
)


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_ends_in_a_message_and_nothing_is_submitted(slurm, tmp_path, arguments, message):
    done = slurm.run("slurm.sh", *arguments, cwd=tmp_path)
    assert (done.code, done.calls, done.stdout) == (2, [], "")
    assert message in done.stderr and done.stderr.endswith("--help for the usage.\n")


def test_a_missing_sbatch_is_reported(slurm, tmp_path):
    done = slurm.run("slurm.sh", *REQUIRED, "--", *FLAGS, cwd=tmp_path, without="sbatch")
    assert done.code == 2 and "sbatch is not on PATH" in done.stderr
