"""Which candidates of a ranking are hard negatives of an anchor: near to it, and not right by oversight.

The limits by the positive's score are those of Moreira et al. 2024 (NV-Retriever, section 3), who call them
TopK-MarginPos (absolute) and TopK-PercPos (relative).
"""

# K ranks

import collections
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, NamedTuple

from jaxfm.errors import UserError

# Why a candidate is not taken, in the order in which it is asked.
KNOWN, RANK, MARGIN, MAXIMUM, CROSS_ENCODER = (
    "a known positive of the anchor",
    "among the first ranks (skip)",
    "too near to the positive's score",
    "above the maximum score",
    "right by the cross-encoder",
)
REASONS = (KNOWN, RANK, MARGIN, MAXIMUM, CROSS_ENCODER)


AUTO, COSINE_MARGIN = "auto", 0.05


@dataclasses.dataclass(frozen=True)
class Rules:
    """What may be a hard negative.

    Attributes:
      negatives: most of them an anchor and positive.
      skip: the first ranks that are left out.
      depth: the last rank that is looked at. Ranks count candidates that are not known positives.
      margin: its score must be at least so much below the positive's; None: no such limit; "auto": 0.05 for cosines
        where `relative_margin` is None, else no such limit.
      relative_margin: the same as a share of the positive's score.
      max_score: its score must not be above; None: no such limit.
    """

    negatives: int = 5
    skip: int = 0
    depth: int = 100
    margin: float | Literal["auto"] | None = AUTO
    relative_margin: float | None = None
    max_score: float | None = None

    def __post_init__(self) -> None:
        """Raises UserError for values that leave nothing."""
        for name, least in (("negatives", 1), ("skip", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}={getattr(self, name)}: must be at least {least}.")
        if self.depth < self.skip + self.negatives:
            raise UserError(
                f"--depth={self.depth}: must be at least --skip + --negatives = {self.skip + self.negatives}, or there "
                "are never as many."
            )
        for name in ("margin", "relative_margin"):
            value = getattr(self, name)
            if value is not None and value != AUTO and not value >= 0:
                raise UserError(f"--{name}={value}: must be 0 or more.")

    def settled(self, similarity: str) -> "Rules":
        """Returns the rules with a margin that is a number or None; `similarity` is "cosine", "dot" or "bm25"."""
        if self.margin != AUTO:
            return self
        has = similarity == "cosine" and self.relative_margin is None
        return dataclasses.replace(self, margin=COSINE_MARGIN if has else None)

    def __str__(self) -> str:
        """Says them in a line, as flags."""
        shown = [f"--{each.name}={getattr(self, each.name)}" for each in dataclasses.fields(self)]
        return " ".join(each for each in shown if not each.endswith("=None"))

    def limit(self, positive: float) -> float:
        """Returns the score above which a candidate is too near to a positive of that score."""
        assert self.margin != AUTO, "see settled"
        limits = [float("inf")]
        if self.margin is not None:
            limits.append(positive - self.margin)
        if self.relative_margin is not None:
            limits.append(positive - abs(positive) * self.relative_margin)
        return min(limits)


class Candidate(NamedTuple):
    """A text that may be a negative: its number and score."""

    number: int
    score: float


def candidates(
    numbers: Sequence[int],
    scores: Sequence[float],
    positive: float,
    known: Collection[int],
    rules: Rules,
    dropped: collections.Counter[str],
) -> Iterator[Candidate]:
    """Yields the candidates of a ranking that the rules allow, the best first; counts the others in `dropped`.

    Args:
      numbers: [K] of the texts, the best first; -1 where nothing more was found.
      scores: [K].
      positive: score of the positive.
      known: numbers of all known positives of the anchor, and of the anchor's own text.
      rules: what is allowed.
      dropped: reason of `REASONS` -> count, of those that were looked at.
    """
    rank, limit = 0, rules.limit(positive)
    for number, score in zip(numbers, scores, strict=True):
        if number < 0 or rank == rules.depth:
            return
        if number in known:
            dropped[KNOWN] += 1
            continue
        rank += 1
        if rank <= rules.skip:
            dropped[RANK] += 1
        elif score > limit:
            dropped[MARGIN] += 1
        elif rules.max_score is not None and score > rules.max_score:
            dropped[MAXIMUM] += 1
        else:
            yield Candidate(int(number), float(score))
