"""launch/gke_workers.py: the manifest against the fields of Kubernetes and its meaning, and kubectl as a stand-in."""

import importlib.util
import json
import pathlib
from typing import Any

import pytest

from tests.launch.schemas import lost
from tests.launch.stand_ins import StandIns

REQUIRED = ("--name=search", "--workers=4", "--image=us-docker.pkg.dev/p/images/jaxfm:1", "--claim=runs")
GPU, TPU = ("--accelerator=nvidia-l4",), ("--accelerator=tpu-v5-lite-podslice", "--topology=2x4")
FLAGS = ("--config=configs/ner.py", "--space=s.json", "--workdir=/data/s$(X)", "--storage=journal:/data/journal")
EVERYTHING = (*TPU, "--spot", "--queue=q", "--namespace=team", "--service-account=me", "--crashes=1", "--grace=60")


@pytest.fixture
def kubectl(tmp_path: pathlib.Path) -> StandIns:
    return StandIns(tmp_path, "kubectl")


def built(kubectl: StandIns, *arguments: str) -> dict[str, Any]:
    done = kubectl.run("gke_workers.py", *REQUIRED, *arguments, "--", *FLAGS)
    assert done.code == 0, done.stderr
    (call,) = done.calls
    assert call.line == ["kubectl", "create", "--filename=-"]
    return json.loads(call.stdin)


@pytest.mark.skipif(importlib.util.find_spec("lightkube") is None, reason="needs lightkube")
@pytest.mark.parametrize("arguments", [GPU, EVERYTHING])
def test_the_manifest_keeps_to_the_schema(kubectl: StandIns, arguments: tuple[str, ...]) -> None:
    from lightkube.resources.batch_v1 import Job

    manifest = built(kubectl, *arguments)
    kept = Job.from_dict(manifest).to_dict()
    assert list(lost(manifest, kept, "$")) == []
    assert list(lost(manifest | {"spec": {**manifest["spec"], "replicas": 2}}, kept, "$")) == ["$.spec.replicas"]


def test_a_pod_a_worker_with_devices_of_its_own(kubectl: StandIns) -> None:
    spec = built(kubectl, *GPU, "--gpus=2")["spec"]
    assert (spec["parallelism"], spec["completions"], spec["completionMode"]) == (4, 4, "Indexed")
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"}
    # $(X) would be replaced by Kubernetes.
    assert container["command"] == ["python3", "-m", "jaxfm.search", *(flag.replace("$(", "$$(") for flag in FLAGS)]
    assert {"name": "JAX_PLATFORMS", "value": "cuda,cpu"} in container["env"]
    pod = built(kubectl, *TPU)["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": "8"}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"


def test_what_follows_the_end_of_a_worker(kubectl: StandIns) -> None:
    spec = built(kubectl, *GPU, "--crashes=5")["spec"]
    assert spec["backoffLimitPerIndex"] == 5
    rules = spec["podFailurePolicy"]["rules"]
    by_code = {
        code: rule["action"] for rule in rules if "onExitCodes" in rule for code in rule["onExitCodes"]["values"]
    }
    assert by_code == {2: "FailJob", 75: "Ignore", 143: "Ignore"}
    assert rules[2] == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


@pytest.mark.parametrize(
    ("arguments", "flags", "message"),
    [
        (("--accelerator=tpu-v5-lite-podslice",), FLAGS, "--topology: is missing"),
        ((TPU[0], "--topology=4x4"), FLAGS, "--topology=4x4: is of several hosts"),
        ((*GPU, "--topology=2x2"), FLAGS, "--topology=2x2: is of TPUs"),
        (("--accelerator=tpu-v9",), FLAGS, "--accelerator=tpu-v9: is not one of tpu-v4-podslice"),
        (GPU, FLAGS[:3], "several machines need --storage=journal:FILE"),
        (GPU, (FLAGS[0], *FLAGS[2:]), "the flags of the search, after --, need --space=..."),
        ((*GPU, "--workers=none"), FLAGS, "'none' is not a whole number"),
    ],
)
def test_a_mistake_is_one_message(
    kubectl: StandIns, arguments: tuple[str, ...], flags: tuple[str, ...], message: str
) -> None:
    done = kubectl.run("gke_workers.py", *REQUIRED, *arguments, "--", *flags)
    assert (done.code, done.calls) == (2, []) and message in done.stderr
    assert done.stderr.startswith("gke_workers.py: ")
