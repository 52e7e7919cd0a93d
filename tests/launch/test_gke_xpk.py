"""launch/gke_xpk.sh, driven with a stand-in for xpk."""

import shutil

import pytest

from tests.launch import stand_ins
from tests.launch.stand_ins import FLAGS, ODD_FLAGS, StandIns

REQUIRED = (
    *("--name=ner", "--cluster=my-cluster", "--zone=us-west4-a", "--tpu-type=v5litepod-16"),
    "--image=us-docker.pkg.dev/my-project/images/jaxfm:1",
)

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launch scripts need bash")


@pytest.fixture
def xpk(tmp_path) -> StandIns:
    return StandIns(tmp_path, "xpk")


def test_the_workload_is_created(xpk):
    done = xpk.run("gke_xpk.sh", *REQUIRED, "--slices=2", "--project=my-project", "--", *FLAGS)
    assert done.code == 0, done.stderr
    (call,) = done.calls
    assert call.arguments[:2] == ["workload", "create"]
    assert {
        *("--workload=ner", "--cluster=my-cluster", "--zone=us-west4-a", "--project=my-project"),
        *("--tpu-type=v5litepod-16", "--num-slices=2", "--max-restarts=50", "--termination-grace-period-seconds=120"),
        "--docker-image=us-docker.pkg.dev/my-project/images/jaxfm:1",
        "--env=JAX_PLATFORMS=tpu,cpu",
        f"--command=exec python3 -m jaxfm.train {' '.join(FLAGS)}",
    } <= set(call.arguments)


def test_exit_code_75_and_crashes_restart_and_2_does_not(xpk):
    """xpk adds 42 and 127-255 to the codes it is given (xpk's commands/workload.py, get_restart_exit_codes)."""
    (call,) = xpk.run("gke_xpk.sh", *REQUIRED, "--", *FLAGS).calls
    (given,) = [word for word in call.arguments if word.startswith("--restart-on-exit-codes=")]
    codes = given.removeprefix("--restart-on-exit-codes=").split(",")
    assert {"1", "69", "75"} <= set(codes) and "2" not in codes


def test_the_training_gets_its_flags_as_they_were_given(xpk, tmp_path):
    (call,) = xpk.run("gke_xpk.sh", *REQUIRED, "--python=./python", "--", *ODD_FLAGS).calls
    command = call.arguments[-1].removeprefix("--command=")
    assert stand_ins.received(f"({command})", "python", tmp_path) == ["-m", "jaxfm.train", *ODD_FLAGS]
    assert "\n" not in command and "$(" not in command, "YAML and Kubernetes would read more into it"


def test_a_dry_run_prints_what_would_be_called(xpk):
    arguments = (*REQUIRED, "--priority=high", "--", "--config=it's", "--workdir=a b")
    dry = xpk.run("gke_xpk.sh", "--dry-run", *arguments)
    assert (dry.code, dry.calls) == (0, [])
    assert stand_ins.commands(dry.stdout) == [call.line for call in xpk.run("gke_xpk.sh", *arguments).calls]


def test_xpks_failure_is_handed_back(xpk):
    xpk.reply("xpk", replies=[("", "[XPK] ner already exists\n", 1)])
    done = xpk.run("gke_xpk.sh", *REQUIRED, "--", *FLAGS)
    assert done.code == 1 and "already exists" in done.stderr


MISTAKES = (
    ((), "--name='' is not a name"),
    ((*REQUIRED, "--name=-x", "--", *FLAGS), "--name='-x'"),
    ((*REQUIRED, "--cluster=a_b", "--", *FLAGS), "--cluster='a_b'"),
    ((*REQUIRED, "--zone=mars", "--", *FLAGS), "--zone='mars'"),
    ((*REQUIRED, "--tpu-type=h100-8", "--", *FLAGS), "--tpu-type='h100-8'"),
    ((*REQUIRED, "--image=a b", "--", *FLAGS), "--image='a b'"),
    ((*REQUIRED, "--priority=now", "--", *FLAGS), "--priority='now' is not one of"),
    ((*REQUIRED, "--restarts=x", "--", *FLAGS), "--restarts='x'"),
    ((*REQUIRED, "--grace=0", "--", *FLAGS), "--grace='0'"),
    ((*REQUIRED, *FLAGS), "unknown argument"),
    (REQUIRED, "need --config=FILE"),
    ((*REQUIRED, "--", *FLAGS, "--x=a\nb"), "line break"),
)


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_ends_in_one_message_and_nothing_is_called(xpk, arguments, message):
    done = xpk.run("gke_xpk.sh", *arguments)
    assert (done.code, done.calls, done.stdout) == (2, [], "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 2, done.stderr


def test_a_value_that_xpk_cannot_write_is_refused(xpk, tmp_path):
    (tmp_path / "my.env").write_text('NAME=a "quoted" value\n')
    done = xpk.run("gke_xpk.sh", *REQUIRED, f"--environment={tmp_path}/my.env", "--", *FLAGS)
    assert done.code == 2 and 'NAME=a "quoted" value' in done.stderr and done.calls == []


def test_a_missing_xpk_is_reported(xpk):
    done = xpk.run("gke_xpk.sh", *REQUIRED, "--", *FLAGS, without="xpk")
    assert done.code == 2 and "xpk is not on PATH" in done.stderr
