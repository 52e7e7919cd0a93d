"""What follows from a comparison of new data with those of a run: train again, look, or nothing; by named rules."""

import dataclasses
import math
from collections.abc import Sequence

from jaxfm.evaluation.bootstrap import CONFIDENCE, Interval
from jaxfm.evaluation.two_samples import PermutationTest, holm

TRAIN_AGAIN, LOOK, NOTHING = VERDICTS = ("train again", "look", "nothing")
SCORE, ERROR, FAR, SHIFT = RULES = ("score", "error", "far", "shift")


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """What the rules compare with.

    Attributes:
      alpha: how often equal data may be said to differ, all tests together.
      least: a distance beyond chance below which a difference is of no consequence, however sure.
      max_drop: most that the score, or the estimated accuracy, may fall.
      far: area under the ROC curve from which on a classifier tells new texts from the others too well.
    """

    alpha: float = 0.01
    least: float = 0.1
    max_drop: float = 0.05
    far: float = 0.9


@dataclasses.dataclass(frozen=True)
class Measure:
    """A test, and whether it shows a difference.

    Attributes:
      name: what is compared.
      unit: what the distance is.
      tested: the distance.
      p: corrected for the number of tests.
      beyond: the distance less what it is by chance, of 0 to 1.
      differs: whether p is below alpha and `beyond` at least `Thresholds.least`.
    """

    name: str
    unit: str
    tested: PermutationTest
    p: float
    beyond: float
    differs: bool


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule that has fired.

    Attributes:
      name: one of RULES.
      verdict: what follows from it.
      why: a sentence.
    """

    name: str
    verdict: str
    why: str


@dataclasses.dataclass(frozen=True)
class Drop:
    """A score that may have fallen.

    Attributes:
      name: of the score.
      interval: by how much it is worse, with its interval.
    """

    name: str
    interval: Interval


def measures(tests: Sequence[tuple[str, str, PermutationTest]], thresholds: Thresholds) -> tuple[Measure, ...]:
    """Corrects the p-values of tests (name, unit, result) for their number and says which of them show a difference.

    The area under a curve is 0.5 by chance and 1 at most: what is beyond chance is doubled.
    """
    corrected = holm([tested.p for _, _, tested in tests])
    found = []
    for (name, unit, tested), p in zip(tests, corrected, strict=True):
        beyond = min(tested.beyond * (2 if unit == AREA else 1), 1.0)
        differs = p < thresholds.alpha and beyond >= thresholds.least
        found.append(Measure(name, unit, tested, p, beyond, differs))
    return tuple(found)


AREA = "area under ROC"


def judge(
    found: Sequence[Measure], estimated: Drop | None, real: Drop | None, thresholds: Thresholds
) -> tuple[str, tuple[Rule, ...]]:
    """Returns the verdict, the most urgent one of the rules that fire, and these rules.

    - score: the real score has fallen by more than `max_drop`: for sure (the whole interval), train again; where the
      interval shows a fall, but not so large a one for sure, look.
    - error: the same of the estimated accuracy, where there are no labels.
    - far: a classifier tells new texts from the others with an area of `far`, and there are no labels that say whether
      this matters: train again.
    - shift: a test shows a difference: look.
    """
    rules = []
    if real is not None:
        rules += _of_drop(SCORE, "has fallen", real, thresholds.max_drop)
    elif estimated is not None:
        rules += _of_drop(ERROR, "is estimated to have fallen", estimated, thresholds.max_drop)
    if real is None:
        rules += [
            Rule(
                FAR,
                TRAIN_AGAIN,
                f"{each.name}: new texts are told from the others with an area of {each.tested.value:.3f}, "
                f"at least {thresholds.far:g}, and no label says whether this matters",
            )
            for each in found
            if each.unit == AREA and each.differs and each.tested.value >= thresholds.far
        ]
    rules += [
        Rule(SHIFT, LOOK, f"{each.name}: {each.beyond:.3f} beyond chance, p = {each.p:.2g} for all tests together")
        for each in found
        if each.differs
    ]
    return min((each.verdict for each in rules), key=VERDICTS.index, default=NOTHING), tuple(rules)


def _of_drop(name: str, what: str, drop: Drop, most: float) -> list[Rule]:
    interval = drop.interval
    # Of few records a score falls by more than that in many draws of equal data: a fall has to be shown at all.
    if interval.value <= most or math.isnan(interval.low) or interval.low <= 0:
        return []
    sure = interval.low > most
    ends = f"{CONFIDENCE:.0%} interval {interval.low:+.4f} to {interval.high:+.4f}"
    why = f"{drop.name} {what} by {interval.value:.4f} ({ends}), more than {most:g}" + ("" if sure else ", not surely")
    return [Rule(name, TRAIN_AGAIN if sure else LOOK, why)]
