"""A run without the entries of its vocabulary that no text uses."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.batch import Dataset
from jaxfm.core.task import ReadsEntities
from jaxfm.data.records.source_unlabelled import Wanted, read_unlabelled
from jaxfm.data.text.vocabulary_cut import cut_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.vocabulary_rows import with_rows
from jaxfm.training import cut_run
from jaxfm.training.cut_run import VALID, Start
from jaxfm.training.saved_run import SavedRun

TRAIN, ALL = "train", "all"
_TOKENS = "tokens"
_ROWS_AT_ONCE = 1024
# Of outputs by other rows of a table: sums in another order.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class CutVocabulary:
    """A model with a smaller vocabulary.

    Attributes:
      start: the model.
      facts: JSON values: entries before and after, whose texts are kept, and the share of rows of each split that have
        the same pieces.
    """

    start: Start
    facts: dict[str, Any]


def cut_vocabulary(
    run: SavedRun, whole: Start, outputs: Mapping[str, np.ndarray], keep_from: Sequence[str], folder: pathlib.Path
) -> CutVocabulary:
    """Cuts the vocabulary of a run to what texts use.

    Args:
      run: whose it is.
      whole: the same, opened.
      outputs: of it, of the validation split.
      keep_from: "train", "all" (all splits of the run), or files of texts.
      folder: for the tokenizer; it is made.

    Raises:
      UserError: a run of images or of words of the vocabulary, a tokenizer that cannot be cut, or one that cuts a text
        of which all pieces are kept otherwise than before.
    """
    where = f"--workdir={run.workdir}"
    tokenizer = whole.first.tokenizer
    if tokenizer is None or any(_TOKENS not in rows.spec for rows in whole.task.datasets.values()):
        raise UserError(f"--vocabulary: {where} reads no texts, so that it has no vocabulary. Leave out the flag.")
    datasets = whole.task.datasets
    splits = {name for name in datasets if name == TRAIN or ALL in keep_from}
    used = set[int]()
    for rows in [*(datasets[name] for name in sorted(splits)), *_of_files(run, keep_from)]:
        for tokens in _token_rows(rows):
            used |= set(np.unique(np.where(tokens < 0, ~tokens, tokens)).tolist())
    kept = cut_tokenizer(tokenizer, used, folder)
    if len(kept) >= whole.first.encoder.vocab_size:
        raise UserError(f"--vocabulary: the texts use all {len(kept):,} entries: there is nothing to cut.")
    encoder, params = with_rows(whole.first.encoder, whole.first.params, kept, run.workdir)
    small = dataclasses.replace(whole.first, encoder=encoder, params=params, tokenizer=folder)
    start = cut_run.start(whole.config, small)
    same = {split: _same_rows(datasets[split], start.task.datasets[split], kept) for split in datasets}
    for split in splits:
        if not same[split].all():
            raise UserError(
                f"--vocabulary: the cut tokenizer would cut rows of {split} otherwise than before "
                f"({np.count_nonzero(~same[split]):,} of {len(same[split]):,}). Leave out the flag."
            )
    _check_outputs(outputs, start, same[VALID], where)
    facts = {
        "before": whole.first.encoder.vocab_size,
        "after": len(kept),
        "keep_from": list(keep_from),
        "rows_alike": {split: float(alike.mean()) if len(alike) else 1.0 for split, alike in same.items()},
    }
    return CutVocabulary(start, facts)


def check_keep_from(keep_from: Sequence[str]) -> None:
    """Raises UserError for a word that is neither a split nor a file."""
    for word in keep_from:
        if word not in (TRAIN, ALL) and not files.expanded(word).is_file():
            raise UserError(
                f"--keep_from={','.join(keep_from)}: {word!r} is none of {TRAIN} (the training split), {ALL} (every "
                "split of the run) and the files that there are."
            )


def _of_files(run: SavedRun, keep_from: Sequence[str]) -> Iterator[Dataset]:
    paths = [files.expanded(word) for word in keep_from if word not in (TRAIN, ALL)]
    if not paths:
        return
    predictor = run.predictor()
    data = run.config.data
    trained = {name: getattr(data, name) for name in ("text_column", "pair_column", "words_column", "label_column")}
    fields = predictor.record_fields if isinstance(predictor, ReadsEntities) else ()
    wanted = Wanted(predictor.pairs, predictor.takes_words, trained=trained, fields=fields)
    for path in paths:
        records: list[Mapping[str, Any]] = list(read_unlabelled(path, wanted))
        yield predictor.encode(records).rows


def _token_rows(rows: Dataset) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        yield np.asarray(rows.take(np.arange(first, min(first + _ROWS_AT_ONCE, len(rows))))[_TOKENS])


def _same_rows(before: Dataset, after: Dataset, kept: np.ndarray) -> np.ndarray:
    """Returns bool [N], whether a row has the same pieces by both tokenizers; none where rows are packed otherwise."""
    if len(before) != len(after):
        return np.zeros(len(before), bool)
    alike = [
        (old == np.where(new < 0, ~kept[~new], kept[new])).reshape(len(old), -1).all(axis=1)
        for old, new in zip(_token_rows(before), _token_rows(after), strict=True)
    ]
    return np.concatenate(alike) if alike else np.zeros(0, bool)


def _check_outputs(expected: Mapping[str, np.ndarray], start: Start, same: np.ndarray, where: str) -> None:
    """Raises UserError where rows with the same pieces have other outputs: the model reads its table elsewhere too."""
    outputs = start.setup.evaluate(start.params, start.task.datasets[VALID])
    for name, before in expected.items():
        after = outputs[name]
        if before.shape != after.shape or not np.issubdtype(before.dtype, np.floating):
            continue
        some = (before[same], after[same])
        if not np.allclose(*some, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            raise UserError(
                f"--vocabulary: {where} gives other results ({name}) for texts whose pieces are the same: its outputs "
                "depend on entries that no text uses. Leave out the flag."
            )
