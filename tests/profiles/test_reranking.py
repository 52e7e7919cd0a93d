"""What profiles/reranking.py makes of similarities and of scores of pairs."""

import numpy as np

from jaxfm.data.records.text_groups import TextGroup
from profiles import reranking


def test_negatives_are_responses_of_others_at_the_ranks_asked_for() -> None:
    groups = [TextGroup(f"a{number}", (f"r{number}",), (), "here:1") for number in range(6)]
    groups.append(TextGroup("a0", ("r6",), (), "here:2"))
    similarity = np.tile(-np.arange(7.0), (7, 1))  # all rank the responses by their number
    found = reranking.hard_negatives(similarity, groups, count=2, skip=1, depth=4, seed=0)
    assert all(len(set(each)) == 2 for each in found)
    assert set(found[0]) <= {"r2", "r3", "r4"}  # of a0, r0 and r6 are right, r1 is the first rank
    assert set(found[5]) <= {"r1", "r2", "r3"}
    assert len(reranking.hard_negatives(similarity, groups, count=9, skip=1, depth=4, seed=0)[1]) == 3


def test_what_was_scored_again_comes_first() -> None:
    first = np.asarray([0.3, 0.9, 0.5, 0.1], np.float32)
    found = reranking.reranked(first, np.asarray([0.2, 0.7]), np.asarray([1, 2]))
    assert np.argsort(-found).tolist() == [2, 1, 0, 3]


def test_scores_of_candidates_of_which_the_first_is_right() -> None:
    groups = [np.asarray([0.9, 0.1]), np.asarray([0.8, 0.2]), np.asarray([0.7, 0.1]), np.asarray([0.6, 0.0])]
    wrong = np.asarray([0.1, 0.2])
    found = reranking.describe([*groups, wrong])
    assert found == {"recall@1": 80.0, "mrr": 90.0, "precision at 80 %": 100.0}
