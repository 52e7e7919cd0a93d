"""Says what is wrong with a labelled data set: `python -m jaxfm.audit CONFIG --workdir=DIR [--folds=5]`.

Labels that are probably wrong, by models that were not trained on them (one run a fold, in DIR/folds; the same command
again goes on where it was stopped); copies, near copies and texts with two labels, inside splits and across; labels by
split; what is too long to be read. DIR gets audit.json, audit.md and audit.html. --folds=0 trains nothing. --clean=DIR
writes the data without the suspicious labels. See docs/audit.md.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.labels import DOCUMENT, GROUP, LABEL, TAGS, TOKENS, LabelledRecord
from jaxfm.data.records import in_memory
from jaxfm.data.records.folds import assign_folds
from jaxfm.data.text.tagging import entity_spans
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.confident_learning import FILTERS, MARGIN, NOISE_RATE, SCORES
from jaxfm.evaluation.label_errors import find_label_errors
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.programs import program
from jaxfm.programs.audit_clean import ACTIONS, KEEP, REMOVE, cleaned_data, repeating, write_data
from jaxfm.programs.audit_copies import audit_copies
from jaxfm.programs.audit_folds import check_config, make_folds, out_of_fold
from jaxfm.programs.audit_records import TRAIN, read_records
from jaxfm.programs.audit_report import HTML_FILE, MARKDOWN_FILE, AuditReport, write_audit
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import initial as initials
from jaxfm.training import workdir as workdirs

USAGE = (
    "usage: python -m jaxfm.audit CONFIG --workdir=DIR [--data=URI] [--folds=5] [--seed=0]\n"
    f"  [--method={'|'.join(FILTERS)}]\n"
    f"  [--score={'|'.join(SCORES)}] [--clean=DIR]\n"
    f"  [--label_errors={'|'.join(ACTIONS)}] [--duplicates={KEEP}|{REMOVE}]\n"
    "  [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner:files, classification:files) or --config=FILE.py[:variant]"
)
FOLDS = 5


def audit(
    config: GivenConfig,
    workdir: str | pathlib.Path,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    method: str = NOISE_RATE,
    score: str = MARGIN,
    clean: str | pathlib.Path | None = None,
    label_errors: str = REMOVE,
    duplicates: str = KEEP,
    data: Any = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Looks for what is wrong with a labelled data set.

    Args:
      config: of the task, the data, and the models of the folds; as for `jaxfm.train`.
      workdir: the folder of the audit; made if need be. The same one again goes on where it was stopped.
      folds: number of folds; 0: nothing is trained and no label is judged.
      seed: of the folds.
      method: how wrong labels are chosen, one of `evaluation.confident_learning.FILTERS`.
      score: how they are ranked: "normalised_margin" or "self_confidence".
      clean: a folder to write, with train cleaned and the other splits as they are; `jsonl:` reads it again.
      label_errors: what becomes there of records of train with wrong labels: "remove", "relabel" or "keep".
      duplicates: "remove" leaves out records of train that repeat an earlier one, or that another split has too.
      data: what to audit, in place of `config.data.source`; as for `jaxfm.train`.
      overrides: values of single keys, by their dotted names.
      progress: where to show how far it is.

    Raises:
      UserError: a task without classes, data that cannot be read or that training would refuse, too many folds for the
        examples of some class, a workdir with an audit of other data or another config.
      Preempted: stopped by a signal, after saving.
    """
    chosen = resolve_config(config, overrides)
    asked = _Asked(folds, seed, method, score, label_errors, duplicates)
    asked.check(clean)
    folder = files.user_path(workdir, "--workdir")
    files.check_parents(folder, "--workdir")
    target = None if clean is None else files.output_directory(clean, "--clean")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={folder}: is a file; name a directory.")
    if (folder / workdirs.CONFIG_FILE).is_file():
        raise UserError(f"--workdir={folder}: holds a run itself. Name another folder for the audit.")
    if folds:
        check_config(chosen)
    with contextlib.ExitStack() as held:
        held.enter_context(libraries_quieted())
        if data is not None:
            chosen = replaced(chosen, {"data.source": held.enter_context(in_memory.provided(data))})
        shown = held.enter_context(progress or Progress(None, quiet=True))
        report = _report(chosen, asked, folder, shown)
        if target is not None:
            dropped = repeating(report.copies.repeated) if duplicates == REMOVE else set[int]()
            kept, left_out = cleaned_data(report.records, report.errors, label_errors, dropped)
            write_data(target, kept)
            report = dataclasses.replace(report, removed=tuple(left_out))
        folder.mkdir(parents=True, exist_ok=True)
        write_audit(folder, report)
    return report


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked for."""

    folds: int
    seed: int
    method: str
    score: str
    label_errors: str
    duplicates: str

    def check(self, clean: Any) -> None:
        """Raises UserError for words and numbers that cannot be."""
        for flag, value, known in (
            ("method", self.method, FILTERS),
            ("score", self.score, SCORES),
            ("label_errors", self.label_errors, ACTIONS),
            ("duplicates", self.duplicates, (KEEP, REMOVE)),
        ):
            if value not in known:
                raise UserError(f"--{flag}={value}: {did_you_mean(value, known)}")
        if self.folds < 0 or self.folds == 1:
            raise UserError(f"--folds={self.folds}: must be 2 or more, or 0 for what needs no training.")
        if self.duplicates == REMOVE and clean is None:
            raise UserError(f"--duplicates={REMOVE}: says what --clean=DIR writes; give it too.")
        if self.label_errors != REMOVE and clean is None:
            raise UserError(f"--label_errors={self.label_errors}: says what --clean=DIR writes; give it too.")
        if clean is not None and not self.folds and self.duplicates == KEEP:
            raise UserError(
                f"--clean={clean}: without folds no label is judged, so nothing would be changed. Give --folds=5 or "
                f"--duplicates={REMOVE}."
            )


def _report(config: Config, asked: _Asked, folder: pathlib.Path, progress: Progress) -> AuditReport:
    """Reads, compares and judges."""
    # What would be held out is audited as well: it is training data until a run decides otherwise.
    whole = replaced(config, {"data.holdout": 0.0})
    records, names = read_records(whole)
    check = registry.definition(config.task.name).check(whole, initials.resolve(config.model))
    words = TOKENS in records[TRAIN][0].row
    copies = audit_copies(records, words=words)
    report = AuditReport(config.data.source, config.task.name, records, names, check, copies, asked.folds)
    if not asked.folds:
        return report
    fold_N, note = _assign(records[TRAIN], copies.groups, asked, config.data.group_column)
    progress.say(note)
    folds = make_folds(config, records, fold_N, folder)
    probabilities = out_of_fold(folds, records, names, progress)
    errors = {
        split: find_label_errors(
            split, own, probabilities[split], names, words=words, method=asked.method, score=asked.score
        )
        for split, own in records.items()
    }
    return dataclasses.replace(
        report, method=asked.method, score=asked.score, errors=errors, probabilities=probabilities, notes=(note,)
    )


def _assign(
    records: Sequence[LabelledRecord], groups: np.ndarray, asked: _Asked, group_column: str = ""
) -> tuple[np.ndarray, str]:
    """Returns the fold of each record of train, and a line that says what is together in one."""
    origins = [record.origin for record in records]
    classes = [_classes(record) for record in records]
    if group_column:
        together = _joined(groups.tolist(), [record.row[GROUP] for record in records])
        note = f"{asked.folds} folds of whole groups by {group_column!r}; copies and near copies are together"
        return assign_folds(together, classes, origins, asked.folds, asked.seed), note
    documents = [record.row.get(DOCUMENT) for record in records]
    if None not in documents:
        together = _joined(groups.tolist(), documents)
        try:
            found = assign_folds(together, classes, origins, asked.folds, asked.seed)
        except UserError:
            note = (
                f"{asked.folds} folds of sentences, as there are too few documents; copies and near copies are together"
            )
        else:
            return found, f"{asked.folds} folds of whole documents; copies and near copies are together"
    else:
        note = f"{asked.folds} folds of records; copies and near copies are together"
    return assign_folds(groups.tolist(), classes, origins, asked.folds, asked.seed), note


def _joined(groups: Sequence[int], documents: Sequence[Any]) -> list[int]:
    """Returns a number for each record: records of a group, or of a document, have the same one."""
    parents: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for group, document in zip(groups, documents, strict=True):
        parents[root(("group", group))] = root(("document", document))
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(root(("group", group)), len(numbers)) for group in groups]


def _classes(record: LabelledRecord) -> set[str]:
    """Returns the classes of a record, or the types of its entities."""
    if TAGS in record.row:
        return {kind for _, _, kind in entity_spans(record.row[TAGS])}
    label = record.row[LABEL]
    return set(label) if isinstance(label, list) else {label}


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("config", "workdir"):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing.\n{USAGE}")
    program.say_shipped_config()
    with Progress(None) as progress:
        report = audit(
            registry.from_config_dict(values.config),
            values.workdir,
            folds=values.folds,
            seed=values.seed,
            method=values.method,
            score=values.score,
            clean=values.clean,
            label_errors=values.label_errors,
            duplicates=values.duplicates,
            progress=progress,
        )
        for table in report.tables:
            progress.table(table)
        for line in (*report.summary, *report.notes):
            progress.say(line)
    folder = pathlib.Path(values.workdir).expanduser()
    if report.removed is not None:
        left = len(report.records[TRAIN]) - len(report.removed)
        print(f"clean data: {values.clean} (--data=jsonl:{values.clean}), {left:,} records of train")
    print(f"written: {folder / HTML_FILE}, {MARKDOWN_FILE}, audit.json")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The folder of the audit; the same one again goes on.")
    flags.DEFINE_integer("folds", FOLDS, "Folds, a run each; 0: nothing is trained, no label is judged.")
    flags.DEFINE_integer("seed", 0, "Of the folds; that of the runs is --config.seed.")
    flags.DEFINE_string("method", NOISE_RATE, f"How wrong labels are chosen: {', '.join(FILTERS)}.")
    flags.DEFINE_string("score", MARGIN, f"How they are ranked: {', '.join(SCORES)}.")
    flags.DEFINE_string("clean", None, "A folder to write: the data as JSON lines, train cleaned.")
    flags.DEFINE_string("label_errors", REMOVE, "Records of train with wrong labels in --clean: remove, relabel, keep.")
    flags.DEFINE_string("duplicates", KEEP, "Copies in train, and of other splits' records, in --clean: keep, remove.")
    program.run(main, USAGE)
