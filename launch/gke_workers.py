#!/usr/bin/env python3
"""Runs the workers of one search on a GKE cluster: builds the manifest of an indexed Job and creates it with kubectl.

Each worker is a pod with GPUs, or with a TPU slice of one host, of its own. Kubernetes 1.33 or newer. The manifest is
plain JSON, which kubectl takes like YAML; launch/README.md says what it does on which end of a worker.
"""

import argparse
import math
import pathlib
import re
import sys
from typing import Any

from gke_jobset import (  # pyright: ignore[reportMissingImports]  # beside this script, and so on its path
    ACCELERATORS,
    LABEL,
    NAME,
    PREEMPTED,
    USER_MISTAKE,
    Parser,
    at_least,
    create,
    literal,
    matching,
    read_environment,
)

TERMINATED = 143  # told to stop where there was nothing to save
CONTAINER = "worker"
ENVIRONMENTS = pathlib.Path(__file__).resolve().parent / "environment"

EPILOG = """\
A worker that is evicted, or stopped after a save (75), is replaced as often as it takes; one that crashes --crashes
times; after a mistake in the command (2) the Job fails. The exit code here is kubectl's, and says whether the Job was
accepted.
"""


class WorkersParser(Parser):
    """A parser whose errors name this script."""

    def error(self, message: str):
        """Prints the message and ends the program."""
        print(f"gke_workers.py: {message}\nRun launch/gke_workers.py --help for the usage.", file=sys.stderr)
        raise SystemExit(USER_MISTAKE)


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the command line; `flags` are those of the search."""
    parser = WorkersParser(
        "launch/gke_workers.py",
        usage="%(prog)s --name=NAME --workers=N --image=IMAGE --accelerator=TYPE [options] -- flags of jaxfm.search",
        description="Runs the workers of one search on a GKE cluster, as an indexed Job.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    label = matching(LABEL, "a name: small letters, digits and dashes, at most 63")
    add = parser.add_argument
    add("--name", required=True, type=matching(NAME, "a name: small letters, digits and dashes"), help="of the Job")
    add("--workers", required=True, type=at_least(1), metavar="N", help="how many workers")
    add(
        "--image",
        required=True,
        type=matching(r"[a-z0-9][A-Za-z0-9._:/@-]*", "the name of a container image"),
        help="with jaxfm-encoders[tpu,search] or [cuda,search] and the configuration in it",
    )
    add(
        "--accelerator",
        required=True,
        type=matching(LABEL, "a node label such as nvidia-l4 or tpu-v5-lite-podslice"),
        help="the node label gke-accelerator (GPUs) or gke-tpu-accelerator (TPUs)",
    )
    add("--gpus", type=at_least(1), default=1, metavar="N", help="GPUs of a worker (default: 1)")
    add(
        "--topology",
        type=matching(r"[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?", "a topology such as 2x2"),
        help="of TPUs: that of one host, for example 2x4",
    )
    add("--namespace", type=label, default="default", help="default: default")
    add("--claim", required=True, type=label, metavar="NAME", help="a PersistentVolumeClaim that all workers share")
    add(
        "--mount",
        type=matching(r"/[A-Za-z0-9_./-]+", "an absolute path"),
        default="/data",
        help="where it is mounted (default: /data)",
    )
    add("--service-account", type=label, metavar="NAME", help="of the pods (default: the namespace's)")
    add("--queue", type=label, metavar="NAME", help="a LocalQueue of Kueue to wait in")
    add("--spot", action="store_true", help="on nodes that may be taken away at any time")
    add("--crashes", type=at_least(0), default=3, metavar="N", help="of a worker, that it is replaced (default: 3)")
    add("--grace", type=at_least(1), default=120, metavar="SECONDS", help="to save when evicted (default: 120)")
    add("--python", default="python3", help="the interpreter in the image (default: python3)")
    add("--environment", type=pathlib.Path, metavar="FILE", help="default: environment/tpu.env or gpu.env")
    add("--dry-run", action="store_true", help="print the command with its manifest, for a shell; run nothing")
    split = argv.index("--") if "--" in argv else len(argv)
    known = parser.parse_args(argv[:split])
    known.flags = argv[split + 1 :]
    for flag in ("--config", "--space", "--workdir"):
        if not any(re.match(rf"{flag}=.", given) for given in known.flags):
            parser.error(f"the flags of the search, after --, need {flag}=...")
    if known.workers > 1 and not any(given.startswith("--storage=") for given in known.flags):
        parser.error("several machines need --storage=journal:FILE or a database after --; SQLite is for one machine")
    known.tpu = known.accelerator.startswith("tpu-")
    if known.tpu:
        _check_topology(parser, known)
    elif known.topology:
        parser.error(f"--topology={known.topology}: is of TPUs, and --accelerator={known.accelerator} is none")
    try:
        path = known.environment or ENVIRONMENTS / ("tpu.env" if known.tpu else "gpu.env")
        known.variables = read_environment(path)
    except (OSError, ValueError) as error:
        parser.error(f"--environment: {error}")
    return known


def _check_topology(parser: Parser, known: argparse.Namespace) -> None:
    if known.accelerator not in ACCELERATORS:
        parser.error(f"--accelerator={known.accelerator}: is not one of {', '.join(ACCELERATORS)}")
    if not known.topology:
        parser.error("--topology: is missing; TPUs need that of one host, for example 2x2")
    known.chips = math.prod(map(int, known.topology.split("x")))
    if known.chips > 8:
        parser.error(f"--topology={known.topology}: is of several hosts, and a trial runs on one; at most 2x4")


def pod(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the specification of a pod, which is a worker."""
    if args.tpu:
        devices = {"google.com/tpu": str(args.chips)}
        selector = {
            "cloud.google.com/gke-tpu-accelerator": args.accelerator,
            "cloud.google.com/gke-tpu-topology": args.topology,
        }
    else:
        devices = {"nvidia.com/gpu": str(args.gpus)}
        selector = {"cloud.google.com/gke-accelerator": args.accelerator}
    result: dict[str, Any] = {
        "restartPolicy": "Never",  # podFailurePolicy needs it
        "terminationGracePeriodSeconds": args.grace,
        "nodeSelector": selector,
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": args.claim}}],
        "containers": [
            {
                "name": CONTAINER,
                "image": args.image,
                "command": [literal(word) for word in (args.python, "-m", "jaxfm.search", *args.flags)],
                "env": [{"name": name, "value": literal(value)} for name, value in args.variables.items()],
                "resources": {"requests": devices, "limits": devices},
                "volumeMounts": [{"name": "shared", "mountPath": args.mount}],
            }
        ],
    }
    if args.tpu:
        result["containers"][0]["securityContext"] = {"privileged": True}  # libtpu maps the chips' memory
    if args.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        result["tolerations"] = [{"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"}]
    if args.service_account:
        result["serviceAccountName"] = args.service_account
    return result


def manifest(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the Job: a pod a worker, which is replaced by itself, as it needs none of the others."""

    def ended_with(action: str, *codes: int) -> dict[str, Any]:
        values = {"containerName": CONTAINER, "operator": "In", "values": list(codes)}
        return {"action": action, "onExitCodes": values}

    metadata: dict[str, Any] = {"name": args.name, "namespace": args.namespace}
    if args.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": args.queue}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "parallelism": args.workers,
            "completions": args.workers,
            "backoffLimitPerIndex": args.crashes,  # one worker's crashes are not counted for the others
            # Once one worker has come to the end of the search, the others do so too, or are not needed any more.
            "successPolicy": {"rules": [{"succeededCount": 1}]},
            "podFailurePolicy": {
                "rules": [
                    ended_with("FailJob", USER_MISTAKE),
                    ended_with("Ignore", PREEMPTED, TERMINATED),
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {"spec": pod(args)},
        },
    }


def main(argv: list[str]) -> int:
    """Creates the Job, or prints how; returns the exit code."""
    args = arguments(argv)
    return create(manifest(args), dry_run=args.dry_run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
