"""What a finished run keeps of its checkpoints: the weights it stands for, and nothing else."""

import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from jaxfm.files import check_values
from jaxfm.training.checkpoint import PARAMS_ITEM, REST_ITEM
from jaxfm.training.workdir import AVERAGED_DIR, CHECKPOINTS_DIR

# Where what is dropped is moved first: a checkpoint is there or not, never half of it.
_DROPPED_DIR = ".dropped"


def plan(chosen: int, *, averaged: bool, keep_optimizer: bool) -> dict[str, Any]:
    """Returns the part "checkpoint" of report.json, by which `drop_surplus` works.

    Args:
      chosen: step of the checkpoint that the run stands for.
      averaged: whether a mean of checkpoints stands for it instead.
      keep_optimizer: `config.checkpoint.keep_optimizer`: nothing is dropped.
    """
    return {"step": chosen, "averaged": averaged, "weights_only": not keep_optimizer}


def drop_surplus(workdir: pathlib.Path, report: Mapping[str, Any]) -> str:
    """Removes all checkpoints of a finished run but the weights that it stands for.

    Whatever the moment at which it is stopped, the run opens with the same weights before and after, and calling it
    again finishes the work. Runs of older versions, whose reports do not ask for it, are left as they are.

    Returns:
      A line for the log; "" where nothing was left to remove.
    """
    chosen, surplus = _surplus(workdir, report)
    trash = workdir / _DROPPED_DIR
    if not surplus and not trash.is_dir():
        return ""
    before = sum(_size(workdir / name) for name in (CHECKPOINTS_DIR, AVERAGED_DIR, _DROPPED_DIR))
    trash.mkdir(exist_ok=True)
    for number, path in enumerate(surplus):
        # A name of its own: an earlier call that was stopped may have moved one of the same name.
        os.replace(path, trash / f"{path.name}.{os.getpid()}.{number}")
    shutil.rmtree(trash)
    after = sum(_size(workdir / name) for name in (CHECKPOINTS_DIR, AVERAGED_DIR))
    what = "the mean of the best checkpoints" if chosen is None else f"step {int(chosen.name):,}"
    others = sorted(int(path.name) for path in surplus if path.name.isdigit())
    named = f" and the checkpoints of steps {', '.join(f'{step:,}' for step in others)}" if others else ""
    return (
        f"checkpoints: the weights of {what} are kept; the optimizer's state{named} dropped: "
        f"{before / 2**20:,.0f} MiB -> {after / 2**20:,.0f} MiB (config.checkpoint.keep_optimizer=True keeps all)"
    )


def is_cut_off(workdir: pathlib.Path, report: Mapping[str, Any]) -> bool:
    """Returns whether `drop_surplus` has something left to do for a finished run."""
    return bool(_surplus(workdir, report)[1]) or (workdir / _DROPPED_DIR).is_dir()


def _surplus(workdir: pathlib.Path, report: Mapping[str, Any]) -> tuple[pathlib.Path | None, list[pathlib.Path]]:
    """Returns the folder of the checkpoint that is kept (None: a mean stands for the run), and what is to go."""
    kept, folder = report.get("checkpoint") or {}, workdir / CHECKPOINTS_DIR
    if not kept.get("weights_only"):
        return None, []
    # A number, never a path: what is surplus is removed.
    check_values(kept, {"step": int, "averaged": bool}, f"{workdir}: the part 'checkpoint' of report.json")
    chosen = None if kept["averaged"] else folder / str(kept["step"])
    weights = workdir / AVERAGED_DIR if chosen is None else chosen / PARAMS_ITEM
    if not weights.is_dir():  # somebody else has been here: touch nothing
        return chosen, []
    surplus = [path for path in folder.glob("*") if path.name.isdigit() and path != chosen]
    if chosen is not None and (chosen / REST_ITEM).is_dir():
        surplus.append(chosen / REST_ITEM)
    return chosen, surplus


def _size(folder: pathlib.Path) -> int:
    """Returns the bytes of all files under a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
