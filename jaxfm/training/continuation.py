"""A run that begins from the whole state of another run at a step, with other values of some keys.

What begins is an ordinary run directory that holds a checkpoint already: weights, optimizer, random key, step (and with
it the schedule and the place in the data), open sums and the metrics so far. So it goes on by the rules by which any
run resumes, and none of them knows of this. `history.json` says what was changed, at which step, and of which run.

Population-based training copies checkpoints so (`jaxfm.tuning`), and a model that grows is a chain of such runs
(`jaxfm.training.growth`).
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Collection
from typing import Any

from jaxfm import files
from jaxfm.config import FREE_ON_RESUME, Config
from jaxfm.errors import UserError
from jaxfm.observe.writers import METRICS_FILE
from jaxfm.schema import flatten, is_under, to_dict
from jaxfm.training import manifest
from jaxfm.training import workdir as workdirs
from jaxfm.training.best import Best
from jaxfm.training.checkpoint import META_ITEM, PARAMS_ITEM, REST_ITEM, Checkpoints
from jaxfm.training.history import HISTORY_FILE, Turn, read_history, write_history

STAGES_DIR = "stages"  # of a run that was trained as a chain of runs: all of them but the last
_OWN = (workdirs.CHECKPOINTS_DIR, METRICS_FILE)

Rewrite = Callable[[Any, Any], tuple[Any, Any]]
"""(parameters, all other arrays of a checkpoint) -> the same of another shape."""


def begin(
    parent: pathlib.Path,
    step: int,
    config: Config,
    workdir: pathlib.Path,
    *,
    may_change: Collection[str],
    why: str,
    rewrite: Rewrite | None = None,
) -> None:
    """Makes the run directory of a run that goes on from the checkpoint of another one.

    It may be killed at any moment and called again: config.json, by which a directory holds a run, is written last.
    One process makes it, and the caller keeps others out of both directories.

    Args:
      parent: a run directory that has a whole checkpoint of `step`.
      step: where the new run goes on.
      config: of the new run; what it leaves open is as the parent chose it.
      workdir: of the new run; absent, empty but for `STAGES_DIR`, or left by a call that was killed.
      may_change: keys that may differ from the parent's.
      why: a clause about the reason, for people.
      rewrite: what is done with the arrays; None: the files are copied. Evaluations from before a rewrite do not choose
        a checkpoint any more, as their weights are of another shape.

    Raises:
      UserError: no whole checkpoint of that step, another key that differs, a directory of something else.
    """
    if (workdir / workdirs.CONFIG_FILE).is_file():
        return
    config = workdirs.with_chosen(parent, config)
    changed = _changed(parent, config, may_change)
    _clear(workdir)
    earlier = [
        dataclasses.replace(turn, run=files.relative_path(parent / turn.run, workdir)) for turn in read_history(parent)
    ]
    turns = [*earlier, Turn(step, files.relative_path(parent, workdir), changed, why)]
    workdir.mkdir(parents=True, exist_ok=True)
    write_history(workdir, turns)  # first: what follows is ours
    _take_checkpoints(parent, step, workdir, rewrite)
    if (parent / METRICS_FILE).is_file():  # lines of later steps go when the run is resumed
        shutil.copyfile(parent / METRICS_FILE, workdir / METRICS_FILE)
    workdirs.write_config(workdir, config, workdirs.read_origin(parent))


def _changed(parent: pathlib.Path, config: Config, may_change: Collection[str]) -> dict[str, tuple[Any, Any]]:
    before, after = flatten(workdirs.read_config_values(parent)), flatten(to_dict(config))
    keys = [key for key in sorted(before | after) if not is_under(key, FREE_ON_RESUME)]
    changed = {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}
    if others := [key for key in changed if key not in may_change]:
        old, new = changed[others[0]]
        raise UserError(
            f"config.{others[0]}: {old!r} -> {new!r}: cannot change in the middle of a run, at {parent}. Keys that can "
            f"here: {', '.join(sorted(may_change))}."
        )
    return changed


def check_free(workdir: pathlib.Path) -> None:
    """Raises UserError unless `begin` can make a run directory of this one: absent, or nobody else's."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; name a directory.")
    files.check_parents(workdir, "--workdir")
    ours = (workdir / HISTORY_FILE).is_file()
    known = {STAGES_DIR, HISTORY_FILE, *(_OWN if ours else ())}
    inside = workdir.iterdir() if workdir.is_dir() else ()
    if any(path.name not in known and not path.name.startswith(".") for path in inside):
        raise UserError(f"--workdir={workdir}: is not empty and holds no run of jaxfm. Name a new directory.")


def _clear(workdir: pathlib.Path) -> None:
    """Removes what a call that was killed has left."""
    check_free(workdir)
    shutil.rmtree(workdir / workdirs.CHECKPOINTS_DIR, ignore_errors=True)
    (workdir / METRICS_FILE).unlink(missing_ok=True)


def _take_checkpoints(parent: pathlib.Path, step: int, workdir: pathlib.Path, rewrite: Rewrite | None) -> None:
    source, target = parent / workdirs.CHECKPOINTS_DIR, workdir / workdirs.CHECKPOINTS_DIR
    if not (source / str(step) / REST_ITEM).is_dir():
        raise UserError(f"{source}: there is no checkpoint of step {step} that a run can go on from.")
    known = Checkpoints(source, read_only=True)
    try:
        if rewrite is not None:
            _rewrite(known, step, target, rewrite)
            return
        best = Best.restored(known.meta(step)["best"])
    finally:
        known.close()
    folder = source / str(step)
    files.check_room(workdir, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), "a checkpoint")
    shutil.copytree(folder, target / folder.name)
    manifest.check(target / folder.name, (PARAMS_ITEM, REST_ITEM, META_ITEM))
    # The best ones so far may come to stand for this run too. Of these the weights alone: a run whose first checkpoint
    # were damaged would else go on from one of before its beginning, by its own config.
    for kept in best.kept:
        if kept != step and (source / str(kept)).is_dir():
            shutil.copytree(source / str(kept), target / str(kept), ignore=shutil.ignore_patterns(REST_ITEM))
    copied = Checkpoints(target, read_only=True)
    try:
        if problem := copied.verify(step):
            raise UserError(problem)
    finally:
        copied.close()


def _rewrite(known: Checkpoints, step: int, target: pathlib.Path, rewrite: Rewrite) -> None:
    params, rest, meta = known.read_whole(step)
    params, rest = rewrite(params, rest)
    written = Checkpoints(target)
    try:
        written.save_whole(step, params, rest, meta | {"best": dataclasses.asdict(Best())})
        written.wait()
    finally:
        written.close()
