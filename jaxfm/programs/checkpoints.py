"""Lists, verifies or thins out a run's checkpoints: `python -m jaxfm.checkpoints list|verify|prune --workdir=DIR`.

`list` shows the checkpoints, what of each is there, and which the run stands for. `verify` reads every array and
compares its hash with the one that was saved; the exit code is 1 where a checkpoint is damaged. `prune` removes what is
damaged and what a killed save left, and with --keep=N whole checkpoints too, but the newest N and the best one; it
verifies before it removes, and never removes the only whole one.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.tables import Table
from jaxfm.programs import program
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import DAMAGED_DIR, REST_ITEM, UNFINISHED, Checkpoints

USAGE = "usage: python -m jaxfm.checkpoints list|verify|prune --workdir=DIR [--keep=N] [--dry_run] [--output=FILE.json]"
ACTIONS = ("list", "verify", "prune")
EXIT_DAMAGED = 1
WHOLE, DAMAGED, NOT_READ = "whole", "damaged", ""


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint of a run, or what is left of one.

    Attributes:
      path: its folder.
      step: updates done; None for what a killed save left.
      parts: "all", "weights" (what a finished run keeps), "set aside" or "unfinished".
      size: bytes of all its files.
      saved: when it was written, seconds since 1970.
      best: the run calls it its best so far.
      state: "whole" or "damaged"; "" where it was not read.
      why: what is damaged.
    """

    path: pathlib.Path
    step: int | None
    parts: str
    size: int
    saved: float
    best: bool = False
    state: str = NOT_READ
    why: str = ""

    @property
    def usable(self) -> bool:
        """Whether it is a checkpoint under its own name."""
        return self.parts in ("all", "weights")


def checkpoints(workdir: str | pathlib.Path, *, verify: bool = False) -> list[dict[str, Any]]:
    """Returns a record of each checkpoint in a run directory, oldest first, then of what was set aside or left over.

    Args:
      workdir: a run directory.
      verify: read every array and compare it with the hash that was saved with it.

    Returns:
      Dicts of "path", "step", "parts", "bytes", "saved" (seconds since 1970), "best", "state" and "why".

    Raises:
      UserError: the directory holds no run.
    """
    found = _find(files.user_path(workdir, "--workdir"))
    return [_record(each) for each in (_verified(found) if verify else found)]


def prune(workdir: str | pathlib.Path, keep: int | None = None, *, dry_run: bool = False) -> list[dict[str, Any]]:
    """Removes damaged checkpoints and left-overs, and older checkpoints where `keep` is given; returns their records.

    Args:
      workdir: a run directory that no other process trains in.
      keep: how many whole checkpoints stay, the newest ones; the best one stays beside them. None: all.
      dry_run: only says what it would remove.

    Raises:
      UserError: the directory holds no run, or another process holds it; `keep` below 1; none of the checkpoints is
        whole: nothing is removed then.
    """
    workdir = files.user_path(workdir, "--workdir")
    if keep is not None and keep < 1:
        raise UserError(f"--keep={keep}: must be at least 1: a run without a checkpoint is lost.")
    found = _find(workdir)
    with files.held(workdir / workdirs.LOCK_FILE, f"--workdir={workdir}"):
        surplus = _surplus(workdir, list(_verified(found)), keep)
        if not dry_run:
            for each in surplus:
                _remove(each.path)
            damaged = workdir / workdirs.CHECKPOINTS_DIR / DAMAGED_DIR
            if damaged.is_dir() and not any(damaged.iterdir()):
                damaged.rmdir()
    return [_record(each) for each in surplus]


def _find(workdir: pathlib.Path) -> list[Found]:
    workdirs.read_config_values(_require_run(workdir))
    folders = [workdir / name for name in (workdirs.AVERAGED_DIR, workdirs.CHECKPOINTS_DIR)]
    return [each for folder in folders if folder.is_dir() for each in _find_in(folder)]


def _require_run(workdir: pathlib.Path) -> pathlib.Path:
    if not (workdir / workdirs.CONFIG_FILE).is_file():
        raise UserError(f"--workdir={workdir}: holds no run of jaxfm ({workdirs.CONFIG_FILE} is not there).")
    return workdir


def _find_in(folder: pathlib.Path) -> Iterator[Found]:
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    best = _best_of(folder, steps)
    for step in steps:
        path = folder / str(step)
        parts = "all" if (path / REST_ITEM).is_dir() else "weights"
        yield _found(path, step, parts, best=step == best)
    for path in sorted((folder / DAMAGED_DIR).glob("*")):
        name = path.name.partition(".")[0]
        yield dataclasses.replace(_found(path, int(name) if name.isdigit() else None, "set aside"), state=DAMAGED)
    for path in sorted(folder.glob(f"*{UNFINISHED}*")):
        yield _found(path, None, "unfinished")


def _found(path: pathlib.Path, step: int | None, parts: str, *, best: bool = False) -> Found:
    inside = [each.stat() for each in path.rglob("*") if each.is_file()]
    return Found(path, step, parts, sum(each.st_size for each in inside), path.stat().st_mtime, best)


def _best_of(folder: pathlib.Path, steps: Sequence[int]) -> int | None:
    """Returns the best step so far, as the newest checkpoint whose meta can be read says."""
    opened = Checkpoints(folder, read_only=True)
    try:
        for step in reversed(steps):
            try:
                return opened.meta(step)["best"]["step"]
            except (UserError, KeyError, TypeError):
                continue
    finally:
        opened.close()
    return None


def _verified(found: Sequence[Found]) -> Iterator[Found]:
    """Yields what was found, each checkpoint with whether it is whole."""
    opened: dict[pathlib.Path, Checkpoints] = {}
    try:
        for each in found:
            if not each.usable or each.step is None:
                yield each
                continue
            folder = each.path.parent
            if folder not in opened:
                opened[folder] = Checkpoints(folder, read_only=True)
            why = opened[folder].verify(each.step)
            yield dataclasses.replace(each, state=DAMAGED if why else WHOLE, why=why)
    finally:
        for reader in opened.values():
            reader.close()


def _surplus(workdir: pathlib.Path, found: Sequence[Found], keep: int | None) -> list[Found]:
    """Returns what is to go; UserError where that would leave nothing whole."""
    mine = [each for each in found if each.usable]
    whole = [each for each in mine if each.state == WHOLE]
    if mine and not whole:
        raise UserError(
            f"--workdir={workdir}: none of its checkpoints is whole, so nothing is removed. {mine[-1].why} Move the "
            "run directory away to start anew."
        )
    broken = [each for each in found if not each.usable or each.state == DAMAGED]
    if keep is None:
        return broken
    in_turn = [each for each in whole if each.path.parent.name == workdirs.CHECKPOINTS_DIR]
    stay = {each.path for each in in_turn[-keep:]} | {each.path for each in in_turn if each.best}
    stay |= {workdir / workdirs.CHECKPOINTS_DIR / str(_stands_for(workdir))}
    return [*broken, *(each for each in in_turn if each.path not in stay)]


def _stands_for(workdir: pathlib.Path) -> int | None:
    """Returns the step that a finished run stands for; None for an unfinished one."""
    if not (workdir / JSON_FILE).is_file():
        return None
    return workdirs.read_report(workdir).get("training", {}).get("chosen_step")


def _remove(path: pathlib.Path) -> None:
    """Removes a folder under another name first: a checkpoint is there or not, never half of it."""
    going = path.with_name(f"{path.name}{UNFINISHED}-removed")
    path.rename(going)
    shutil.rmtree(going)


def _record(found: Found) -> dict[str, Any]:
    return {
        "path": str(found.path),
        "step": found.step,
        "parts": found.parts,
        "bytes": found.size,
        "saved": found.saved,
        "best": found.best,
        "state": found.state,
        "why": found.why,
    }


def to_table(records: Sequence[dict[str, Any]], title: str) -> Table:
    """Returns the records as a table, without what none of them has."""
    rows = [
        {
            "checkpoint": "/".join(pathlib.Path(each["path"]).parts[-2:]),
            "step": each["step"],
            "holds": each["parts"],
            "MiB": each["bytes"] / 2**20,
            "saved": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["saved"])),
            "best": "best" if each["best"] else "",
            "state": each["state"],
        }
        for each in records
    ]
    columns = [name for name in rows[0] if any(row[name] not in ("", None) for row in rows)]
    return Table(title, columns, [[row[name] for name in columns] for row in rows], formats={"MiB": ",.1f"})


def main(arguments: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if len(arguments) != 1 or arguments[0] not in ACTIONS:
        given = " ".join(arguments) or "nothing"
        raise UserError(f"{given}: is no action. {did_you_mean(given, ACTIONS)}\n{USAGE}")
    (action,) = arguments
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    for name in ("keep", "dry_run"):
        if action != "prune" and values[name].present:
            raise UserError(f"--{name}: is a flag of prune, not of {action}.\n{USAGE}")
    output = None if values.output is None else files.output_file(values.output, "--output")
    progress = Progress(None)
    with libraries_quieted():
        if action == "prune":
            records, title = prune(values.workdir, values.keep, dry_run=values.dry_run), "Removed"
        else:
            records, title = checkpoints(values.workdir, verify=action == "verify"), "Checkpoints"
    _show(progress, records, action, "Would be removed" if values.dry_run else title)
    if output is not None:
        files.write_text(output, json.dumps(records, indent=2) + "\n")
    if action == "verify" and any(each["state"] == DAMAGED and each["parts"] != "set aside" for each in records):
        sys.exit(EXIT_DAMAGED)


def _show(progress: Progress, records: Sequence[dict[str, Any]], action: str, title: str) -> None:
    if not records:
        progress.say("nothing to remove" if action == "prune" else "there is no checkpoint yet")
        return
    progress.table(to_table(records, title))
    for each in records:
        if each["why"]:
            progress.say(f"WARNING: {each['why']}")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_integer("keep", None, "prune: whole checkpoints that stay, the newest ones, and the best one.")
    flags.DEFINE_boolean("dry_run", False, "prune: only say what would be removed.")
    flags.DEFINE_string("output", None, "A JSON file for the records.")
    program.run(main, USAGE, takes_arguments=True)
