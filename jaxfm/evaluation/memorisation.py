"""Whether a model knows texts by heart: the rank of secrets among made-up ones, and members told from other texts."""

# N members, O others

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from jaxfm.evaluation.bootstrap import CONFIDENCE, Interval
from jaxfm.evaluation.out_of_domain import detect

_SECRET = re.compile(r"\[\[(.+?)\]\]")
_KINDS = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
FALSE_POSITIVES = 0.01
"""Share of the other texts that may be taken for members where `Membership.caught` is counted."""


@dataclasses.dataclass(frozen=True)
class Secret:
    """A text with a part that may be known by heart: "the code is [[4711]]".

    Attributes:
      text: without the brackets.
      start: of the secret, in characters.
      end: of the secret, end exclusive.
      origin: where it was read.
    """

    text: str
    start: int
    end: int
    origin: str

    @property
    def characters(self) -> str:
        """The secret itself."""
        return self.text[self.start : self.end]

    def others(self, count: int, seed: int) -> list[str]:
        """Returns so many texts with a made-up secret: each letter or digit drawn from its kind, the rest kept.

        All are different, and none is the secret; fewer where there are not so many.
        """
        generator = np.random.default_rng([seed, *self.text.encode()])
        kinds = [next((kind for kind in _KINDS if char in kind), char) for char in self.characters]
        most = math.prod(map(len, kinds)) - 1
        found: dict[str, None] = {}
        while len(found) < min(count, most):
            drawn = "".join(kind[int(generator.integers(len(kind)))] for kind in kinds)
            if drawn != self.characters:
                found[drawn] = None
        return [self.text[: self.start] + drawn + self.text[self.end :] for drawn in found]


def parse_secret(line: str, origin: str) -> Secret:
    """Returns a line's secret; ValueError unless one part is in double brackets, with something to exchange."""
    found = list(_SECRET.finditer(line))
    if len(found) != 1:
        raise ValueError(f"has {len(found)} parts in double brackets, but must have one: the code is [[4711]]")
    start, characters = found[0].start(), found[0][1]
    if not any(char in kind for kind in _KINDS for char in characters):
        raise ValueError("has no letter a-z or digit between its double brackets, so that there is nothing to exchange")
    text = line[:start] + characters + line[found[0].end() :]
    return Secret(text, start, start + len(characters), origin)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How a secret ranks among made-up ones (Carlini et al. 2019, "The Secret Sharer", arXiv 1802.08232).

    Attributes:
      secret: what it is.
      rank: 1 where no made-up secret is likelier.
      candidates: that it was ranked among, itself included.
      p: of so good a rank where the model does not know it.
    """

    secret: Secret
    rank: int
    candidates: int

    @property
    def exposure(self) -> float:
        """Bits that the model gives away: log2 of candidates / rank; at most log2 of the candidates."""
        return math.log2(self.candidates / self.rank)

    @property
    def p(self) -> float:
        """Of so good a rank where the model does not know the secret."""
        return self.rank / self.candidates


def exposure_of(secret: Secret, likelihood: float, others: Sequence[float]) -> Exposure:
    """Returns the rank of a secret's log-probability among those of made-up ones; what is equal ranks before it."""
    return Exposure(secret, 1 + sum(other >= likelihood for other in others), 1 + len(others))


def known_by_heart(exposures: Sequence[Exposure]) -> list[bool]:
    """Returns which secrets are known: p below 5 % for all of them together (Holm 1979)."""
    order = sorted(range(len(exposures)), key=lambda each: exposures[each].p)
    found = [False] * len(exposures)
    for place, each in enumerate(order):
        if exposures[each].p * (len(exposures) - place) >= 1 - CONFIDENCE:
            break
        found[each] = True
    return found


@dataclasses.dataclass(frozen=True)
class Membership:
    """How well training texts are told from others by their loss (Yeom et al. 2018, arXiv 1709.01604).

    Attributes:
      members: texts of the training data.
      others: texts that were not trained on.
      area: under the ROC curve: how often a member has a lower loss than another text, ties being half; 0.5: chance.
      caught: share of the members below the loss that 1 % of the others are below.
      p: of so large an area where members do not differ (Mann & Whitney, one-sided).
    """

    members: int
    others: int
    area: Interval
    caught: float
    p: float


def membership(members_N: np.ndarray, others_O: np.ndarray) -> Membership:
    """Compares losses f64 [N] of members with those [O] of other texts."""
    from scipy import stats  # not at the start: half a second

    members_N, others_O = np.asarray(members_N, np.float64), np.asarray(others_O, np.float64)
    border = np.quantile(others_O, FALSE_POSITIVES, method="lower")
    return Membership(
        len(members_N),
        len(others_O),
        detect("loss", -members_N, -others_O, "").auroc,
        float((members_N < border).mean()),
        float(stats.mannwhitneyu(members_N, others_O, alternative="less").pvalue),
    )
