"""The share of the training examples that is held out where a source has no validation split."""

import bisect
import collections
import itertools
from collections.abc import Hashable, Mapping, Sequence

from jaxfm.data.corpora.documents import uniform_hash

_PARTS = 10  # of the range of scores, with equal numbers of examples


def choose_held_out(
    texts: Sequence[str], targets: Sequence[str | float | tuple[str, ...] | None], share: float
) -> list[bool]:
    """Returns which examples are held out: each class, combination of classes or tenth of the scores in proportion.

    A hash of the text draws them, so that neither order nor seed matters, and equal texts are on one side. The last
    example of a class in training is never taken, nor is one without which all targets in training would be equal, nor
    a text that occurs in more than a `share` of the examples. Nothing is held out where these rules exclude every text.

    Args:
      texts: (first) text of each example.
      targets: class, classes, or score of each.
      share: between 0 and 1.
    """
    indices_of: dict[str, list[int]] = collections.defaultdict(list)
    for index, text in enumerate(texts):
        indices_of[text].append(index)
    stratum_of = _strata(targets)
    left = TrainingLeft(targets)
    strata: dict[Hashable, list[tuple[float, str]]] = collections.defaultdict(list)
    for text, indices in indices_of.items():
        if len(indices) <= max(share * len(texts), 1):
            strata[min(stratum_of[index] for index in indices)].append((uniform_hash(text), text))
    held_out = [False] * len(texts)
    wanted = max(round(share * len(indices_of)), 1)
    for text in _in_order(strata, share):
        if wanted and left.can_spare(indices_of[text]):
            wanted -= 1
            left.take(indices_of[text])
            for index in indices_of[text]:
                held_out[index] = True
    return held_out


def _strata(targets: Sequence[str | float | tuple[str, ...] | None]) -> list[tuple[str, ...]]:
    """The class, classes or tenth of the scores of each example: held out in proportion."""
    scores = sorted(target for target in targets if isinstance(target, float))
    if not scores:
        return [tuple(sorted(target)) if isinstance(target, tuple) else (str(target),) for target in targets]
    bounds = [scores[len(scores) * part // _PARTS] for part in range(1, _PARTS)]
    return [(str(bisect.bisect_right(bounds, target)),) for target in targets if isinstance(target, float)]


def _in_order(strata: Mapping[Hashable, list[tuple[float, str]]], share: float) -> list[str]:
    """Returns the texts in the order in which they are taken: those that a stratum's share has room for whole first.

    The others follow by what is left of the share (largest remainder), then one more of each stratum in turn; the hash
    decides between equals.
    """
    ranked = []
    for texts in strata.values():
        quota = share * len(texts)
        for rank, (number, text) in enumerate(sorted(texts)):
            # The n-th of a stratum is due once the share has grown to hold it: at 0 or less, at once.
            lacking = rank + 1 - quota
            ranked.append((max(lacking, 0.0), number, text))
    return [text for _, _, text in sorted(ranked)]


class TrainingLeft:
    """The numbers of examples left in training, of each class and of each target."""

    def __init__(self, targets: Sequence[str | float | tuple[str, ...] | None]):
        self._classes = [
            target if isinstance(target, tuple) else () if isinstance(target, float) else (str(target),)
            for target in targets
        ]
        self._left = collections.Counter(itertools.chain.from_iterable(self._classes))
        self._targets = [frozenset(target) if isinstance(target, tuple) else target for target in targets]
        self._targets_left = collections.Counter(self._targets)
        self._different = len(self._targets_left)
        self._examples = len(targets)

    def can_spare(self, indices: Sequence[int]) -> bool:
        """Whether every class keeps an example without these, and training keeps two different targets."""
        lost = collections.Counter(name for index in indices for name in self._classes[index])
        targets = collections.Counter(self._targets[index] for index in indices)
        gone = sum(self._targets_left[target] == count for target, count in targets.items())
        if gone and self._different - gone < 2:
            return False
        return self._examples > len(indices) and all(self._left[name] > count for name, count in lost.items())

    def take(self, indices: Sequence[int]) -> None:
        """Takes them out of training."""
        self._left.subtract(name for index in indices for name in self._classes[index])
        for index in indices:
            self._targets_left[self._targets[index]] -= 1
            self._different -= not self._targets_left[self._targets[index]]
        self._examples -= len(indices)
