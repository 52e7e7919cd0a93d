#!/usr/bin/env python3
"""Compares new data with those of a run at set times, and trains again where that is due: by cron or by Kubernetes.

  launch/drift_schedule.py --by=cron --when="0 6 * * 1" --run=DIR --runs=DIR -- FLAGS OF DRIFT -- FLAGS OF TRAIN
  launch/drift_schedule.py --by=kubernetes --when=... --name=NAME --image=IMAGE --claim=NAME --run=DIR ...

--by=cron prints a line for `crontab -e`; nothing is installed. --by=kubernetes has kubectl create a CronJob; with
--dry-run the command is printed with its manifest. Both call drift_watch.py, whose --help says what happens then.
"""

import argparse
import pathlib
import shlex
import sys
from typing import Any

import drift_watch  # pyright: ignore[reportMissingImports]  # beside this script, and so on its path
from gke_jobset import (  # pyright: ignore[reportMissingImports]
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
from local import MistakeError  # pyright: ignore[reportMissingImports]

CRON, KUBERNETES = WAYS = ("cron", "kubernetes")
CONTAINER, TERMINATED = "watch", 143
# Minutes, hours, days, months, weekdays: numbers and names with , - / *.
_FIELD = r"[0-9A-Za-z*][0-9A-Za-z*,/-]*"
WHEN = rf"{_FIELD}( {_FIELD}){{4}}|@(hourly|daily|weekly|monthly)"
_OF_ONE_WAY = {
    CRON: ("directory", "log"),
    KUBERNETES: ("name", "image", "claim", "mount", "namespace", "service_account", "accelerator", "gpus", "cpu")
    + ("memory", "retries", "grace", "time_zone", "environment", "dry_run"),
}


class ScheduleParser(Parser):
    """A parser whose errors name this script."""

    def error(self, message: str):
        """Prints the message and ends the program."""
        print(f"drift_schedule.py: {message}\nRun launch/drift_schedule.py --help for the usage.", file=sys.stderr)
        raise SystemExit(USER_MISTAKE)


def arguments(argv: list[str]) -> argparse.Namespace:
    """Parses and checks the command line; `drift` and `train` are the flags of these programs."""
    own, *rest = drift_watch.parts(argv)
    parser = _parser()
    known = parser.parse_args(own)
    if len(rest) > 2:
        parser.error("--: stands twice at most, before the flags of jaxfm.drift and of jaxfm.train")
    known.drift, known.train = (rest + [[], []])[:2]
    try:
        drift_watch.check(known, known.drift, known.train)
    except MistakeError as error:
        parser.error(str(error))
    for way, names in _OF_ONE_WAY.items():
        if way != known.by and (given := [each for each in names if getattr(known, each) is not None]):
            parser.error(f"--{given[0].replace('_', '-')}: is of --by={way}")
    if known.by == CRON:
        known.directory = known.directory or pathlib.Path.cwd()
        for word in (*watch_flags(known), str(known.directory), str(known.log or ""), known.python or ""):
            if any(not character.isprintable() or character == "\\" for character in word):
                # Some crons take a backslash away, others leave it.
                parser.error(f"{word!r}: a line of a crontab has no place for a backslash, or what cannot be printed")
        return known
    for name in ("name", "image", "claim"):
        if getattr(known, name) is None:
            parser.error(f"--{name}: is missing")
    if known.gpus is not None and known.accelerator is None:
        parser.error("--gpus: of which kind, --accelerator says")
    try:
        known.variables = {} if known.environment is None else read_environment(known.environment)
    except (OSError, ValueError) as error:
        parser.error(f"--environment: {error}")
    return known


def _parser() -> ScheduleParser:
    parser = ScheduleParser(
        "launch/drift_schedule.py",
        usage="%(prog)s --by=cron|kubernetes --when=TIMES --run=DIR [options] -- flags of jaxfm.drift "
        "[-- flags of jaxfm.train]",
        description="Compares new data with those of a run at set times, and trains again where that is due.",
        allow_abbrev=False,
    )
    path = matching(r"/[A-Za-z0-9_./-]+", "an absolute path")
    label = matching(LABEL, "a name: small letters, digits and dashes, at most 63")
    amount = matching(r"[1-9][0-9]*(m|[KMGT]i)?", "an amount such as 4, 500m or 16Gi")
    add = parser.add_argument
    add("--by", required=True, choices=WAYS, help="what calls at these times")
    add(
        "--when",
        required=True,
        type=matching(WHEN, "five fields as of a crontab, or @daily"),
        help='"0 6 * * 1": Mondays',
    )
    add("--run", required=True, type=pathlib.Path, help="a run directory, or a link to one")
    add("--runs", type=pathlib.Path, help="where new runs are made: RUNS/TIME")
    add("--switch", action="store_true", help="set the link --run to the new run once it is trained")
    add("--python", help="the interpreter (default: this one; in an image: python3)")
    add("--directory", type=pathlib.Path, help="cron: where it runs (default: this directory)")
    add("--log", type=pathlib.Path, help="cron: a file that output is added to; else cron mails it")
    add("--name", type=matching(NAME, "a name: small letters, digits and dashes, at most 40"), help="of the CronJob")
    add(
        "--image",
        type=matching(r"[a-z0-9][A-Za-z0-9._:/@-]*", "the name of a container image"),
        help="with jaxfm in it",
    )
    add("--claim", type=label, metavar="NAME", help="a PersistentVolumeClaim that has the runs and the data")
    add("--mount", type=path, help="where it is mounted (default: /data)")
    add("--namespace", type=label, help="default: default")
    add("--service-account", type=label, metavar="NAME", help="of the pods (default: the namespace's)")
    add("--accelerator", type=label, help="a node label such as nvidia-l4; none: no GPU")
    add("--gpus", type=at_least(1), metavar="N", help="of a pod (default: 1)")
    add("--cpu", type=amount, help="of a pod, for example 8")
    add("--memory", type=amount, help="of a pod, for example 16Gi")
    add("--retries", type=at_least(0), metavar="N", help="after crashes (default: 3)")
    add("--grace", type=at_least(1), metavar="SECONDS", help="to save when evicted (default: 120)")
    add(
        "--time-zone", type=matching(r"[A-Za-z][A-Za-z0-9_+/-]*", "a time zone such as Europe/Berlin"), help="of --when"
    )
    add("--environment", type=pathlib.Path, metavar="FILE", help="variables, as environment/gpu.env")
    add("--dry-run", action="store_true", default=None, help="print the command with its manifest; run nothing")
    return parser


def watch_flags(args: argparse.Namespace) -> list[str]:
    """Returns the words after drift_watch.py."""
    own = [f"--run={args.run}"]
    own += [f"--runs={args.runs}"] if args.runs else []
    own += ["--switch"] if args.switch else []
    return [*own, "--", *args.drift, *(["--", *args.train] if args.train else [])]


def crontab_line(args: argparse.Namespace) -> str:
    """Returns the line: every word is quoted for the shell, and % for cron, which makes line ends of it."""
    script = pathlib.Path(drift_watch.__file__).resolve()
    called = shlex.join([args.python or sys.executable, str(script), *watch_flags(args)])
    command = f"cd {shlex.quote(str(args.directory))} && {called}"
    if args.log is not None:
        command += f" >> {shlex.quote(str(args.log))} 2>&1"
    return f"{args.when} {command}".replace("%", "\\%")


def pod(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the specification of the pod that calls drift_watch.py."""
    amounts = {"cpu": args.cpu, "memory": args.memory}
    requests = {name: value for name, value in amounts.items() if value is not None}
    limits: dict[str, str] = {}
    command = [args.python or "python3", "-m", "jaxfm", "launch", "drift_watch", *watch_flags(args)]
    result: dict[str, Any] = {
        "restartPolicy": "Never",  # podFailurePolicy needs it
        "terminationGracePeriodSeconds": args.grace or 120,
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": args.claim}}],
    }
    if args.accelerator is not None:
        limits = {"nvidia.com/gpu": str(args.gpus or 1)}
        result["nodeSelector"] = {"cloud.google.com/gke-accelerator": args.accelerator}
    if args.service_account:
        result["serviceAccountName"] = args.service_account
    result["containers"] = [
        {
            "name": CONTAINER,
            "image": args.image,
            "command": [literal(word) for word in command],
            "env": [{"name": name, "value": literal(value)} for name, value in args.variables.items()],
            "resources": {"requests": requests | limits, **({"limits": limits} if limits else {})},
            "volumeMounts": [{"name": "shared", "mountPath": args.mount or "/data"}],
        }
    ]
    return result


def manifest(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the CronJob: one pod a time, which is called again where it was evicted or has crashed."""

    def ended_with(action: str, *codes: int) -> dict[str, Any]:
        values = {"containerName": CONTAINER, "operator": "In", "values": list(codes)}
        return {"action": action, "onExitCodes": values}

    job = {
        "backoffLimit": 3 if args.retries is None else args.retries,
        "podFailurePolicy": {
            "rules": [
                # A verdict is no crash: the job fails, so that a person is told, and is not called again.
                ended_with("FailJob", USER_MISTAKE, drift_watch.AGAIN, drift_watch.LOOK),
                ended_with("Ignore", PREEMPTED, TERMINATED),
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {"spec": pod(args)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": args.name, "namespace": args.namespace or "default"},
        "spec": {
            "schedule": args.when,
            **({"timeZone": args.time_zone} if args.time_zone else {}),
            "concurrencyPolicy": "Forbid",  # a training may take longer than to the next time
            "startingDeadlineSeconds": 3600,
            "jobTemplate": {"spec": job},
        },
    }


def main(argv: list[str]) -> int:
    """Prints the line, or creates the CronJob or prints how; returns the exit code."""
    args = arguments(argv)
    if args.by == CRON:
        print(crontab_line(args))
        return 0
    return create(manifest(args), dry_run=bool(args.dry_run))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
