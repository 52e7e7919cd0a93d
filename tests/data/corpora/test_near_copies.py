"""Copies and near copies of texts, against comparing all pairs."""

import itertools
import random

import numpy as np

from jaxfm.data.corpora.deduplication import normalised
from jaxfm.data.corpora.near_copies import alike_pairs, find_copies


def test_all_pairs_and_no_others() -> None:
    draw = random.Random(0)
    sets = {}
    for number in range(200):
        base = set(range(draw.randrange(6) * 10, draw.randrange(6) * 10 + 12))
        own = base ^ set(draw.sample(range(80), draw.randrange(4)))
        if own:
            sets[number * 3] = frozenset(own)
    for least in (0.5, 0.8, 1.0):
        expected = {
            (one, other)
            for one, other in itertools.combinations(sets, 2)
            if len(sets[one] & sets[other]) / len(sets[one] | sets[other]) >= least
        }
        found = [tuple(sorted(pair)) for pair in alike_pairs(sets, least)]
        assert len(found) == len(set(found)) and set(found) == expected and expected


def test_copies_and_near_copies() -> None:
    long = "the old town lies near the river and has a market on every first day of the month"
    texts = [
        long,
        "Who was it ?",
        f"  {long.upper()} ",
        long + " now",
        "something else that has nothing to do with the others",
        "who  was it ?",
        "yes",
        "yes",
        "..",
        ".. ",
    ]
    found = find_copies(texts)
    assert found.exact.tolist() == [0, 1, 0, 3, 4, 1, 6, 6, 8, 8]
    assert found.near.tolist() == [0, 1, 0, 0, 4, 1, 6, 6, 8, 8]
    assert normalised(texts[2]) == normalised(long)
    ignored = find_copies(texts, least=4)
    assert ignored.exact.tolist() == [0, 1, 0, 3, 4, 5, 6, 7, 8, 9] and ignored.near[3] == 0


def test_chains_have_one_number() -> None:
    words = [f"w{number}" for number in range(40)]
    texts = [" ".join(words[first : first + 30]) for first in (4, 2, 0)]
    found = find_copies(texts)
    assert found.near.tolist() == [0, 0, 0] and found.exact.tolist() == [0, 1, 2]
    assert find_copies([]).near.shape == (0,) and np.issubdtype(found.near.dtype, np.integer)
