"""launch/tpu_pod.sh, driven with stand-ins for gcloud and pip."""

import re
import shutil

import pytest

from tests.launch import stand_ins
from tests.launch.stand_ins import FLAGS, LAUNCH, ROOT, StandIns

WHERE = ("--name=pod", "--zone=us-west4-a")
NEW = ("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite")
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
ALL = ["--node=all", "--worker=all", "--batch-size=all"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the launch scripts need bash")


def ended(*states: str) -> tuple[str, str, int]:
    """The reply of gcloud in which host i says states[i]."""
    return "".join(f"jaxfm-worker host-{i} {state}\n" for i, state in enumerate(states)), "", 0


@pytest.fixture
def pod(tmp_path) -> StandIns:
    """gcloud, python3 (which builds the wheel) and rm; the TPUs are there unless a test adds a rule before."""
    return StandIns(tmp_path, "gcloud", "python3", "rm")


def run(pod, *arguments, states=("ACTIVE",), outcomes=(("0", "0"),), command="run", flags=FLAGS):
    pod.reply("gcloud", "describe", "value(state.state)", replies=[(f"{state}\n", "", 0) for state in states])
    pod.reply("gcloud", "tpu_worker.sh outcome", replies=[o if o[0] == "" else ended(*o) for o in outcomes])
    return pod.run("tpu_pod.sh", command, *WHERE, "--pause=0", *arguments, *(["--", *flags] if flags else []))


def test_create_asks_for_one_slice(pod):
    done = pod.run("tpu_pod.sh", "create", *WHERE, *NEW, "--spot", "--project=my-project")
    assert done.code == 0, done.stderr
    assert [call.line for call in done.calls] == [
        [*QUEUED, "create", "pod", "--zone=us-west4-a", "--project=my-project", "--node-id=pod", *NEW, "--spot"]
    ]


def test_create_asks_for_several_slices_by_a_prefix(pod):
    done = pod.run("tpu_pod.sh", "create", *WHERE, *NEW, "--slices=2", "--reserved")
    assert [call.line for call in done.calls] == [
        [*QUEUED, "create", "pod", "--zone=us-west4-a", "--node-count=2", "--node-prefix=pod", *NEW, "--reserved"]
    ]


@pytest.mark.slow
def test_install_brings_the_wheel_to_every_host(pod):
    done = run(pod, "--setup=sudo mount /data", command="install", flags=(), states=("PROVISIONING", "ACTIVE"))
    assert done.code == 0, done.stderr
    state, _, clean, build, folder, copy, setup, install = [call.line for call in done.calls]
    assert state[4:6] == ["describe", "pod"]
    assert clean == ["rm", "-rf", f"{ROOT}/build/lib"]
    assert build == ["python3", "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={ROOT}/dist", str(ROOT)]
    assert folder == [*QUEUED, "ssh", "pod", "--zone=us-west4-a", *ALL, "--command=mkdir -p jaxfm"]
    wheel = next(word for word in copy if word.endswith(".whl"))
    assert copy == [
        *(*QUEUED, "scp", "--recurse", wheel, f"{ROOT}/constraints.txt", f"{ROOT}/configs"),
        *(f"{LAUNCH}/tpu_worker.sh", "pod:jaxfm/", "--zone=us-west4-a", *ALL),
    ]
    assert setup[-1] == "--command=sudo mount /data"
    assert install[:-1] == [*QUEUED, "ssh", "pod", "--zone=us-west4-a", *ALL]
    steps = install[-1].removeprefix("--command=").split(" && ")
    name = wheel.rsplit("/", 1)[-1]
    assert steps[0] == "python3.11 -m venv jaxfm/venv"
    assert steps[1] == rf"jaxfm/venv/bin/pip install --quiet -c jaxfm/constraints.txt jaxfm/{name}\[tpu\]"
    assert steps[2].endswith(f"--no-deps jaxfm/{name}") and len(steps) == 3


@pytest.mark.slow
def test_the_wheel_that_is_copied_is_the_one_that_pip_builds(pod):
    copied = run(pod, command="install", flags=()).all("scp")[0]
    version = re.search(r'__version__ = "(.*)"', (ROOT / "jaxfm" / "__init__.py").read_text())
    assert version is not None
    assert f"{ROOT}/dist/jaxfm_encoders-{version[1]}-py3-none-any.whl" in copied.arguments


def test_run_starts_on_every_host_and_follows_the_first(pod):
    done = run(pod)
    assert done.code == 0, done.stderr
    state, start, follow, outcome = [call.line for call in done.calls]
    assert state == [*QUEUED, "describe", "pod", "--zone=us-west4-a", "--format=value(state.state)"]
    assert start[:-1] == [*QUEUED, "ssh", "pod", "--zone=us-west4-a", *ALL]
    assert start[-1].startswith("--command=cd jaxfm && bash tpu_worker.sh start JAX_PLATFORMS=")
    assert start[-1].endswith(f" venv/bin/python -m jaxfm.train {' '.join(FLAGS)}")
    assert follow[6:] == ["--zone=us-west4-a", "--node=0", "--worker=0", "--command=bash jaxfm/tpu_worker.sh follow +1"]
    assert outcome[:-1] == start[:-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("create", (*NEW, "--slices=3")),
        ("install", ("--setup=mount -t nfs 'a b'",)),
        ("run", (*NEW, "--directory=x/y", "--", "--config=it's", "--workdir=a b;*")),
        ("follow", ()),
        ("status", ()),
        ("stop", ()),
        ("delete", ()),
    ],
)
def test_a_dry_run_prints_what_would_be_called(pod, command, arguments):
    dry = pod.run("tpu_pod.sh", command, *WHERE, "--dry-run", *arguments)
    assert (dry.code, dry.calls, dry.stderr) == (0, [], "")
    pod.reply("gcloud", "describe", "value(state.state)", replies=[("ACTIVE\n", "", 0)])
    pod.reply("gcloud", "describe", replies=[("state:\n  state: ACTIVE\n", "", 0)])
    pod.reply("gcloud", "outcome", replies=[ended("0")])
    real = pod.run("tpu_pod.sh", command, *WHERE, *arguments)
    assert real.code == 0 and real.calls
    assert stand_ins.commands(dry.stdout) == [call.line for call in real.calls]


def test_a_dry_run_needs_no_gcloud(pod):
    assert pod.run("tpu_pod.sh", "delete", *WHERE, "--dry-run", without="gcloud").code == 0


@pytest.mark.slow
def test_preemption_starts_the_same_command_again(pod):
    done = run(pod, outcomes=[("75", "75"), ("75", "lost"), ("0", "0")])
    assert done.code == 0, done.stderr
    starts = [call.arguments for call in done.all("start")]
    assert len(starts) == 3 and starts[0] == starts[1] == starts[2]
    assert "restart 1 of at most 100" in done.stderr and "restart 2 of at most 100" in done.stderr


@pytest.mark.slow
def test_the_restarts_have_a_limit(pod):
    done = run(pod, "--restarts=1", outcomes=[("75", "75")])
    assert done.code == 75 and len(done.all("start")) == 2
    assert "after 1 restarts; the same command resumes" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("states", [("2", "2"), ("1", "2"), ("2", "75")])
def test_the_users_mistake_is_final(pod, states):
    done = run(pod, outcomes=[states])
    assert done.code == 2 and len(done.all("start")) == 1


CRASHES = (
    (("0", "1"), 1),
    (("134", "75"), 134),
    (("137", "69"), 137),
    (("69", "137", "69"), 137),  # the host that was lost, not those that miss it
    (("69", "lost"), 69),
)


@pytest.mark.slow
@pytest.mark.parametrize(("states", "code"), CRASHES)
def test_a_host_that_crashes_is_started_again_a_few_times(pod, states, code):
    done = run(pod, "--crashes=2", outcomes=[states])
    assert done.code == code and len(done.all("start")) == 3
    assert f"ended with exit code {code} after 2 restarts" in done.stderr


@pytest.mark.slow
def test_crashes_and_preemptions_are_counted_apart(pod):
    done = run(pod, "--crashes=1", "--restarts=2", outcomes=[("75",), ("1",), ("75",), ("0",)])
    assert done.code == 0 and len(done.all("start")) == 4


@pytest.mark.slow
def test_a_broken_connection_is_no_end(pod):
    pod.reply("gcloud", "follow", replies=[("", "Connection closed\n", 255), ("", "", 0)])
    done = run(pod, outcomes=[("running", "0"), ("0", "0")])
    assert done.code == 0, done.stderr
    assert len(done.all("start")) == 1
    assert [call.arguments[-1].split()[-1] for call in done.all("follow")] == ["+1", "0"]


@pytest.mark.slow
def test_tpus_that_are_taken_away_are_asked_for_again(pod):
    states = ["ACTIVE", "SUSPENDING", "SUSPENDED", "WAITING_FOR_RESOURCES", "ACTIVE"]
    done = run(pod, *NEW, "--spot", states=states, outcomes=[("", "ssh failed", 1), ("0", "0")])
    assert done.code == 0, done.stderr
    verbs = [" ".join(call.line[4:5]) if call.name == "gcloud" else call.name for call in done.calls]
    text = " ".join(verbs)
    assert text.index("delete") < text.index("create") < text.index("scp"), text
    assert done.all("delete")[0].arguments[-2:] == ["--force", "--quiet"]
    assert done.all("create")[0].arguments[-4:] == ["--node-id=pod", *NEW, "--spot"]
    assert len(done.all("start")) == 2
    last_start = max(i for i, call in enumerate(done.calls) if "start" in " ".join(call.arguments))
    assert last_start > verbs.index("scp")
    assert "WAITING_FOR_RESOURCES" in done.stderr


@pytest.mark.slow
def test_without_the_options_of_create_the_end_says_what_to_do(pod):
    done = run(pod, states=["ACTIVE", "SUSPENDED"], outcomes=[("", "", 255)])
    assert done.code == 75 and not done.all("create") and not done.all("delete")
    assert "were taken away; delete and create it, or give run the options of create" in done.stderr


def test_a_request_that_failed_is_not_repeated(pod):
    done = run(pod, *NEW, states=["WAITING_FOR_RESOURCES", "FAILED"])
    assert done.code == 1 and not done.all("create") and not done.all("start")
    assert "quota" in done.stderr


@pytest.mark.slow
def test_hosts_that_never_answer_end_the_wait(pod):
    done = run(pod, outcomes=[("", "", 255)])
    assert done.code == 1 and len(done.all("outcome")) == 10
    assert "no host answers" in done.stderr


@pytest.mark.slow
def test_a_start_that_fails_names_install(pod):
    pod.reply("gcloud", "tpu_worker.sh start", replies=[("", "bash: cd: jaxfm: No such file\n", 1)])
    done = run(pod, "--crashes=1")
    assert done.code == 1 and len(done.all("start")) == 2 and not done.all("follow")
    assert "'tpu_pod.sh install' does that" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("create", ("create",), "gcloud could not create 'pod'"),
        ("delete", ("delete",), "gcloud could not delete 'pod'"),
        ("install", ("describe",), "gcloud cannot describe 'pod' in 'us-west4-a'"),
        ("status", ("describe",), "gcloud cannot describe 'pod' in 'us-west4-a'"),
        ("install", ("mkdir",), "a host of 'pod' could not be reached"),
        ("install", ("scp",), "could not copy jaxfm to every host"),
        ("install", ("venv",), "a host of 'pod' could not install jaxfm"),
    ],
)
def test_gclouds_failure_ends_in_its_message_and_one_more(pod, command, words, message):
    pod.reply("gcloud", *words, replies=[("", "ERROR: Quota limit 'TPUS' exceeded\n", 1)])
    pod.reply("gcloud", "describe", replies=[("ACTIVE\n", "", 0)])
    done = pod.run("tpu_pod.sh", command, *WHERE, *(NEW if command == "create" else ()))
    assert done.code == 1
    assert "Quota limit" in done.stderr and message in done.stderr
    assert any(word in " ".join(done.calls[-1].arguments) for word in words), "nothing is called after it"


@pytest.mark.slow
def test_a_wheel_that_cannot_be_built_is_reported(pod):
    pod.reply("python3", "wheel", replies=[("", "error: metadata\n", 1)])
    done = run(pod, command="install", flags=())
    assert done.code == 1 and "pip could not build jaxfm" in done.stderr and not done.all("scp")


def test_status_asks_no_hosts_that_are_not_there(pod):
    pod.reply("gcloud", "describe", replies=[("name: pod\nstate:\n  state: SUSPENDED\n", "", 0)])
    done = pod.run("tpu_pod.sh", "status", *WHERE)
    assert done.code == 0 and "SUSPENDED" in done.stdout and not done.all("ssh")


MISTAKES = (
    ((), "the first argument must be a command, not ''"),
    (("start", *WHERE), "not 'start'"),
    (("delete", "--zone=us-west4-a"), "--name='' is not a name"),
    (("delete", "--name=My_TPU", "--zone=us-west4-a"), "--name='My_TPU'"),
    (("delete", "--name=--quiet", "--zone=us-west4-a"), "--name='--quiet'"),
    (("delete", f"--name=a{'b' * 40}", "--zone=us-west4-a"), "at most 40"),
    (("delete", "--name=pod"), "--zone='' is not a zone"),
    (("delete", "--name=pod", "--zone=us"), "--zone='us'"),
    (("delete", *WHERE, "--project=a b"), "--project='a b'"),
    (("delete", *WHERE, *FLAGS), "unknown argument '--config=configs/ner.py'"),
    (("delete", *WHERE, "--", *FLAGS), "only run takes flags of the training"),
    (("create", *WHERE), "--accelerator-type='' is not a type of TPU"),
    (("create", *WHERE, NEW[0]), "--runtime-version='' is not an image"),
    (("create", *WHERE, *NEW, "--slices=0"), "--slices='0'"),
    (("create", *WHERE, *NEW, "--spot", "--reserved"), "one of --spot and --reserved"),
    (("run", *WHERE, NEW[1], "--", *FLAGS), "--accelerator-type=''"),
    (("run", *WHERE, "--restarts=often", "--", *FLAGS), "--restarts='often'"),
    (("run", *WHERE, "--crashes=-1", "--", *FLAGS), "--crashes='-1'"),
    (("run", *WHERE, "--pause=1s", "--", *FLAGS), "--pause='1s'"),
    (("run", *WHERE, "--directory=-x", "--", *FLAGS), "--directory='-x'"),
    (("run", *WHERE, "--directory=a;b", "--", *FLAGS), "--directory='a;b'"),
    (("run", *WHERE, "--environment=no.env", "--", *FLAGS), "--environment='no.env'"),
    (("install", *WHERE, "--python="), "--python must not be empty"),
    (("run", *WHERE), "need --config=FILE"),
    (("run", *WHERE, "--", "--workdir=x"), "need --config=FILE"),
    (("run", *WHERE, "--", "--config=x"), "need --workdir=DIR"),
    (("run", *WHERE, "--", *FLAGS, "--config.name=a\nb"), "a line break"),
)


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_ends_in_one_message_and_nothing_is_called(pod, arguments, message):
    done = pod.run("tpu_pod.sh", *arguments)
    assert (done.code, done.calls, done.stdout) == (2, [], "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr


def test_a_missing_gcloud_is_reported(pod):
    done = pod.run("tpu_pod.sh", "delete", *WHERE, without="gcloud")
    assert done.code == 2 and "gcloud is not on PATH" in done.stderr
