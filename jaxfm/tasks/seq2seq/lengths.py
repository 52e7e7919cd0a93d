"""How many places a target is given to be written in, by the length of its source: masked diffusion fills a block."""

# E examples

import dataclasses

import numpy as np

# Share of the training targets that fit their block where blocks for all would be larger by _DEARER on average: a
# longer one has a block of its own length in training.
_COVERED, _DEARER = 0.995, 1.3
_RATIOS = np.linspace(0.0, 4.0, 81)  # target tokens a source token


@dataclasses.dataclass(frozen=True)
class LengthRule:
    """The block of a source of n tokens: ceil(ratio n) + extra places, from 1 to `most`.

    The closing separator takes one of them, and fills all that follow it.
    """

    ratio: float
    extra: int
    most: int

    def block(self, source_E: np.ndarray) -> np.ndarray:
        """Returns the places of each target, int64 [E], of the tokens of each source."""
        places_E = np.ceil(self.ratio * np.asarray(source_E, np.float64) - 1e-9).astype(np.int64) + self.extra
        return np.clip(places_E, 1, self.most)


def fit_lengths(source_E: np.ndarray, target_E: np.ndarray, *, exact: bool) -> LengthRule:
    """Returns the line with the smallest blocks on average that all or nearly all targets fit, a separator included.

    Args:
      source_E: tokens of each source.
      target_E: tokens of each target.
      exact: False: every block has the places of the longest target (next-token prediction needs no tight one).
    """
    needed_E = np.asarray(target_E, np.int64) + 1
    most = int(needed_E.max(initial=1))
    if not exact or not len(needed_E):
        return LengthRule(0.0, most, most)
    rules = {share: _smallest(np.asarray(source_E), needed_E, most, share) for share in (1.0, _COVERED)}
    sizes = {share: float(rule.block(source_E).mean()) for share, rule in rules.items()}
    return rules[1.0 if sizes[1.0] <= _DEARER * sizes[_COVERED] else _COVERED]


def _smallest(source_E: np.ndarray, needed_E: np.ndarray, most: int, share: float) -> LengthRule:
    """Returns the rule that a share of the targets fits, with the smallest blocks on average."""
    best, smallest = LengthRule(0.0, most, most), float("inf")
    for ratio in _RATIOS.tolist():
        over_E = needed_E - np.ceil(ratio * source_E - 1e-9)
        rule = LengthRule(round(ratio, 4), max(int(np.quantile(over_E, share, method="higher")), 1), most)
        size = float(rule.block(source_E).mean())
        if size < smallest - 1e-9:
            best, smallest = rule, size
    return best
