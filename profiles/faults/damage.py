"""Damages every file of a checkpoint and of a prepared corpus in every way, and says what a run makes of each.

    python -m profiles.faults.damage --output=profiles/results/faults_damage.json

A run that was stopped midway has two whole checkpoints. Each file of the newer one is damaged, one at a time, and the
state is restored: it must be the newer state, bit for bit (the damage is harmless), or the older one (fallback). Of
each kind of damage one run is then trained to its end and compared with the run that nothing damaged. A corpus must be
refused, or give the rows that it gave before.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import rich.console

from jaxfm import files
from jaxfm.core.task import Task
from jaxfm.data.corpora import shards
from jaxfm.errors import UserError
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.tables import Table
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training import initial
from jaxfm.training.checkpoint import DAMAGED_DIR, Checkpoints, array_hashes
from jaxfm.training.saved_run import open_run
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.workdir import CHECKPOINTS_DIR
from profiles import command_line
from profiles.faults import kills, small_runs
from profiles.faults.small_runs import made_by

HARMLESS, FELL_BACK, REFUSED, SILENT = "harmless", "fell back", "refused", "SILENT"
CASE = "ner"
_LOOKED_AT = 10**6  # bytes of a file


@dataclasses.dataclass(frozen=True)
class Damage:
    """A way to damage a file; `apply` gets the file, one of the same kind, and a random number generator."""

    name: str
    apply: Callable[[pathlib.Path, pathlib.Path, random.Random], None]


def flip(path: pathlib.Path, other: pathlib.Path, draw: random.Random) -> None:
    """Flips one bit of a byte that is not zero, anywhere in the file."""
    del other
    content = bytearray(path.read_bytes())
    used = [index for index, byte in enumerate(content[:_LOOKED_AT]) if byte]  # padding is of no account
    content[draw.choice(used or [0])] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def flip_unseen(path: pathlib.Path, other: pathlib.Path, draw: random.Random) -> None:
    """Flips one bit and keeps the file's time, as a failing disk does."""
    status = path.stat()
    flip(path, other, draw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cut(path: pathlib.Path, other: pathlib.Path, draw: random.Random) -> None:
    """Cuts the file anywhere."""
    del other
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def remove(path: pathlib.Path, other: pathlib.Path, draw: random.Random) -> None:
    """Removes the file."""
    del other, draw
    path.unlink()


def empty(path: pathlib.Path, other: pathlib.Path, draw: random.Random) -> None:
    """Leaves nothing in the file."""
    del other, draw
    path.write_bytes(b"")


def swap(path: pathlib.Path, other: pathlib.Path, draw: random.Random) -> None:
    """Puts another file of the same kind in its place."""
    del draw
    shutil.copyfile(other, path)


DAMAGES = (
    Damage("flipped bit", flip),
    Damage("flipped bit, file time kept", flip_unseen),
    Damage("cut", cut),
    Damage("missing", remove),
    Damage("empty", empty),
    Damage("another's", swap),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one damaged file: `kind` is what the file is ("params data"), `what` came, and the `message`."""

    kind: str
    damage: str
    what: str
    message: str = ""


def of_checkpoint(folder: pathlib.Path, flips: int, seed: int) -> list[Outcome]:
    """Damages each file of the newer of two checkpoints; a bit is flipped in `flips` places, one at a time."""
    workdir = folder / "stopped"
    setup, task = _stopped_run(folder, workdir)
    del task
    source = workdir / CHECKPOINTS_DIR
    older, newer = sorted(int(path.name) for path in source.iterdir() if path.name.isdigit())
    wanted = {step: _state_of(source, setup, only=step, folder=folder) for step in (older, newer)}
    assert wanted[older] != wanted[newer]
    outcomes = []
    for name, damage, copy in _damaged(source, newer, older, folder / "damaged", flips, seed):
        with _warnings() as said:
            try:
                got = _restored(copy, setup)
            except UserError as error:
                outcomes.append(Outcome(_kind(name), damage.name, REFUSED, str(error)))
                continue
        what = HARMLESS if got == wanted[newer] else FELL_BACK if got == wanted[older] else SILENT
        if what == FELL_BACK and not (said and (copy / DAMAGED_DIR / str(newer)).is_dir()):
            what = SILENT
        outcomes.append(Outcome(_kind(name), damage.name, what, " ".join(said)))
    return outcomes


def _damaged(
    source: pathlib.Path, step: int, other: int, copy: pathlib.Path, flips: int, seed: int
) -> Iterator[tuple[str, Damage, pathlib.Path]]:
    """Yields file, damage and the damaged copy of the checkpoints, one after the other."""
    draw = random.Random(seed)
    folder = source / str(step)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        name = path.relative_to(folder).as_posix()
        for damage in DAMAGES:
            for _ in range(flips if damage.apply in (flip, flip_unseen) else 1):
                shutil.copytree(source, copy)
                damage.apply(copy / str(step) / name, _counterpart(copy / str(other), name), draw)
                yield name, damage, copy
                shutil.rmtree(copy)


def _counterpart(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file of another checkpoint that is like this one: the same name, or the largest of its folder."""
    if (folder / name).is_file():
        return folder / name
    inside = [path for path in (folder / name).parent.iterdir() if path.is_file()]
    return max(inside, key=lambda path: path.stat().st_size)


def _kind(name: str) -> str:
    """Returns what a file is, without the part of its name that is drawn at random."""
    parts = name.split("/")
    return "/".join([*parts[:-1], "*"]) if parts[-2:-1] == ["d"] else name


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects what jaxfm warns of, and keeps it off the terminal."""
    logger, said = logging.getLogger("jaxfm"), []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _stopped_run(folder: pathlib.Path, workdir: pathlib.Path) -> tuple[Setup, Task]:
    """Trains a run, kills it after its second save, and returns what it is set up as."""
    command = small_runs.BY_NAME[CASE].command(folder, workdir)
    two = kills.Moment(
        "two saves", 0.0, lambda path: (path / CHECKPOINTS_DIR / str(2 * small_runs.SAVE_STEPS)).is_dir()
    )
    code = kills.attempt(command, workdir, two, signal.SIGKILL, folder / "stopped.log")
    if code != -signal.SIGKILL:
        raise RuntimeError(f"the run could not be killed after its second save: it ended with {code}")
    config = open_run(workdir).config
    task, loaded = registry.create(config, initial.resolve(config.model))
    return set_up(config, task, loaded, make_mesh(config.parallel.mesh)), task


def _restored(directory: pathlib.Path, setup: Setup) -> tuple[Any, ...]:
    """Returns the state that a run would go on from: the hashes of all arrays, and what it remembers beside them."""
    checkpoints = Checkpoints(directory, keep_last=2)
    try:
        sums = setup.session.empty_sums()
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), sums)
        restored = checkpoints.restore_latest(setup.session.abstract, shapes)
    finally:
        checkpoints.close()
    assert restored is not None
    state, sums, meta = restored
    return array_hashes({"state": state, "sums": sums}), meta


def _state_of(source: pathlib.Path, setup: Setup, *, only: int, folder: pathlib.Path) -> tuple[Any, ...]:
    alone = folder / f"only_{only}"
    shutil.copytree(source / str(only), alone / str(only))
    return _restored(alone, setup)


def of_corpus(folder: pathlib.Path, flips: int, seed: int) -> list[Outcome]:
    """Damages each file of a prepared corpus and reads all its rows."""
    source, copy, draw = folder / "shards" / "train", folder / "damaged", random.Random(seed)
    wanted = _rows(source)
    outcomes = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = path.relative_to(source).as_posix()
        others = [each for each in sorted(path.parent.iterdir()) if each != path and each.is_file()]
        other = min(others, key=lambda each: each.suffix != path.suffix)
        for damage in DAMAGES:
            for _ in range(flips if damage.apply in (flip, flip_unseen) else 1):
                shutil.copytree(source, copy)
                damage.apply(copy / name, copy / other.relative_to(source), draw)
                kind = "rows-*.array_record" if path.suffix == ".array_record" else name
                try:
                    what, message = (HARMLESS if _rows(copy) == wanted else SILENT), ""
                except UserError as error:
                    what, message = REFUSED, str(error)
                outcomes.append(Outcome(kind, damage.name, what, message))
                shutil.rmtree(copy)
    return outcomes


def _rows(directory: pathlib.Path) -> bytes:
    """Returns all that a run takes from a prepared corpus: rows, counts of tokens, the tokenizer's files, shapes."""
    rows = shards.ShardedRows(directory)
    taken = rows.take(np.arange(len(rows)))
    tokenizer = [path.read_bytes() for path in sorted(rows.tokenizer_directory.rglob("*")) if path.is_file()]
    parts = [*(taken[name].tobytes() for name in sorted(taken)), rows.token_counts().tobytes(), *tokenizer]
    return b"|".join([*parts, f"{rows.row_length} {rows.pad_id} {rows.vocab_size} {rows.fingerprint()}".encode()])


def trained_on(folder: pathlib.Path) -> list[str]:
    """Damages the newest checkpoint of a stopped run in each way and trains on; returns what differs from the twin."""
    case = kills.make_case(CASE, folder)
    wrong = []
    for number, damage in enumerate(DAMAGES):
        workdir = folder / f"damaged_{number}"
        shutil.copytree(folder / "stopped", workdir)
        steps = sorted(int(path.name) for path in (workdir / CHECKPOINTS_DIR).iterdir() if path.name.isdigit())
        newest = workdir / CHECKPOINTS_DIR / str(steps[-1])
        data = max((newest / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
        other = _counterpart(workdir / CHECKPOINTS_DIR / str(steps[0]), data.relative_to(newest).as_posix())
        damage.apply(data, other, random.Random(number))
        code = kills.attempt(case.command(workdir), workdir, None, signal.SIGKILL, folder / f"damaged_{number}.log")
        differs = [f"exit code {code}"] if code else kills.run_differences(workdir, case.twin)
        if "Traceback" in (folder / f"damaged_{number}.log").read_text(encoding="utf-8"):
            differs.append("a traceback was printed")
        wrong += [f"{damage.name}: {each}" for each in differs]
    return wrong


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """Returns a row for each file and what came of each damage; several outcomes of one are counted."""
    kinds = list(dict.fromkeys(each.kind for each in outcomes))
    columns = [damage.name for damage in DAMAGES]

    def cell(kind: str, damage: str) -> str:
        found = collections.Counter(each.what for each in outcomes if (each.kind, each.damage) == (kind, damage))
        return ", ".join(what if len(found) == 1 else f"{count} {what}" for what, count in found.most_common())

    return Table(title, ["file", *columns], [[kind, *(cell(kind, name) for name in columns)] for kind in kinds])


def _as_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    by_file: dict[str, dict[str, dict[str, int]]] = {}
    for each in outcomes:
        counts = by_file.setdefault(each.kind, {}).setdefault(each.damage, {})
        counts[each.what] = counts.get(each.what, 0) + 1
    total = collections.Counter(each.what for each in outcomes)
    return {"trials": len(outcomes), "outcomes": dict(total), "by_file": by_file}


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--flips", type=int, default=5, help="places in which a bit of each file is flipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    if arguments.flips < 1:
        raise UserError(f"--flips={arguments.flips}: must be at least 1.")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxfm-damage-"))
    small_runs.write_all(folder)
    with libraries_quieted():
        found = {
            "checkpoint": of_checkpoint(folder, arguments.flips, arguments.seed),
            "corpus": of_corpus(folder, arguments.flips, arguments.seed),
        }
    for name, outcomes in found.items():
        rich.console.Console(width=160).print(table(outcomes, f"A damaged file of a {name}"))
    wrong = trained_on(folder)
    print("trained on from a damaged checkpoint: " + ("; ".join(wrong) or "the twin, six times of six"))
    values = {name: _as_json(outcomes) for name, outcomes in found.items()}
    files.write_json(
        arguments.output,
        made_by(argv, __file__) | values | {"trained_on_and_not_the_twin": wrong, "seed": arguments.seed},
    )
    silent = [each for outcomes in found.values() for each in outcomes if each.what == SILENT]
    if silent or wrong:
        raise SystemExit(f"{len(silent)} damages were not noticed: {silent[:3]}; {wrong}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    command_line.run(main)
