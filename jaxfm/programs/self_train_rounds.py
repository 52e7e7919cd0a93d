"""The rounds of self-training: a teacher's labels as a source, a student as a run, and which of the runs is kept."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.task import Task, WritesExamples
from jaxfm.data.records.annotation_tasks import predicted_classes
from jaxfm.data.records.near_texts import record_text
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.errors import UserError
from jaxfm.evaluation import pseudo_labels
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.unlabelled_pool import Pool
from jaxfm.schema import replaced
from jaxfm.training import workdir as workdirs
from jaxfm.training.pool_outputs import PoolModel
from jaxfm.training.saved_run import SavedRun

JSON_FILE, MARKDOWN_FILE = "self_training.json", "self_training.md"
TRAIN, VALID = "train", "valid"
HARD, SOFT = LABELS = ("hard", "soft")
DATA, _FACTS, _DIGESTS = "data", "facts.json", "digests.json"
# The students' data have the usual names of columns, whatever those of the source are.
_COLUMNS = tuple(
    f"data.{name}_column" for name in ("words", "tags", "document", "text", "pair", "label", "group", "time")
)


@dataclasses.dataclass(frozen=True)
class Rules:
    """Which labels of a teacher are learned from, and how.

    Attributes:
      rounds: how many students are trained, one after the other.
      threshold: least confidence of a record.
      per_class: most records of a class; 0: any number.
      balance: whether no class has more than the rarest.
      over: "min" or "mean", how the confidence of words is that of a record.
      labels: "hard" (classes) or "soft" (the teacher's outputs, by distillation).
    """

    rounds: int
    threshold: float
    per_class: int
    balance: bool
    over: str
    labels: str


@dataclasses.dataclass(frozen=True)
class Round:
    """A run of self-training; round 0 is the first teacher.

    Attributes:
      number: of the round.
      workdir: its run directory.
      facts: of the labels that it learned from; empty of round 0.
      report: of the run.
    """

    number: int
    workdir: pathlib.Path
    facts: Mapping[str, Any]
    report: Mapping[str, Any]

    def score(self, split: str, metric: str) -> float | None:
        """Returns a score; None where the run has none of that split."""
        return self.report["splits"].get(split, {}).get(metric)


def labelled_task(run: SavedRun, split: str) -> Task:
    """Returns the task over a split of the run's own source; UserError for a task whose examples are no source."""
    task = run.task(run.config.data.source, split)
    if not isinstance(task, WritesExamples):
        raise UserError(
            f"--workdir: runs of the task {run.config.task.name} cannot be self-trained: its examples are not written "
            "as a source again (core.task.WritesExamples); ner and classification are."
        )
    return task


def write_labels(
    folder: pathlib.Path,
    teacher: PoolModel,
    first: SavedRun,
    pool: Pool,
    rules: Rules,
    before: pathlib.Path | None,
    progress: Progress,
) -> dict[str, Any] | None:
    """Writes the data of a student, whole or not at all, and returns facts of them; those that are there are kept.

    None: the teacher of a later round than the first is sure of no record.

    Args:
      folder: to write, with the source in its folder DATA.
      teacher: whose labels they are.
      first: the run whose labelled data are learned from too.
      pool: the unlabelled records.
      rules: which of them are taken.
      before: the folder of the round before, with whose labels these are compared.
      progress: where to show how far it is.

    Raises:
      UserError: no record is sure enough for a first round.
    """
    if (folder / _FACTS).is_file():
        return files.read_object(folder / _FACTS)
    train = labelled_task(first, TRAIN)
    assert isinstance(train, WritesExamples)
    sure, results = [], []
    with progress.task("labelling unlabelled records", len(pool.records)) as advance:
        for seen in teacher.see(pool.records):
            sure.append(pseudo_labels.confidence(seen.probabilities, teacher.gives.probability, rules.over))
            results.append(seen.result)
            advance(1)
    confidence_N = np.asarray(sure)
    classes = [_classes(each) for each in results]
    taken = pseudo_labels.choose(
        confidence_N, classes, rules.threshold, per_class=rules.per_class, balance=rules.balance
    )
    if not taken and before is not None:
        return None
    if not taken:
        number = int(confidence_N.argmax())
        raise UserError(
            f"--threshold={rules.threshold:g}: none of the {len(results):,} unlabelled records is so sure; the surest "
            f"has {confidence_N[number]:.3f} ({record_text(pool.records[number])[:60]!r}). Lower it"
            f"{', or take --over=mean' if teacher.gives.of_words and rules.over != pseudo_labels.MEAN else ''}."
        )
    lines = train.predicted_lines(TRAIN, results)
    digests = [pseudo_labels.label_digest({**line, "document": 0}) for line in lines]
    labelled = train.example_lines(TRAIN)
    chosen = [name for number in taken for name in classes[number] or (pseudo_labels.NOTHING,)]
    facts = {
        "teacher": str(teacher.workdir),
        "labelled": len(labelled),
        "pool": len(results),
        "pseudo_labelled": len(taken),
        "classes": dict(collections.Counter(chosen).most_common()),
        "mean_confidence": float(confidence_N[taken].mean()),
        "agreement": None if before is None else pseudo_labels.agreement(files.read_json(before / _DIGESTS), digests),
    }
    with files.atomic_directory(folder) as made:
        (made / DATA).mkdir()
        _write_lines(made / DATA / f"{TRAIN}.jsonl", [*labelled, *(lines[number] for number in taken)])
        for split in SPLIT_NAMES:
            if split != TRAIN and split in workdirs.read_report(first.workdir)["splits"]:
                task = labelled_task(first, split)
                assert isinstance(task, WritesExamples)
                _write_lines(made / DATA / f"{split}.jsonl", task.example_lines(split))
        files.write_json(made / _DIGESTS, digests)
        files.write_json(made / _FACTS, to_json(facts))
    return facts


def student_config(config: Config, data: pathlib.Path, metric: str, teacher: PoolModel, labels: str) -> Config:
    """Returns the config of a student over the data of a round."""
    values: dict[str, Any] = {"data.source": f"jsonl:{data.resolve()}", "eval.metric": metric}
    values |= dict.fromkeys(_COLUMNS, "")
    if labels == SOFT:
        values["distil.teacher"] = ",".join(f"run:{run.workdir.resolve()}" for run in teacher.runs)
    return replaced(config, values)


def best_round(rounds: Sequence[Round], metric: str, *, more_is_better: bool) -> Round:
    """Returns the round with the best score on the validation split, the first of equal ones."""
    sign = 1.0 if more_is_better else -1.0

    def value(each: Round) -> float:
        score = each.score(VALID, metric)
        return -np.inf if score is None or not np.isfinite(score) else sign * score

    return max(rounds, key=value)


def table(rounds: Sequence[Round], metric: str, kept: int) -> Table:
    """Returns a row a round."""
    splits = [split for split in (VALID, "test") if rounds[0].score(split, metric) is not None]
    rows: list[tuple[Cell, ...]] = []
    for each in rounds:
        facts = each.facts
        share = facts["pseudo_labelled"] / facts["pool"] if facts else None
        named = (facts.get("labelled"), facts.get("pseudo_labelled"), share)
        trust = (facts.get("mean_confidence"), facts.get("agreement"))
        scores = tuple(each.score(split, metric) for split in splits)
        rows.append((each.number, *named, *trust, *scores, "kept" if each.number == kept else ""))
    columns = ("round", "labelled", "pseudo-labelled", "of the pool", "confidence", "agreement")
    return Table(
        "Rounds of self-training (round 0: the first teacher)",
        (*columns, *(f"{metric} on {split}" for split in splits), ""),
        rows,
        formats=dict.fromkeys(columns[3:], ".1%"),
    )


def class_table(rounds: Sequence[Round]) -> Table:
    """Returns how many pseudo-labelled records of each class a round has."""
    names = dict.fromkeys(name for each in rounds for name in each.facts.get("classes", ()))
    rows = [(each.number, *(each.facts["classes"].get(name, 0) for name in names)) for each in rounds if each.facts]
    return Table("Classes of the pseudo-labels", ("round", *names), rows)


def write_report(
    folder: pathlib.Path, rounds: Sequence[Round], metric: str, kept: int, identity: Mapping[str, Any]
) -> None:
    """Writes self_training.json and self_training.md into the run that is kept."""
    found = {
        "version": 1,
        "asked": dict(identity),
        "metric": metric,
        "kept": kept,
        "rounds": [
            {
                "round": each.number,
                "workdir": str(each.workdir),
                **each.facts,
                "scores": {split: values.get(metric) for split, values in each.report["splits"].items()},
            }
            for each in rounds
        ],
    }
    tables = (table(rounds, metric, kept), class_table(rounds))
    parts = [f"## {each.title}\n\n{to_markdown(each).strip()}" for each in tables]
    files.write_text(folder / MARKDOWN_FILE, "# Self-training\n\n" + "\n\n".join(parts) + "\n")
    files.write_json(folder / JSON_FILE, to_json(found))


def _classes(result: Mapping[str, Any]) -> list[str]:
    if "entities" in result:
        return [entity["type"] for entity in result["entities"]]
    return predicted_classes(result)


def _write_lines(path: pathlib.Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
