"""Errors of transcripts, of words and of characters: the edit distances of jiwer."""

# E transcripts, R rounds

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import Units
from jaxfm.errors import UserError, install_hint


@dataclasses.dataclass(frozen=True)
class TranscriptErrors:
    """What is wrong in some transcripts, f64 [E].

    Attributes:
      word_edits: words that are wrong, missing or too many (the least number of changes).
      words: of the reference.
      character_edits: the same of characters, spaces included.
      characters: of the reference.
    """

    word_edits: np.ndarray
    words: np.ndarray
    character_edits: np.ndarray
    characters: np.ndarray

    @property
    def units(self) -> dict[str, np.ndarray]:
        """The arrays by their names."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def transcript_errors(references: Sequence[str], hypotheses: Sequence[str]) -> TranscriptErrors:
    """Counts the errors of each transcript.

    Args:
      references: what was said; none is empty.
      hypotheses: what was recognised.

    Raises:
      UserError: jiwer is not installed.
    """
    assert len(references) == len(hypotheses) and all(references)
    jiwer = load_jiwer()
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        words = jiwer.process_words(reference, hypothesis)
        letters = jiwer.process_characters(reference, hypothesis)
        rows.append((*_counts(words), *_counts(letters)))
    table = np.asarray(rows, np.float64).reshape(-1, 4)
    return TranscriptErrors(*table.T)


def _counts(output: Any) -> tuple[int, int]:
    """Returns the edits of an alignment and the length of its reference."""
    edits = output.substitutions + output.deletions + output.insertions
    return edits, output.hits + output.substitutions + output.deletions


def error_rates(units: Units, weight_RE: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the word error rate "wer" and the character error rate "cer" [R] of weighted transcripts.

    They are edits over the length of the references, so they may be above 1.
    """
    return {
        "wer": weight_RE @ units["word_edits"] / np.maximum(weight_RE @ units["words"], 1e-12),
        "cer": weight_RE @ units["character_edits"] / np.maximum(weight_RE @ units["characters"], 1e-12),
    }


def load_jiwer() -> Any:
    """Returns the package; UserError where it is not installed."""
    try:
        import jiwer
    except ModuleNotFoundError:
        raise UserError(f"error rates of words are counted by jiwer: {install_hint('audio')}.") from None
    return jiwer
