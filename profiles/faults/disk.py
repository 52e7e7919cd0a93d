"""Takes from runs the disk, the rights, the clock, the data or the file handles, and gives them back.

    python -m profiles.faults.disk --output=profiles/results/faults_disk.json

Every fault must be survived, or end the command with one message and exit code 2, without a traceback; once its cause
is gone, the same command must end as the run that nothing disturbed. Small disks are tmpfs mounts and need root, which
a container has; without root they are left out, and the result says so.
"""

import contextlib
import dataclasses
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rich

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table
from jaxfm.training.workdir import CHECKPOINTS_DIR
from profiles import command_line
from profiles.faults import kills, small_runs
from profiles.faults.kills import Case
from profiles.faults.small_runs import made_by

CASE = "masked_lm"
# Root may write where nobody may; without these capabilities it is an owner like any other (setpriv: util-linux).
_LIKE_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
EXIT_MISTAKE = 2
_SECONDS = 300.0
_DISK_MIB = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 28, 32)
_HANDLES = (24, 32, 40, 48, 64, 96, 128)
# A clock that jumps back by a day while the run trains.
_CLOCK = """
import time
_start, _time = time.monotonic(), time.time
time.time = lambda: _time() - (86400 if time.monotonic() - _start > {seconds} else 0)
"""


@dataclasses.dataclass
class Outcome:
    """What came of a fault.

    Attributes:
      fault: what was done.
      what: "survived", "refused" or what went wrong.
      code: exit code of the command that met the fault.
      message: its last line that is no progress.
      afterwards: what differs from the twin once the cause is gone; empty: nothing.
    """

    fault: str
    what: str
    code: int
    message: str
    afterwards: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether the fault was survived or refused in one message, and nothing was lost."""
        return self.what in ("survived", "refused") and not self.afterwards


class Trials:
    """Runs of one case with a fault each, in a folder."""

    def __init__(self, folder: pathlib.Path, case: Case) -> None:
        """`case` has been run unbroken."""
        self.folder, self.case, self.number = folder, case, 0

    def start(self, workdir: pathlib.Path, *before: str, **options: Any) -> subprocess.Popen[str]:
        """Starts the run in `workdir`; `before` are words before its command."""
        environment = os.environ | options.pop("env", {})
        return subprocess.Popen(
            [*before, *self.case.command(workdir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            **options,
        )

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Waits for a run; returns its exit code and what it said."""
        try:
            said, _ = process.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            return -signal.SIGXCPU, said
        return process.returncode, said

    def judge(self, fault: str, code: int, said: str) -> Outcome:
        """Returns what a run made of a fault."""
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith("step ")]
        what = {0: "survived", EXIT_MISTAKE: "refused"}.get(code, f"ended with {code}")
        if "Traceback" in said:
            what = f"traceback (exit code {code})"
        if what not in ("survived", "refused"):
            print(said[-3000:])
        return Outcome(fault, what, code, lines[-1] if lines else "")

    def afterwards(self, workdir: pathlib.Path) -> list[str]:
        """Gives the same command again; returns what differs from the twin."""
        code, said = self.end(self.start(workdir))
        return kills.run_differences(workdir, self.case.twin) if code == 0 else [f"ended with {code}: {said[-500:]}"]

    def workdir(self) -> pathlib.Path:
        """Returns a new run directory's path."""
        self.number += 1
        return self.folder / f"run_{self.number}"


def until(workdir: pathlib.Path, saves: int, process: subprocess.Popen[str]) -> None:
    """Waits until a run has saved so many times, or has ended."""
    wanted = workdir / CHECKPOINTS_DIR / str(saves * small_runs.SAVE_STEPS)
    end = time.monotonic() + _SECONDS
    while not wanted.is_dir() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, mib: float) -> Iterator[pathlib.Path]:
    """Yields an empty folder on a disk of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(mib * 1024)}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def full_disk(trials: Trials) -> Iterator[Outcome]:
    """A disk that is full after so many MiB: another write fails at each size."""
    for mib in _DISK_MIB:
        with small_disk(trials.folder / "disk", mib) as disk:
            workdir = disk / "run"
            code, said = trials.end(trials.start(workdir))
            outcome = trials.judge(f"disk of {mib} MiB", code, said)
            subprocess.run(["mount", "-o", "remount,size=500m", str(disk)], check=True)
            outcome.afterwards = trials.afterwards(workdir)
            yield outcome


def closed_directory(trials: Trials) -> Iterator[Outcome]:
    """A directory that may not be written to: from the start, and from the second save on."""
    before = _LIKE_OTHERS if os.geteuid() == 0 else []
    parent = trials.folder / "closed"
    parent.mkdir()
    parent.chmod(0o555)
    code, said = trials.end(trials.start(parent / "run", *before))
    outcome = trials.judge("read-only directory", code, said)
    parent.chmod(0o777)
    outcome.afterwards = trials.afterwards(parent / "run")
    yield outcome
    parent = trials.folder / "closed_later"
    parent.mkdir()
    parent.chmod(0o777)
    workdir = parent / "run"
    process = trials.start(workdir, *before)
    until(workdir, 2, process)
    for path in (workdir, workdir / CHECKPOINTS_DIR):
        path.chmod(0o555)
    outcome = trials.judge("permission lost midway", *trials.end(process))
    for path in (workdir, workdir / CHECKPOINTS_DIR):
        path.chmod(0o777)
    outcome.afterwards = trials.afterwards(workdir)
    yield outcome


def clock_set_back(trials: Trials) -> Iterator[Outcome]:
    """Python's clock jumps back by a day while the run trains."""
    folder = trials.folder / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_CLOCK.format(seconds=trials.case.seconds / 2))
    workdir = trials.workdir()
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    outcome = trials.judge("clock set back by a day", *trials.end(trials.start(workdir, env={"PYTHONPATH": paths})))
    outcome.afterwards = kills.run_differences(workdir, trials.case.twin) if outcome.code == 0 else []
    yield outcome


def two_at_once(trials: Trials) -> Iterator[Outcome]:
    """The same command while the run is under way."""
    workdir = trials.workdir()
    first = trials.start(workdir)
    until(workdir, 1, first)
    code, said = trials.end(trials.start(workdir))
    outcome = trials.judge("a second run in the same directory", code, said)
    if str(first.pid) not in said:
        outcome.what = "the message does not name the first"
    code, _ = trials.end(first)
    outcome.afterwards = kills.run_differences(workdir, trials.case.twin) if code == 0 else [f"the first: {code}"]
    yield outcome


def changed_data(trials: Trials) -> Iterator[Outcome]:
    """A shard is changed, or removed, while the run is stopped, and while it trains."""
    shards = sorted((trials.folder / "shards" / "train").glob("rows-*"))
    kept = trials.folder / "kept"
    for name, change in (("changed", _flip_last), ("deleted", pathlib.Path.unlink)):
        for when in ("under a stopped run", "under a run"):
            workdir = trials.workdir()
            process = trials.start(workdir)
            until(workdir, 2, process)
            shutil.copy2(shards[0], kept)
            if when == "under a stopped run":
                process.kill()
                trials.end(process)
                change(shards[0])
                process = trials.start(workdir)
            else:
                change(shards[0])
            outcome = trials.judge(f"a shard {name} {when}", *trials.end(process))
            shutil.copy2(kept, shards[0])
            outcome.afterwards = trials.afterwards(workdir)
            yield outcome


def _flip_last(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def few_handles(trials: Trials) -> Iterator[Outcome]:
    """A limit of open files."""
    for limit in _HANDLES:
        workdir = trials.workdir()
        process = trials.start(
            workdir, preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        )
        outcome = trials.judge(f"{limit} file handles", *trials.end(process))
        outcome.afterwards = trials.afterwards(workdir)
        yield outcome


FAULTS: dict[str, Callable[[Trials], Iterator[Outcome]]] = {
    "full_disk": full_disk,
    "closed_directory": closed_directory,
    "clock_set_back": clock_set_back,
    "two_at_once": two_at_once,
    "changed_data": changed_data,
    "few_handles": few_handles,
}
_NEED_ROOT = ("full_disk",)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    names = arguments.faults.split(",")
    if unknown := set(names) - set(FAULTS):
        raise UserError(f"--faults: {sorted(unknown)[0]!r} is none of {', '.join(FAULTS)}.")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxfm-disk-"))
    folder.chmod(0o755)
    small_runs.write_all(folder)
    trials = Trials(folder, kills.make_case(CASE, folder))
    left_out = [name for name in names if name in _NEED_ROOT and os.geteuid() != 0]
    outcomes: list[Outcome] = []
    for name in names:
        for outcome in FAULTS[name](trials) if name not in left_out else ():
            outcomes.append(outcome)
            print(f"{outcome.fault}: {outcome.what}; {'; '.join(outcome.afterwards) or 'then the twin'}", flush=True)
    rows = [[each.fault, each.what, "; ".join(each.afterwards) or "the twin", each.message[:200]] for each in outcomes]
    rich.print(Table("Faults around a run", ["fault", "the run", "afterwards", "message"], rows))
    files.write_json(
        arguments.output,
        made_by(argv, __file__) | {"left_out": left_out, "faults": [dataclasses.asdict(each) for each in outcomes]},
    )
    if bad := [each.fault for each in outcomes if not each.is_good]:
        raise SystemExit(f"not as promised: {', '.join(bad)}; what they left: {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    command_line.run(main)
