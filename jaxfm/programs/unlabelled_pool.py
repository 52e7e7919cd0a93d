"""Unlabelled records that a run is asked about, without those that are labelled already: for select and self-train."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.task import GivesRecords, Predictor
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.any_texts import AnyText, read_any_texts
from jaxfm.data.records.near_texts import keys_of, record_text, text_key
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.training.saved_run import SavedRun

TRAIN = "train"
_ID = "id"
_COLUMNS = ("text_column", "pair_column", "words_column", "label_column")  # of a run's config


@dataclasses.dataclass(frozen=True)
class Given:
    """Where unlabelled records are: exactly one of these.

    Attributes:
      input: a file; see `source_unlabelled.read_unlabelled`.
      source: the URI of a source, whose labels are not read.
      texts: in memory: texts, pairs, or records.
      split: of the source.
      columns: `text_column`, `pair_column`, `words_column` of the file.
    """

    input: str | os.PathLike[str] | None = None
    source: str | None = None
    texts: Iterable[Any] | None = None
    split: str = TRAIN
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What a person calls it."""
        if self.texts is not None:
            return "texts"
        return f"--input={self.input}" if self.input is not None else f"--source={self.source}"


@dataclasses.dataclass(frozen=True)
class Pool:
    """Records that may be labelled.

    Attributes:
      records: as a predictor reads them, each text once, with "origin".
      left_out: why others are not among them -> how many.
      labelled: the run's training examples, as a predictor reads them.
    """

    records: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    labelled: tuple[Mapping[str, Any], ...]

    def note(self) -> str:
        """Returns a line that says how many there are, and what was left out."""
        said = [f"{count:,} {why}" for why, count in self.left_out.items() if count]
        return f"pool: {len(self.records):,} records" + (f"; left out: {', '.join(said)}" if said else "")


def read_pool(
    given: Given,
    run: SavedRun,
    predictor: Predictor,
    *,
    labelled: str | None = None,
    exclude: Sequence[str | pathlib.Path] = (),
    limit: int = 0,
    seed: int = 0,
    progress: Progress,
) -> Pool:
    """Reads the records of which some are to be labelled.

    Left out are blank texts, those of any split of the run's data and of the files of `exclude`, and all but the first
    of texts that differ in case, punctuation and white space alone.

    Args:
      given: where they are.
      run: whose labelled examples are left out.
      predictor: of the run.
      labelled: source of labelled examples in place of the run's own.
      exclude: files of further texts that are left out, as of `--input`.
      limit: most records, drawn by the seed; 0: all.
      seed: of the draw.
      progress: where to say which columns were read.

    Raises:
      UserError: none or several of input, source and texts; a file or source that cannot be read; nothing left.
    """
    if sum(each is not None for each in (given.input, given.source, given.texts)) != 1:
        raise UserError("--input, --source: give one of them: where the unlabelled texts are.")
    wanted = wanted_of(run, predictor, given.columns)
    found = given_records(given, wanted, progress)
    by_split = _labelled(run, labelled)
    known = keys_of(record for records in by_split.values() for record in records)
    for path in exclude:
        plain = dataclasses.replace(wanted, given={})
        excluded = source_unlabelled.read_unlabelled(files.user_path(path, "--exclude"), plain, progress.say)
        known |= keys_of(record for record in excluded if _is_text(record))
    left_out, records, seen = collections.Counter[str](), [], set()
    count = 0
    for record in found:
        count += 1
        key = text_key(record_text(record)) if _is_text(record) else ""
        why = "blank" if not key else "labelled already" if key in known else "given twice" if key in seen else ""
        left_out[why] += 1
        if not why:
            seen.add(key)
            records.append(record)
    if not count:
        raise UserError(f"{given.name}: is empty: it has no record.")
    if not records:
        said = ", ".join(f"{number:,} {why}" for why, number in left_out.items())
        raise UserError(f"{given.name}: has no unlabelled text left ({said}).")
    if 0 < limit < len(records):
        chosen = np.sort(np.random.default_rng(seed).choice(len(records), limit, replace=False))
        left_out["not drawn"] = len(records) - limit
        records = [records[number] for number in chosen]
    del left_out[""]
    return Pool(tuple(records), dict(left_out), tuple(by_split[TRAIN]))


def given_records(given: Given, wanted: Wanted, progress: Progress) -> Iterable[Mapping[str, Any]]:
    """Returns the records as a predictor reads them, each with its origin; UserError as readers."""
    if given.input is not None:
        path = files.user_path(given.input, "--input")
        return source_unlabelled.read_unlabelled(path, wanted, progress.say)
    if given.source is not None:
        return _of_source(read_any_texts(given.source, given.split), wanted, given.source)
    assert given.texts is not None
    return (_record(text, f"text {number}", wanted) for number, text in enumerate(given.texts, start=1))


def wanted_of(run: SavedRun, predictor: Predictor, columns: Mapping[str, str]) -> Wanted:
    """Returns what a run's predictor reads, of the columns given or those of its training."""
    trained = {name: getattr(run.config.data, name) for name in _COLUMNS}
    given = {name: value for name, value in columns.items() if value}
    return Wanted(predictor.pairs, predictor.takes_words, given=given, trained=trained)


def _labelled(run: SavedRun, source: str | None) -> dict[str, list[dict[str, Any]]]:
    """Returns the labelled records by split; those of validation and test, where there are some, must not return."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in SPLIT_NAMES:
        try:
            task = run.task(source or run.config.data.source, split)
        except UserError as error:
            if split == TRAIN:
                raise UserError(
                    f"--workdir={run.workdir}: its labelled examples, which are not to be chosen again, cannot be "
                    f"read: {error} Name others by --labelled=URI."
                ) from error
            continue
        assert isinstance(task, GivesRecords), "whoever gives probabilities of records gives these"
        found[split] = task.labelled_records(split)
    return found


def _of_source(texts: Sequence[AnyText], wanted: Wanted, source: str) -> Iterable[Mapping[str, Any]]:
    for each in texts:
        record: dict[str, Any] = {"text": each.text, "origin": each.origin}
        if each.words and wanted.words:
            record = {"tokens": list(each.words), "origin": each.origin}
        if bool(each.pair) != wanted.pairs:
            raise UserError(f"--source={source}: has {'pairs of' if each.pair else 'single'} texts, unlike the run.")
        yield record | ({"pair": each.pair} if each.pair else {})


def _record(text: Any, origin: str, wanted: Wanted) -> Mapping[str, Any]:
    """Returns the record of a text, a pair or a record in memory."""
    if isinstance(text, Mapping):
        record = {name: text[name] for name in ("text", "pair", "tokens", _ID) if name in text}
    elif isinstance(text, tuple | list) and len(text) == 2:
        record = {"text": text[0], "pair": text[1]}
    else:
        record = {"text": text}
    return source_unlabelled.check_record({**record, "origin": origin}, wanted)


def _is_text(record: Mapping[str, Any]) -> bool:
    return bool(record_text(record).strip())
