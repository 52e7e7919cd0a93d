"""From the scores of tokens to answers: of every span of a context one score, and the likeliest of them.

A window's logits are comparable with those of the other windows of its context as they are (Devlin et al. 2019). The
probability of an answer is its share among all spans of at most `max_answer` tokens and, where the model knows of
questions without an answer, of having none.
"""

# E questions, N rows, T tokens, n tokens of a context, K longest span in tokens

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxfm.data.text.question_windows import span_scores
from jaxfm.tasks.qa.spec import EncodedQuestions, QaSpec


class Span(NamedTuple):
    """A stretch of a context in characters, end exclusive, and its score: the sum of two logits."""

    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What the model makes of one question.

    Attributes:
      scores: of every span, [n, K]: the tokens i to i + k; -inf where that is none.
      offsets: of the tokens of the context in characters, [n, 2].
      nothing: score of having no answer, the least of the windows': one that has an answer is enough.
      may_be_nothing: whether that is among what the model chooses from.
    """

    scores: np.ndarray
    offsets: np.ndarray
    nothing: float
    may_be_nothing: bool

    def best(self, count: int) -> list[Span]:
        """Returns the spans of the greatest scores, at most `count`, the greatest first; empty: there is none."""
        flat = self.scores.reshape(-1)
        count = min(count, int(np.isfinite(flat).sum()))
        chosen = np.argpartition(-flat, count - 1)[:count] if count else np.zeros(0, np.int64)
        # The earlier and shorter span first where scores are equal, whatever argpartition makes of them.
        chosen = chosen[np.lexsort((chosen, -flat[chosen]))]
        longest = self.scores.shape[1]
        return [
            Span(int(self.offsets[i, 0]), int(self.offsets[i + k, 1]), float(flat[i * longest + k]))
            for i, k in (divmod(place, longest) for place in chosen.tolist())
        ]

    def log_total(self, temperatures: Sequence[float]) -> np.ndarray:
        """Returns the logarithm of the sum over all choices, for scores divided by each temperature."""
        choices = self.scores[np.isfinite(self.scores)]
        if self.may_be_nothing or not len(choices):
            choices = np.append(choices, self.nothing)
        highest = choices.max()
        return np.asarray([np.log(np.exp((choices - highest) / t).sum()) + highest / t for t in temperatures])

    def margin(self) -> float:
        """Returns by how much having no answer scores above the best span; infinite where there is none."""
        return self.nothing - float(self.scores.max(initial=-np.inf))


def read(spec: QaSpec, encoded: EncodedQuestions, spans_NT2: np.ndarray) -> Iterator[Reading]:
    """Yields what the model makes of each question, from the logits [N, T, 2] of the rows."""
    windows = encoded.windows
    for question, context in enumerate(windows.contexts):
        numbers = range(encoded.windows_of[question], encoded.windows_of[question + 1])
        logits = [encoded.per_window(spans_NT2, number) for number in numbers]
        scores = span_scores(
            [int(windows.start[number]) for number in numbers],
            [int(windows.size[number]) for number in numbers],
            [each[1:] for each in logits],
            len(context.ids),
            spec.max_answer,
        )
        _drop_empty(scores, context.offsets)
        nothing = min(float(each[0].astype(np.float64).sum()) for each in logits)
        yield Reading(scores, context.offsets, nothing, spec.no_answer)


def _drop_empty(scores_nK: np.ndarray, offsets: np.ndarray) -> None:
    """Takes out the spans that begin or end with a token that stands for no character."""
    empty = np.flatnonzero(offsets[:, 0] == offsets[:, 1])
    longest = scores_nK.shape[1]
    for token in empty.tolist():
        scores_nK[token] = -np.inf
        firsts = np.arange(max(token - longest + 1, 0), token + 1)
        scores_nK[firsts, token - firsts] = -np.inf
