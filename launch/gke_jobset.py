#!/usr/bin/env python3
"""Trains on TPU slices of a GKE cluster: builds the manifest of a JobSet and creates it with kubectl.

Needs JobSet 0.10 or newer in the cluster. The manifest is plain JSON, which kubectl takes like YAML; launch/README.md
says what it does on which end of a training.
"""

import argparse
import json
import math
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import Any, NoReturn

USER_MISTAKE, PREEMPTED = 2, 75  # what a training ends with, see jaxfm/programs/program.py
ENVIRONMENT = pathlib.Path(__file__).resolve().parent / "environment" / "tpu.env"
CONTAINER, SLICE = "train", "slice"

# The values of the node label that GKE gives TPU nodes: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
ACCELERATORS = ("tpu-v4-podslice", "tpu-v5-lite-podslice", "tpu-v5p-slice", "tpu-v6e-slice")

NAME = r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"  # at most 40 letters: JobSet adds to it, and Kubernetes allows 63
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

EPILOG = """\
After exit code 75 of the training, and after an eviction, the JobSet starts again as often as it takes; after 2 it
fails; after any other end it starts again --restarts times. --workdir must lie on storage that every host sees.
The exit code here is kubectl's, and says whether the JobSet was accepted.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one message, as in the other launchers."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends the program."""
        print(f"gke_jobset.py: {message}\nRun launch/gke_jobset.py --help for the usage.", file=sys.stderr)
        raise SystemExit(USER_MISTAKE)


def matching(pattern: str, meaning: str):
    """Returns an argparse type for values that match the pattern as a whole."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise argparse.ArgumentTypeError(f"{value!r} is not {meaning}")
        return value

    return check


def at_least(lowest: int):
    """Returns an argparse type for whole numbers of at least `lowest`."""

    def check(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,6}", value) or int(value) < lowest:
            raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from {lowest} on")
        return int(value)

    return check


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the command line; `flags` are those of the training."""
    parser = Parser(
        "launch/gke_jobset.py",
        usage="%(prog)s --name=NAME --image=IMAGE --accelerator=TYPE --topology=AxB [options] -- flags of jaxfm.train",
        description="Trains on TPU slices of a GKE cluster, with a JobSet.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    name = matching(NAME, "a name: small letters, digits and dashes, at most 40")
    label = matching(LABEL, "a name: small letters, digits and dashes, at most 63")
    add = parser.add_argument
    add("--name", required=True, type=name, help="of the JobSet")
    add(
        "--image",
        required=True,
        type=matching(r"[a-z0-9][A-Za-z0-9._:/@-]*", "the name of a container image"),
        help="with jaxfm-encoders[tpu] and the configuration in it",
    )
    add("--accelerator", required=True, choices=ACCELERATORS, help="the node label gke-tpu-accelerator")
    add(
        "--topology",
        required=True,
        type=matching(r"[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?", "a topology such as 4x4 or 2x2x4"),
        help="of a slice, for example 4x4: the node label gke-tpu-topology",
    )
    add("--chips-per-host", type=at_least(1), metavar="N", help="default: 4, or all of a smaller topology")
    add("--slices", type=at_least(1), default=1, metavar="N", help="how many slices (default: 1)")
    add("--namespace", type=label, default="default", help="default: default")
    add("--claim", type=label, metavar="NAME", help="a PersistentVolumeClaim to mount, shared by all hosts")
    add(
        "--mount",
        type=matching(r"/[A-Za-z0-9_./-]+", "an absolute path"),
        default="/data",
        help="where it is mounted (default: /data)",
    )
    add("--service-account", type=label, metavar="NAME", help="of the pods (default: the namespace's)")
    add("--queue", type=label, metavar="NAME", help="a LocalQueue of Kueue to wait in")
    add("--spot", action="store_true", help="on nodes that may be taken away at any time")
    add("--restarts", type=at_least(0), default=3, metavar="N", help="after crashes (default: 3)")
    add("--grace", type=at_least(1), default=120, metavar="SECONDS", help="to save when evicted (default: 120)")
    add("--python", default="python3", help="the interpreter in the image (default: python3)")
    add("--environment", type=pathlib.Path, default=ENVIRONMENT, metavar="FILE", help="default: environment/tpu.env")
    add("--dry-run", action="store_true", help="print the command with its manifest, for a shell; run nothing")
    split = argv.index("--") if "--" in argv else len(argv)
    known = parser.parse_args(argv[:split])
    known.flags = argv[split + 1 :]
    for flag, why in (("--config=FILE", ""), ("--workdir=DIR", "; a restart resumes there")):
        if not any(re.match(rf"{flag.split('=')[0]}=.", given) for given in known.flags):
            parser.error(f"the flags of the training, after --, need {flag}{why}")
    chips = math.prod(map(int, known.topology.split("x")))
    known.chips_per_host = known.chips_per_host or min(chips, 4)
    if chips % known.chips_per_host:
        parser.error(f"--topology={known.topology} has {chips} chips, not a multiple of {known.chips_per_host} a host")
    known.hosts = chips // known.chips_per_host
    if known.slices > 1 and known.hosts == 1:
        parser.error("several slices need a topology of several hosts each; GKE offers no others")
    try:
        known.variables = read_environment(known.environment)
    except (OSError, ValueError) as error:
        parser.error(f"--environment: {error}")
    return known


def read_environment(path: pathlib.Path) -> dict[str, str]:
    """Reads an environment file, as lib.sh does: NAME=value a line; a name given again adds to its value.

    Raises:
      ValueError: a line that is neither that nor a comment.
    """
    variables: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", line)
        if not match:
            raise ValueError(f"{path}:{number}: {line!r} is not NAME=value; start a comment with #")
        name, value = match.groups()
        variables[name] = f"{variables[name]} {value}" if name in variables else value
    return variables


def literal(text: str) -> str:
    """Returns the text with $ escaped: Kubernetes would replace $(NAME) by the variable of that name."""
    return text.replace("$(", "$$(")


def container(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the one container of each pod, which is a host."""
    env: list[dict[str, Any]] = [{"name": name, "value": literal(value)} for name, value in args.variables.items()]
    if args.slices > 1:
        # By these the hosts of several slices find each other (https://github.com/kubernetes-sigs/jobset/issues/787);
        # jax/_src/clusters/cloud_tpu_cluster.py reads them too. Within a slice GKE gives each host its number.
        for name, annotation in (
            ("MEGASCALE_NUM_SLICES", "global-replicas"),
            ("MEGASCALE_SLICE_ID", "job-global-index"),
            ("MEGASCALE_COORDINATOR_ADDRESS", "coordinator"),
        ):
            path = f"metadata.annotations['jobset.sigs.k8s.io/{annotation}']"
            env.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    chips = {"google.com/tpu": str(args.chips_per_host)}
    result: dict[str, Any] = {
        "name": CONTAINER,
        "image": args.image,
        "command": [literal(word) for word in (args.python, "-m", "jaxfm.train", *args.flags)],
        "env": env,
        # Ports over which the chips of a slice, and slices, communicate.
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "resources": {"requests": chips, "limits": chips},
        "securityContext": {"privileged": True},  # libtpu maps the chips' memory and locks its own
    }
    if args.claim:
        result["volumeMounts"] = [{"name": "shared", "mountPath": args.mount}]
    return result


def pod(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the specification of a pod."""
    selector = {
        "cloud.google.com/gke-tpu-accelerator": args.accelerator,
        "cloud.google.com/gke-tpu-topology": args.topology,
    }
    result: dict[str, Any] = {
        "restartPolicy": "Never",  # podFailurePolicy needs it; a host alone cannot join a running training again
        "terminationGracePeriodSeconds": args.grace,
        "hostNetwork": True,  # the slices talk to each other without the pods' network in between
        "dnsPolicy": "ClusterFirstWithHostNet",  # and the pods' names still resolve
        "nodeSelector": selector,
        "containers": [container(args)],
    }
    if args.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        result["tolerations"] = [{"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"}]
    if args.service_account:
        result["serviceAccountName"] = args.service_account
    if args.claim:
        result["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": args.claim}}]
    return result


def job(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the specification of the job that is one slice."""

    def ended_with(code: int) -> dict[str, Any]:
        return {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [code]}}

    return {
        "completionMode": "Indexed",  # numbered hosts
        "parallelism": args.hosts,
        "completions": args.hosts,
        "backoffLimit": 0,  # no host can be replaced alone: the first that fails ends the job, and the JobSet decides
        "podFailurePolicy": {
            # JobSet identifies these rules by their index in this list, see failure_policy().
            "rules": [
                ended_with(USER_MISTAKE),
                ended_with(PREEMPTED),
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": pod(args)},
    }


def failure_policy(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the action for a failed slice; the first rule that matches decides.

    A rule of podFailurePolicy shows only in the message of the failed job, hence the pattern (JobSet 0.10,
    https://github.com/kubernetes-sigs/jobset/pull/1033). What matches no rule is a crash: it restarts and is counted.
    """
    return {
        "maxRestarts": args.restarts,
        "restartStrategy": "BlockingRecreate",  # the new hosts must not meet the old ones
        "rules": [
            {
                "name": "userMistake",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": ["matching FailJob rule at index 0$"],
            },
            {
                "name": "preempted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            },
        ],
    }


def manifest(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the JobSet: a job a slice, a pod a host, and the headless service that gives the hosts names."""
    metadata: dict[str, Any] = {
        "name": args.name,
        "namespace": args.namespace,
        # Each job gets a separate node pool, which is a slice.
        "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
    }
    if args.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": args.queue}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            # JobSet makes the headless service by itself, named like the JobSet; names must resolve before all are up.
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "coordinator": {"replicatedJob": SLICE, "jobIndex": 0, "podIndex": 0},
            "failurePolicy": failure_policy(args),
            "replicatedJobs": [{"name": SLICE, "replicas": args.slices, "template": {"spec": job(args)}}],
        },
    }


def main(argv: list[str]) -> int:
    """Creates the JobSet, or prints how; returns the exit code."""
    args = arguments(argv)
    return create(manifest(args), dry_run=args.dry_run)


def create(made: dict[str, Any], *, dry_run: bool) -> int:
    """Has kubectl create what a manifest says, or prints how; returns the exit code."""
    text = json.dumps(made, indent=2)
    # create, not apply: one that exists is an error and stays unchanged; two would train into one directory.
    command = ["kubectl", "create", "--filename=-"]
    if dry_run:
        print(f"{shlex.join(command)} <<'END_OF_MANIFEST'\n{text}\nEND_OF_MANIFEST")
        return 0
    if not shutil.which("kubectl"):
        print(
            f"{pathlib.Path(sys.argv[0]).name}: kubectl is not on PATH; install it and point it at the cluster",
            file=sys.stderr,
        )
        return USER_MISTAKE
    return subprocess.run(command, input=text, text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
