"""The data of stages: those of several together, and a store of examples that are learned from again."""

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.task import GivesRecords, Task, WritesExamples
from jaxfm.data.records import exemplars
from jaxfm.errors import UserError
from jaxfm.schema import flatten, replaced, to_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.saved_run import open_run

TRAIN = "train"
_EXAMPLES, _FACTS = "store.jsonl", "facts.json"
# Written data have the usual names of columns, whatever those of the sources are.
_COLUMNS = tuple(
    f"data.{name}_column" for name in ("words", "tags", "document", "text", "pair", "label", "group", "time")
)


@dataclasses.dataclass(frozen=True)
class Kept:
    """An example in a store.

    Attributes:
      group: of which the store holds equal shares: a class, or a stage.
      line: the example, as `core.task.WritesExamples` writes it.
    """

    group: str
    line: Mapping[str, Any]


def splits_of(run: pathlib.Path) -> list[str]:
    """Returns the splits that a run of a stage has, "train" first."""
    return [TRAIN, *workdirs.read_report(run)["splits"]]


def open_split(run: pathlib.Path, split: str) -> Task:
    """Returns the task over a split of a run's own source.

    Raises UserError for a task whose examples are not written as a source again.
    """
    opened = open_run(run)
    task = opened.task(opened.config.data.source, split)
    if not isinstance(task, WritesExamples):
        raise UserError(
            f"--method: joint and replay need examples that can be written as a source again, which the task "
            f"{opened.config.task.name!r} does not do (core.task.WritesExamples); ner and classification do."
        )
    return task


def lines_of(run: pathlib.Path, split: str) -> list[dict[str, Any]]:
    """Returns the examples of a split of a run's own source, as JSON lines that are a source again."""
    task = open_split(run, split)
    assert isinstance(task, WritesExamples)
    return task.example_lines(split)


def write_joint(folder: pathlib.Path, runs: Sequence[pathlib.Path]) -> None:
    """Writes the data of several stages as one source, split by split; what is there already is kept.

    Args:
      folder: of the source.
      runs: a run of each stage's own data.
    """
    if folder.is_dir():
        return
    with files.atomic_directory(folder) as made:
        for split in dict.fromkeys(itertools.chain.from_iterable(map(splits_of, runs))):
            parts = [lines_of(run, split) for run in runs if split in splits_of(run)]
            _write_lines(made / f"{split}.jsonl", _one_document_each(parts))


def write_replayed(folder: pathlib.Path, run: pathlib.Path, store: Sequence[Kept], times: int) -> None:
    """Writes the data of a stage with a store's examples among those that are trained on; kept where it is there.

    Args:
      folder: of the source.
      run: of the stage's own data.
      store: what is learned from again.
      times: how often each of its examples stands in the data.
    """
    if folder.is_dir():
        return
    with files.atomic_directory(folder) as made:
        for split in splits_of(run):
            parts = [lines_of(run, split)]
            if split == TRAIN:
                # Each a document of its own: what stood beside it is not there.
                parts += [[_numbered(each.line, number) for number, each in enumerate(store)]] * times
            _write_lines(made / f"{split}.jsonl", _one_document_each(parts))


def over(config: Config, folder: pathlib.Path) -> Config:
    """Returns the config over data that were written here."""
    known = flatten(to_dict(config))
    values: dict[str, Any] = {key: "" for key in _COLUMNS if key in known} | {
        "data.source": f"jsonl:{folder.resolve()}"
    }
    if "task.shots" in known:  # drawn already
        values["task.shots"] = 0
    return replaced(config, values)


def read_store(folder: pathlib.Path) -> tuple[list[Kept], int]:
    """Returns what `write_store` has written: the examples, and how many there were to choose from."""
    lines = (folder / _EXAMPLES).read_text(encoding="utf-8").splitlines()
    kept = [Kept(values["group"], values["line"]) for values in map(json.loads, lines)]
    return kept, int(files.read_object(folder / _FACTS)["seen"])


def write_store(folder: pathlib.Path, kept: Sequence[Kept], seen: int) -> None:
    """Writes a store, whole or not at all."""
    counts = collections.Counter(each.group for each in kept)
    with files.atomic_directory(folder) as made:
        _write_lines(made / _EXAMPLES, (dataclasses.asdict(each) for each in kept))
        files.write_json(made / _FACTS, {"seen": seen, "kept": len(kept), "groups": dict(counts)})


def fill_reservoir(
    before: pathlib.Path | None, folder: pathlib.Path, run: pathlib.Path, stage: str, size: int, seed: Sequence[int]
) -> None:
    """Writes the store after a stage, filled by a reservoir over the training examples of all stages so far.

    Args:
      before: the store after the stage before; None: there was none.
      folder: to write.
      run: of the stage's own data.
      stage: its name.
      size: of the store.
      seed: of the draws.
    """
    if folder.is_dir():
        return
    kept, seen = ([], 0) if before is None else read_store(before)
    new = [Kept(_class_of(line) or stage, line) for line in lines_of(run, TRAIN)]
    write_store(folder, exemplars.reservoir(kept, seen, new, size, seed), seen + len(new))


def fill_by_herding(
    before: pathlib.Path | None,
    folder: pathlib.Path,
    run: pathlib.Path,
    see: Callable[[Sequence[Mapping[str, Any]]], np.ndarray],
    stage: str,
    size: int,
) -> None:
    """Writes the store after a stage, filled by herding: an equal share of each class, or else of each stage (iCaRL).

    Args:
      before: the store after the stage before; None: there was none.
      folder: to write.
      run: of the stage's own data.
      see: gives the vectors f32 [N, D] of records, which say which examples are near to their mean.
      stage: its name.
      size: of the store.

    Raises:
      UserError: a store with less than one place for each class or stage; a task without vectors of records.
    """
    if folder.is_dir():
        return
    kept, seen = ([], 0) if before is None else read_store(before)
    task = open_split(run, TRAIN)
    assert isinstance(task, WritesExamples)
    if not isinstance(task, GivesRecords):
        raise UserError("--method=replay_herding: needs records of training examples (core.task.GivesRecords).")
    lines, vectors_ND = task.example_lines(TRAIN), see(task.labelled_records(TRAIN))
    of_group: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        of_group.setdefault(_class_of(line) or stage, []).append(number)
    groups = list(dict.fromkeys([*(each.group for each in kept), *of_group]))
    share = size // len(groups)
    if not share:
        raise UserError(f"--store={size}: has less than one place for each of {len(groups)} classes or stages so far.")
    chosen = []
    for group in groups:
        # Those of before come first: they were the nearest to their mean among more.
        mine = [each for each in kept if each.group == group]
        if numbers := of_group.get(group, []):
            order = exemplars.herding(vectors_ND[numbers], share)
            new = [Kept(group, lines[numbers[place]]) for place in order]
            # Old and new ones of a class in turns, so that both stay when shares become smaller.
            pairs = itertools.zip_longest(mine, new)
            mine = [each for pair in pairs for each in pair if each is not None]
        chosen += mine[:share]
    write_store(folder, chosen, seen + len(lines))


def _class_of(line: Mapping[str, Any]) -> str:
    """Returns the one class of an example; "" where it has none, or several."""
    label = line.get("label")
    return str(label) if isinstance(label, str | int) else ""


def _numbered(line: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {**line, "document": number} if "document" in line else {**line}


def _one_document_each(parts: Sequence[Sequence[Mapping[str, Any]]]) -> Iterable[Mapping[str, Any]]:
    """Yields the lines of all parts; documents of two parts have different numbers."""
    first = 0
    for part in parts:
        numbers = [line["document"] for line in part if "document" in line]
        for line in part:
            yield {**line, "document": first + line["document"]} if "document" in line else line
        first += max(numbers, default=-1) + 1


def _write_lines(path: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
