"""`jaxfm explain --examples`: the training examples that a result may be due to, by influence or as neighbours."""

# Q examples asked about, N training examples

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.task import GivesRecords, Task
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.explanations import Explainer
from jaxfm.training.influence import Examples, influences, kept_checkpoints
from jaxfm.training.saved_run import SavedRun, open_run

INFLUENCE, NEIGHBOURS = WAYS = ("influence", "neighbours")
LINES_FILE, MARKDOWN_FILE = "examples.jsonl", "examples.md"
TOP = 5
MOST_ASKED = 64  # examples: their gradients are kept on the devices
_SHOWN, _GOLD = 90, 30  # characters of a text and of a target in a table


def drawn(count: int, limit: int, seed: int) -> list[int]:
    """Returns the numbers of `limit` of `count` examples, drawn by the seed, in order; of all where that is 0."""
    if not 0 < limit < count:
        return list(range(count))
    return np.sort(np.random.default_rng(seed).choice(count, limit, replace=False)).tolist()


def labelled_task(run: SavedRun, split: str, source: str | None) -> Task:
    """Returns the run's task over a split of its own source, or of another one.

    Raises UserError where examples of the task are not what its model reads.
    """
    task = run.task(source or run.config.data.source, require_split(split))
    if not isinstance(task, GivesRecords):
        raise UserError(
            f"--split={split}: examples of the task {run.definition.name} are not what its model reads. "
            "Give texts, or --input."
        )
    return task


def by_influence(
    workdir: str | pathlib.Path,
    split: str,
    *,
    source: str | None = None,
    limit: int = 8,
    top: int = TOP,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Returns, of examples of a split, the training examples that lower their loss most, and those that raise it most.

    Args:
      workdir: a run directory with one kept checkpoint at least; `training.influence` says how they are used.
      split: of the labelled examples that are asked about.
      source: of them; the run's own if not given. The training examples are those of the run.
      limit: so many of them, drawn by the seed.
      top: how many training examples are named.
      seed: of the draw.
      progress: where to say what is done.

    Raises:
      UserError: a task whose examples are no input of its model, one whose texts take several windows, no checkpoint.
    """
    progress = progress or Progress(None, quiet=True)
    run = open_run(files.user_path(workdir, "--workdir"))
    tasks = [labelled_task(run, name, of) for name, of in (("train", None), (split, source))]
    records, examples = [], []
    for name, task in zip(("train", require_split(split)), tasks, strict=True):
        records.append(task.labelled_records(name))  # type: ignore[attr-defined]
        rows = task.datasets[name]
        if len(rows.example_locations) != len(records[-1]):  # type: ignore[attr-defined]
            raise UserError(
                f"--examples={INFLUENCE}: some examples of {name} take several windows, or none, so that an example "
                f"has no one gradient. --examples={NEIGHBOURS} takes them."
            )
        examples.append(Examples(rows, range(len(records[-1]))))
    asked = drawn(len(records[1]), limit, seed)
    mesh = make_mesh(MeshConfig())
    kept = kept_checkpoints(run, mesh, Build())
    steps = ", ".join(f"{each.step:,}" for each in kept)
    progress.say(
        f"influence of {len(records[0]):,} training examples by the gradients of the head, checkpoints of steps {steps}"
        + ("" if len(kept) > 1 else " (more are kept by config.checkpoint.keep_optimizer=True and keep_last)")
    )
    found_QN = influences(
        tasks[0].objective, kept, examples[0], Examples(examples[1].rows, asked), mesh, run.config.eval.batch_size
    )
    return [
        {
            "example": _named(records[1][number]),
            "for": [_ranked(records[0], row_N, each, "influence") for each in np.argsort(-row_N, kind="stable")[:top]],
            "against": [
                _ranked(records[0], row_N, each, "influence") for each in np.argsort(row_N, kind="stable")[:top]
            ],
        }
        for number, row_N in zip(asked, found_QN, strict=True)
    ]


def neighbours(
    explainer: Explainer, train: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]], top: int = TOP
) -> list[dict[str, Any]]:
    """Returns, of records, the training records whose vectors are nearest by cosine.

    A vector is the mean over a record's words of the hidden states after the last layer.
    """
    train_ND, asked_QD = (_unit(explainer.layer_vectors(each)[-1]) for each in (train, asked))
    found = []
    for record, row_N in zip(asked, asked_QD @ train_ND.T, strict=True):
        nearest = np.argsort(-row_N, kind="stable")[:top]
        found.append(
            {"example": _named(record), "nearest": [_ranked(train, row_N, each, "cosine") for each in nearest]}
        )
    return found


def tables(found: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Returns a table an example: training examples, their labels, and why they are named."""
    made = []
    for each in found:
        rows = []
        for way in ("for", "against", "nearest"):
            for other in each.get(way, ()):
                number = other["influence" if "influence" in other else "cosine"]
                rows.append((way, number, _short(str(other.get("gold", "")), _GOLD), _short(other["text"])))
        gold = f"   (gold: {_short(str(each['example']['gold']), _GOLD)})" if "gold" in each["example"] else ""
        columns = ("", "influence" if "for" in each else "cosine", "gold", "training example")
        formats = {columns[1]: "+.3g"} if "for" in each else {}
        made.append(Table(f"{_short(each['example']['text'])}{gold}", columns, rows, formats=formats))
    return made


def write(found: Sequence[Mapping[str, Any]], folder: pathlib.Path, title: str) -> None:
    """Writes JSON lines and Markdown into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / LINES_FILE, "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in found))
    shown = "\n".join(f"## {table.title}\n\n{to_markdown(table)}" for table in tables(found))
    files.write_text(folder / MARKDOWN_FILE, f"# {title}\n\n{shown}")


def _ranked(records: Sequence[Mapping[str, Any]], values_N: np.ndarray, number: Any, name: str) -> dict[str, Any]:
    return {**_named(records[int(number)]), name: float(f"{values_N[number]:.6g}")}


def _named(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record for a person: its text, or texts, where it is from, and its target."""
    text = record.get("text")
    if text is None:
        text = " ".join(record["tokens"]) if "tokens" in record else str(record["image"].origin)
    pair = {"pair": record["pair"]} if "pair" in record else {}
    return {"text": text, **pair, **{name: record[name] for name in ("gold", "origin", "id") if name in record}}


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=-1, keepdims=True), 1e-12)


def _short(text: str, most: int = _SHOWN) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
