"""Pairs of labelled texts that are alike (1) or not (0): what a sentence encoder learns from few labels by.

Tunstall et al. 2022 (SetFit), section 3.1; how many pairs are made follows `setfit.sampler.ContrastiveDataset` of the
library setfit 1.1, a text paired with itself among the positive ones.
"""

# E examples, P pairs

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.errors import UserError

SAMPLINGS = ("oversampling", "undersampling", "unique", "iterations")
TEXT, PAIR, SCORE = "text", "pair", "score"


class Pairs(NamedTuple):
    """Numbers of two examples each.

    Attributes:
      positive: int32 [P, 2], pairs with a label in common.
      negative: int32 [P', 2], pairs without one.
    """

    positive: np.ndarray
    negative: np.ndarray


def all_pairs(targets: Sequence[str | tuple[str, ...]]) -> Pairs:
    """Returns each unordered pair of E examples once, those of an example with itself included: E (E + 1) / 2 in all.

    Of several labels an example, a pair is positive that shares a label; an example without labels is like none, not
    even itself.
    """
    labels = [{target} if isinstance(target, str) else set(target) for target in targets]
    both: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for one, other in itertools.combinations_with_replacement(range(len(labels)), 2):
        if one != other or labels[one]:
            both[not labels[one] & labels[other]].append((one, other))
    positive, negative = (np.asarray(each, np.int32).reshape(-1, 2) for each in both)
    return Pairs(positive, negative)


def sample_pairs(
    targets: Sequence[str | tuple[str, ...]], sampling: str, *, iterations: int = 20, most: int = 0, seed: int = 0
) -> Pairs:
    """Returns the pairs to learn from.

    Args:
      targets: class or labels of each of E examples.
      sampling: "unique", each pair once. "oversampling", as many positive as negative ones: all of those that are more,
        and the others again and again. "undersampling", as many of each as there are of the fewer. "iterations", E x
        `iterations` of each, again and again where there are fewer.
      iterations: of the last.
      most: of pairs in all; 0: any number.
      seed: of the order in which pairs are taken.

    Raises:
      UserError: all examples are of one class.
    """
    assert sampling in SAMPLINGS
    found = all_pairs(targets)
    if not len(found.negative):
        raise UserError(
            "config.task.fit=setfit: all training examples have a label in common, so that no two are unlike. Give "
            "examples of two classes or more."
        )
    draw = np.random.default_rng(seed)
    shuffled = [draw.permutation(each) for each in found]
    fewer, more = sorted(map(len, shuffled))
    counts = {
        "unique": [len(each) for each in shuffled],
        "oversampling": [more, more],
        "undersampling": [fewer, fewer],
        "iterations": [iterations * len(targets)] * 2,
    }[sampling]
    if most:
        counts = [min(count, max(most // 2, 1)) for count in counts]
    return Pairs(
        *(each[np.arange(count) % max(len(each), 1)][:count] for each, count in zip(shuffled, counts, strict=True))
    )


def pair_records(texts: Sequence[str], pairs: Pairs) -> list[dict[str, Any]]:
    """Returns the pairs as records of two texts and a score, 1 or 0: those that are alike first."""
    return [
        {TEXT: texts[one], PAIR: texts[other], SCORE: score}
        for score, each in ((1.0, pairs.positive), (0.0, pairs.negative))
        for one, other in each.tolist()
    ]
