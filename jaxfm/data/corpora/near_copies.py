"""Which texts of a labelled data set are copies or near copies of one another.

`deduplication.py` decides about corpora that fit no memory, by hashes that miss some; here all pairs that are alike are
found.
"""

# N texts

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxfm.data.corpora.deduplication import ngrams, normalised, word_hashes

SHINGLE_WORDS = 2  # of a sentence that differs in a word all runs of five words may differ
ALIKE = 0.8
"""Jaccard similarity of the sets of word pairs from which texts are near copies."""
_MOST_COMMON = 1000  # texts with one rare word pair in common that are compared with each other


@dataclasses.dataclass(frozen=True, eq=False)
class Copies:
    """Which texts repeat others.

    Attributes:
      exact: int [N] the number of the first text that is equal but for case, spaces and compatible characters.
      near: int [N] the number of the first text of those that are alike, directly or by others between them.
    """

    exact: np.ndarray
    near: np.ndarray


def find_copies(texts: Sequence[str], least: int = 0) -> Copies:
    """Finds copies and near copies of texts.

    Args:
      texts: any.
      least: words that a text has at least to be looked at: shorter ones repeat by chance.
    """
    exact, near = np.arange(len(texts)), np.arange(len(texts))
    first: dict[str, int] = {}
    shingles: dict[int, frozenset[int]] = {}
    for number, text in enumerate(texts):
        plain = normalised(text)
        words = word_hashes(plain)
        if len(words) < least:
            continue
        exact[number] = first.setdefault(plain, number)
        if exact[number] == number and len(words) > SHINGLE_WORDS:
            shingles[number] = frozenset(ngrams(words, SHINGLE_WORDS).tolist())
    near[:] = exact
    for one, other in alike_pairs(shingles, ALIKE):
        low, high = sorted((_root(near, one), _root(near, other)))
        near[high] = low
    return Copies(exact, np.asarray([_root(near, number) for number in range(len(near))], np.int64))


def alike_pairs(sets: dict[int, frozenset[int]], least: float) -> Iterator[tuple[int, int]]:
    """Yields all pairs of sets with a Jaccard similarity of `least` or more, each once.

    Two such sets share one of the first |A| - ceil(least |A|) + 1 members of each, taken in one order of all (prefix
    filtering, Chaudhuri et al. 2006; Bayardo et al. 2007), rare members first. A member that more than `_MOST_COMMON`
    sets have among these first ones finds the first of them alone.
    """
    counts = collections.Counter(member for own in sets.values() for member in own)
    seen: dict[int, list[int]] = collections.defaultdict(list)
    for number in sorted(sets, key=lambda each: (len(sets[each]), each)):
        own = sets[number]
        prefix = sorted(own, key=lambda member: (counts[member], member))
        prefix = prefix[: len(own) - int(np.ceil(least * len(own) - 1e-9)) + 1]
        candidates = {other for member in prefix for other in seen[member]}
        for other in sorted(candidates):
            if len(sets[other]) >= least * len(own) - 1e-9:
                shared = len(own & sets[other])
                if shared >= least * (len(own) + len(sets[other]) - shared) - 1e-9:
                    yield other, number
        for member in prefix:
            if len(seen[member]) < _MOST_COMMON:
                seen[member].append(number)


def _root(parents: np.ndarray, number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = int(parents[number])
    return number
