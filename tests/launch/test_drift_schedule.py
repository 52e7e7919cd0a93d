"""launch/drift_schedule.py: a line of a crontab through cron and a shell, a CronJob against Kubernetes' fields."""

import importlib.util
import json
import pathlib
import shlex
from typing import Any

import pytest

from tests.launch.schemas import lost
from tests.launch.stand_ins import LAUNCH, StandIns, received

WHEN = "--when=0 6 * * 1"
WATCH = ("--run=/data/current", "--runs=/data/runs", "--switch")
POD = ("--name=drift", "--image=us-docker.pkg.dev/p/images/jaxfm:1", "--claim=runs")
FULL = ("--namespace=team", "--service-account=me", "--accelerator=nvidia-l4", "--gpus=2", "--cpu=8", "--memory=16Gi")
FULL = (*FULL, "--retries=1", "--grace=60", "--time-zone=Europe/Berlin", "--mount=/mnt/data", "--python=/venv/python")
# What cron, a shell or Kubernetes would change if it were not quoted.
ODD = ("--data=jsonl:/data/it's 5% new; touch *", "--labelled")
TRAIN = ("--config=configs/ner.py", "--data=conll:$HOME/`y`/$(X)/%s")
FLAGS = ("--", *ODD, "--", *TRAIN)


@pytest.fixture
def kubectl(tmp_path: pathlib.Path) -> StandIns:
    return StandIns(tmp_path, "kubectl")


def as_cron(line: str) -> tuple[str, str]:
    """The times of a line, and the command that cron gives to the shell: \\% is %, and % would end it."""
    fields = line.split(" ", 5)
    command = fields[5].replace("\\%", "\0")
    assert "%" not in command
    return " ".join(fields[:5]), command.replace("\0", "%")


def test_a_line_of_a_crontab_comes_through_cron_and_a_shell(kubectl: StandIns, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "a folder; touch x"
    folder.mkdir()
    own = ("--by=cron", WHEN, *WATCH, f"--directory={folder}", "--python=py")
    done = kubectl.run("drift_schedule.py", *own, *FLAGS)
    assert (done.code, done.calls, done.stdout.count("\n")) == (0, [], 1), done.stderr
    when, command = as_cron(done.stdout.rstrip("\n"))
    assert when == "0 6 * * 1"
    words = received(command, "py", folder)
    assert words == [str(LAUNCH / "drift_watch.py"), *WATCH, "--", *ODD, "--", *TRAIN]
    assert sorted(path.name for path in folder.iterdir()) == ["py"]  # nothing was touched
    logged = kubectl.run("drift_schedule.py", *own, "--log=/var/log/a b.log", *FLAGS).stdout
    assert logged.endswith(" >> '/var/log/a b.log' 2>&1\n")
    daily = kubectl.run("drift_schedule.py", "--by=cron", "--when=@daily", "--run=r", "--", "--data=x").stdout
    assert daily.startswith("@daily cd ") and daily.rstrip().endswith("--run=r -- --data=x")


def built(kubectl: StandIns, *options: str) -> dict[str, Any]:
    done = kubectl.run("drift_schedule.py", "--by=kubernetes", WHEN, *WATCH, *POD, *options, *FLAGS)
    assert done.code == 0, done.stderr
    (call,) = done.calls
    assert call.line == ["kubectl", "create", "--filename=-"]
    return json.loads(call.stdin)


@pytest.mark.skipif(importlib.util.find_spec("lightkube") is None, reason="needs lightkube")
@pytest.mark.parametrize("options", [(), FULL])
def test_the_manifest_keeps_to_the_schema(kubectl: StandIns, options: tuple[str, ...]) -> None:
    from lightkube.resources.batch_v1 import CronJob

    manifest = built(kubectl, *options)
    kept = CronJob.from_dict(manifest).to_dict()
    assert list(lost(manifest, kept, "$")) == []
    assert list(lost({**manifest, "spec": {**manifest["spec"], "when": 1}}, kept, "$")) == ["$.spec.when"]


def test_a_pod_calls_the_watch_with_the_flags_as_they_are(kubectl: StandIns) -> None:
    spec = built(kubectl)["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("0 6 * * 1", "Forbid")
    job = spec["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    flags = [word.replace("$(", "$$(") for word in (*WATCH, "--", *ODD, "--", *TRAIN)]  # Kubernetes makes $( of $$(
    assert container["command"] == ["python3", "-m", "jaxfm", "launch", "drift_watch", *flags]
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/data"}]
    rules = job["podFailurePolicy"]["rules"]
    by_code = {code: rule["action"] for rule in rules[:2] for code in rule["onExitCodes"]["values"]}
    assert by_code == {2: "FailJob", 3: "FailJob", 4: "FailJob", 75: "Ignore", 143: "Ignore"}
    assert rules[2] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    full = built(kubectl, *FULL)
    assert full["spec"]["timeZone"] == "Europe/Berlin" and full["metadata"]["namespace"] == "team"
    pod = full["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert resources["limits"] == {"nvidia.com/gpu": "2"} and full["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 1


def test_a_dry_run_is_for_a_shell(kubectl: StandIns) -> None:
    done = kubectl.run("drift_schedule.py", "--by=kubernetes", WHEN, *WATCH, *POD, "--dry-run", *FLAGS)
    assert (done.code, done.calls) == (0, [])
    first, rest = done.stdout.split("\n", 1)
    assert shlex.split(first)[:3] == ["kubectl", "create", "--filename=-"]
    assert json.loads(rest.rpartition("\nEND_OF_MANIFEST")[0]) == built(kubectl)


CRON, POD_AT = ("--by=cron", WHEN, *WATCH), ("--by=kubernetes", WHEN, *WATCH)


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        (("--by=cron", "--when=6 o'clock", *WATCH), FLAGS, "is not five fields as of a crontab"),
        (("--by=cron", "--when=0 6 * * 1\nroot", *WATCH), FLAGS, "is not five fields as of a crontab"),
        ((*CRON, "--image=a"), FLAGS, "--image: is of --by=kubernetes"),
        ((*POD_AT, *POD, "--log=a"), FLAGS, "--log: is of --by=cron"),
        (CRON[:4], ("--", "--data=a\nb"), "has no place for a backslash"),
        (CRON[:4], ("--", "--data=a\\%b"), "has no place for a backslash"),
        (POD_AT, FLAGS, "--name: is missing"),
        ((*POD_AT, *POD, "--gpus=1"), FLAGS, "--gpus: of which kind, --accelerator says"),
        ((*POD_AT, *POD, "--memory=much"), FLAGS, "'much' is not an amount"),
        (CRON, ("--", "--labelled"), "need --data=FILE or --data=URI"),
        (CRON[:3], FLAGS, "--runs: is missing"),
        (CRON, (*FLAGS, "--", "x"), "--: stands twice at most"),
    ],
)
def test_a_mistake_is_one_message(
    kubectl: StandIns, arguments: tuple[str, ...], flags: tuple[str, ...], message: str
) -> None:
    done = kubectl.run("drift_schedule.py", *arguments, *flags)
    assert (done.code, done.calls) == (2, []) and message in done.stderr
    assert done.stderr.startswith("drift_schedule.py: ")
