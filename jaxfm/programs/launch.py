"""Lists the scripts of launch/, which start runs elsewhere, or runs one.

For example `jaxfm launch local --processes=2 -- --config=ner --workdir=runs/ner`.
"""

import os
import pathlib
import sys
from collections.abc import Sequence

from jaxfm.errors import UserError, did_you_mean
from jaxfm.programs import shipped

# Script -> what it does. The others of the folder are parts of these.
SCRIPTS = {
    "local.py": "several processes on this machine's CPU",
    "tpu_pod.sh": "Cloud TPU VMs, by queued resources",
    "gke_jobset.py": "TPU slices in GKE, by JobSet",
    "gke_xpk.sh": "TPU slices in GKE, by xpk",
    "slurm.sh": "GPU nodes, by SLURM",
    "federated_local.py": "a federation of several processes on this machine, by Flower",
    "workers.py": "the workers of one search on this machine",
    "slurm_workers.sh": "the workers of one search on GPU nodes, by SLURM",
    "gke_workers.py": "the workers of one search in GKE, by an indexed Job",
    "drift_watch.py": "compares new data with a run's, and trains again where that is due",
    "drift_schedule.py": "the same at set times, by cron or Kubernetes",
}
EXIT_USER_MISTAKE = 2


def command(name: str, arguments: Sequence[str]) -> list[str]:
    """Returns the command line that runs a script by its name, with or without ending, written with - or _.

    Raises:
      UserError: an unknown script; the message names the nearest.
    """
    names = {file.partition(".")[0]: file for file in SCRIPTS}
    file = names.get(name.partition(".")[0].replace("-", "_"))
    if file is None:
        raise UserError(f"there is no script {name!r}. {did_you_mean(name, names)}")
    path = shipped.folder(shipped.LAUNCH) / file
    return [sys.executable if path.suffix == ".py" else "bash", str(path), *arguments]


def listing(folder: pathlib.Path, called: str) -> str:
    """Returns the scripts for a person: what each is for, where they lie, and how one is run.

    Args:
      folder: where they lie.
      called: how this program was called: "jaxfm launch".
    """
    lines = ["Scripts that start a run elsewhere or in several processes:", ""]
    lines += [f"  {file.partition('.')[0]:<14} {doc}" for file, doc in SCRIPTS.items()]
    lines += ["", "Their folder, with a README.md on each:", f"  {folder}", ""]
    lines += [f"`{called} SCRIPT --help` shows a script's options. For example:", ""]
    lines += [f"  {called} local --processes=2 -- --config=ner --workdir=runs/ner"]
    return "\n".join(lines)


def run() -> None:
    """Runs the program: the script takes this process's place, and so its exit code is the script's."""
    words = sys.argv[1:]
    try:
        if not words or words[0] in ("--help", "-h"):
            print(listing(shipped.folder(shipped.LAUNCH), sys.argv[0]))
            return
        line = command(words[0], words[1:])
    except UserError as error:
        print(f"error: {error}\n`{sys.argv[0]}` lists them.", file=sys.stderr)
        sys.exit(EXIT_USER_MISTAKE)
    sys.stdout.flush()
    os.execvp(line[0], line)
