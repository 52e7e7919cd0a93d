"""launch/gke_jobset.py: the manifest against its schema and its meaning, and kubectl as a stand-in."""

import copy
import importlib.util
import json
import os
import re
import shutil
from typing import Any

import pytest

from tests.launch import schemas, stand_ins
from tests.launch.stand_ins import FLAGS, ODD_FLAGS, StandIns

REQUIRED = (
    *("--name=ner", "--image=us-docker.pkg.dev/my-project/images/jaxfm:1"),
    *("--accelerator=tpu-v5-lite-podslice", "--topology=4x4"),
)
EVERYTHING = (
    *("--slices=2", "--namespace=team", "--claim=runs", "--mount=/data", "--service-account=trainer", "--queue=tpus"),
    *("--spot", "--restarts=7", "--grace=60", "--python=/venv/bin/python"),
)

POD = ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec")

# What Kubernetes writes into the failed condition of a job (pkg/controller/job/pod_failure_policy.go), and the reason
# that goes with it; a pod that no rule matched ends a job with backoffLimit 0 like the last of these.
EXIT_MESSAGE = (
    "Container train for pod default/ner-slice-0-3-abcde failed with exit code {} matching FailJob rule at index {}"
)
EVICTION_MESSAGE = "Pod default/ner-slice-0-3-abcde has condition DisruptionTarget matching FailJob rule at index {}"
BACKOFF = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")


@pytest.fixture
def kubectl(tmp_path) -> StandIns:
    return StandIns(tmp_path, "kubectl")


def built(kubectl, *arguments, flags=FLAGS) -> dict[str, Any]:
    done = kubectl.run("gke_jobset.py", *REQUIRED, *arguments, "--", *flags)
    assert done.code == 0, done.stderr
    (call,) = done.calls
    assert call.line == ["kubectl", "create", "--filename=-"]
    return json.loads(call.stdin)


def parts(manifest: dict[str, Any]) -> tuple[dict, dict, dict]:
    """The job, the pod and the container."""
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    return job, pod, pod["containers"][0]


@pytest.mark.parametrize("arguments", [(), EVERYTHING, ("--topology=2x4", "--chips-per-host=8"), ("--topology=2x2x4",)])
def test_the_manifest_keeps_to_the_schemas(kubectl, arguments):
    assert schemas.errors(built(kubectl, *arguments)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "replicas"), 2, "unknown field `replicas` - at `$.spec`"),
        (("spec", "failurePolicy", "rules", 0, "action"), "Fail", "Invalid enum value 'Fail'"),
        (("spec", "failurePolicy", "rules", 0, "name"), None, "missing required field `name`"),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4", "Expected `int | null`, got `str`"),
        (("spec", "replicatedJobs", 0, "template", "spec", "completions"), True, "got `bool`"),
        ((*POD, "containers", 0, "ports", 0, "containerPort"), None, "missing required field `containerPort`"),
        ((*POD, "restartPolicy"), 1, "got `int`"),
        ((*POD, "container"), [], "unknown field $.spec.replicatedJobs[0].template.spec.template.spec.container"),
        ((*POD, "containers", 0, "resources", "limit"), {}, ".containers[0].resources.limit"),
    ],
)
def test_the_check_against_the_schemas_can_fail(kubectl, path, value, message):
    manifest = copy.deepcopy(built(kubectl))
    place: Any = manifest
    for step in path[:-1]:
        place = place[step]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    (error,) = schemas.errors(manifest)
    assert message.lower() in error.lower()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "hosts", "chips"),
    [
        ((), 4, "4"),
        (("--topology=16x16",), 64, "4"),
        (("--topology=2x2",), 1, "4"),
        (("--topology=1x1",), 1, "1"),
        (("--topology=2x4", "--chips-per-host=8"), 1, "8"),
        (("--accelerator=tpu-v5p-slice", "--topology=4x4x8"), 32, "4"),
    ],
)
def test_a_pod_a_host_with_its_chips(kubectl, arguments, hosts, chips):
    job, pod, container = parts(built(kubectl, *arguments))
    assert job["parallelism"] == job["completions"] == hosts and job["completionMode"] == "Indexed"
    assert container["resources"] == {"requests": {"google.com/tpu": chips}, "limits": {"google.com/tpu": chips}}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] in ("tpu-v5-lite-podslice", "tpu-v5p-slice")


def test_a_job_a_slice_each_on_a_node_pool_of_its_own(kubectl):
    manifest = built(kubectl, "--slices=3")
    assert manifest["spec"]["replicatedJobs"][0]["replicas"] == 3
    assert manifest["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }


def test_the_hosts_have_names_before_all_are_up(kubectl):
    network = built(kubectl)["spec"]["network"]
    assert network == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


@pytest.mark.slow
def test_several_slices_find_each_other_where_jax_looks(kubectl):
    source = importlib.util.find_spec("jax._src.clusters.cloud_tpu_cluster")
    assert source is not None and source.origin is not None
    with open(source.origin) as file:
        looked_up = set(re.findall(r"get_tpu_env_value\('(MEGASCALE_\w+)'\)", file.read()))
    assert len(looked_up) == 3
    manifest = built(kubectl, "--slices=2")
    set_for_slices = {one["name"]: one for one in parts(manifest)[2]["env"] if "valueFrom" in one}
    assert set_for_slices.keys() == looked_up
    coordinator = set_for_slices["MEGASCALE_COORDINATOR_ADDRESS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert coordinator == "metadata.annotations['jobset.sigs.k8s.io/coordinator']"
    assert manifest["spec"]["coordinator"]["replicatedJob"] == manifest["spec"]["replicatedJobs"][0]["name"]
    assert not [one for one in parts(built(kubectl))[2]["env"] if one["name"].startswith("MEGASCALE")]


def decided(manifest: dict[str, Any], code: int | None, evicted: bool = False) -> str:
    """What JobSet does after a host ended, by the rules of Kubernetes and of JobSet (failure_policy.go)."""
    reason, message = BACKOFF
    for index, rule in enumerate(parts(manifest)[0]["podFailurePolicy"]["rules"]):
        exits = rule.get("onExitCodes")
        if exits and (code in exits["values"]) == (exits["operator"] == "In"):
            reason, message = "PodFailurePolicy", EXIT_MESSAGE.format(code, index)
        elif evicted and any(one["type"] == "DisruptionTarget" for one in rule.get("onPodConditions", ())):
            reason, message = "PodFailurePolicy", EVICTION_MESSAGE.format(index)
        else:
            continue
        assert rule["action"] == "FailJob"
        break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns") or [""]
        if reason in rule["onJobFailureReasons"] and any(re.search(one, message) for one in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "evicted", "action"),
    [
        (2, False, "FailJobSet"),
        (75, False, "RestartJobSetAndIgnoreMaxRestarts"),
        (75, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (1, False, "RestartJobSet"),
        (134, False, "RestartJobSet"),
        (137, False, "RestartJobSet"),
    ],
)
def test_what_follows_which_end(kubectl, code, evicted, action):
    manifest = built(kubectl, "--restarts=5")
    assert decided(manifest, code, evicted) == action
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 5


def test_the_rules_need_these(kubectl):
    """Kubernetes refuses podFailurePolicy with another restartPolicy, and would replace single hosts by itself."""
    job, pod, container = parts(built(kubectl))
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    assert {rule["onExitCodes"]["containerName"] for rule in job["podFailurePolicy"]["rules"][:2]} == {
        container["name"]
    }


def test_the_options_reach_the_manifest(kubectl):
    manifest = built(kubectl, *EVERYTHING)
    _, pod, container = parts(manifest)
    assert manifest["metadata"]["namespace"] == "team"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpus"}
    assert pod["serviceAccountName"] == "trainer" and pod["terminationGracePeriodSeconds"] == 60
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["volumes"] == [{"name": "shared", "persistentVolumeClaim": {"claimName": "runs"}}]
    assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/data"}]
    assert container["command"][:3] == ["/venv/bin/python", "-m", "jaxfm.train"]
    assert "volumes" not in parts(built(kubectl))[1]


def as_kubernetes_gives_it(text: str, variables: dict[str, str]) -> str:
    """Kubernetes' expansion: $(NAME) is the variable of that name if there is one, $$ is $."""

    def expand(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([A-Za-z0-9_.-]*)\)", expand, text)


def test_the_training_gets_its_flags_as_they_were_given(kubectl, tmp_path):
    (tmp_path / "my.env").write_text("X=1\nY=$(X) $HOME\n")
    flags = (*ODD_FLAGS, "--config.name=$(X)", "--config.note=a\nb")
    container = parts(built(kubectl, f"--environment={tmp_path}/my.env", flags=flags))[2]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert [as_kubernetes_gives_it(word, variables) for word in container["command"][3:]] == list(flags)
    assert as_kubernetes_gives_it(variables["Y"], variables) == "$(X) $HOME"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="what is printed is for a shell")
def test_a_dry_run_prints_what_would_be_done(kubectl, tmp_path):
    arguments = (*REQUIRED, *EVERYTHING, "--", *ODD_FLAGS)
    dry = kubectl.run("gke_jobset.py", "--dry-run", *arguments)
    assert (dry.code, dry.calls) == (0, [])
    path = tmp_path / "printed"
    path.write_text(dry.stdout)
    (given,) = kubectl.run(os.path.relpath(path, stand_ins.LAUNCH)).calls
    (real,) = kubectl.run("gke_jobset.py", *arguments).calls
    assert given.line == real.line and json.loads(given.stdin) == json.loads(real.stdin)


def test_kubectls_failure_is_handed_back(kubectl):
    kubectl.reply("kubectl", replies=[("", 'Error: jobsets.jobset.x-k8s.io "ner" already exists\n', 1)])
    done = kubectl.run("gke_jobset.py", *REQUIRED, "--", *FLAGS)
    assert done.code == 1 and "already exists" in done.stderr


MISTAKES = (
    ((), "the following arguments are required: --name"),
    ((*REQUIRED, "--name=My_Run", "--", *FLAGS), "--name: 'My_Run' is not a name"),
    ((*REQUIRED, f"--name=a{'b' * 40}", "--", *FLAGS), "at most 40"),
    ((*REQUIRED, "--image=a b", "--", *FLAGS), "--image: 'a b'"),
    ((*REQUIRED, "--accelerator=tpu-v9", "--", *FLAGS), "tpu-v5p-slice"),
    ((*REQUIRED, "--topology=16", "--", *FLAGS), "--topology: '16' is not a topology such as 4x4"),
    ((*REQUIRED, "--topology=3x3", "--", *FLAGS), "--topology=3x3 has 9 chips, not a multiple of 4 a host"),
    ((*REQUIRED, "--topology=2x2", "--slices=2", "--", *FLAGS), "several slices need a topology of several hosts"),
    ((*REQUIRED, "--slices=0", "--", *FLAGS), "--slices: '0' is not a whole number from 1 on"),
    ((*REQUIRED, "--restarts=many", "--", *FLAGS), "--restarts: 'many'"),
    ((*REQUIRED, "--claim=A", "--", *FLAGS), "--claim: 'A'"),
    ((*REQUIRED, "--mount=data", "--", *FLAGS), "--mount: 'data' is not an absolute path"),
    ((*REQUIRED, "--environment=no.env", "--", *FLAGS), "no.env"),
    ((*REQUIRED, *FLAGS), "unrecognized arguments: --config=configs/ner.py"),
    (REQUIRED, "need --config=FILE"),
    ((*REQUIRED, "--", "--workdir=x"), "need --config=FILE"),
    ((*REQUIRED, "--", "--config=x"), "need --workdir=DIR"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_ends_in_one_message_and_nothing_is_called(kubectl, arguments, message):
    done = kubectl.run("gke_jobset.py", *arguments)
    assert (done.code, done.calls, done.stdout) == (2, [], "")
    assert message in done.stderr and len(done.stderr.splitlines()) == 2, done.stderr


def test_a_missing_kubectl_is_reported(kubectl):
    done = kubectl.run("gke_jobset.py", *REQUIRED, "--", *FLAGS, without="kubectl")
    assert done.code == 2 and "kubectl is not on PATH" in done.stderr
