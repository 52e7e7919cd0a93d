"""What `jaxfm.drift` computes of both sides: distances with their tests, and what differs the most."""

# N records, D numbers of a vector

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.evaluation.drift_rules import AREA
from jaxfm.evaluation.drift_samples import Looked, Word
from jaxfm.evaluation.two_samples import (
    Area,
    JensenShannon,
    KolmogorovSmirnov,
    MeanDiscrepancy,
    PermutationTest,
    Statistic,
    UnknownShare,
    classifier_scores,
    contributions,
    permutation_test,
)
from jaxfm.programs.drift_data import Side, count_pieces, count_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_VECTORS = 2000
"""Of either side whose kernel is computed: all pairs of them are in memory."""
DISTANCE, SHARE, STATISTIC, DISCREPANCY = (
    "Jensen-Shannon distance",
    "share",
    "Kolmogorov-Smirnov",
    "maximum mean discrepancy",
)
_WORDS_KEPT = 50
_UNLIKE_KEPT = 20

NamedTest = tuple[str, str, PermutationTest]


@dataclasses.dataclass(frozen=True)
class Draws:
    """How distances are tested.

    Attributes:
      rounds: divisions that are drawn.
      seed: of the draws.
    """

    rounds: int
    seed: int

    def test(self, statistic: Statistic, is_new_N: np.ndarray, *, squared: bool = False) -> PermutationTest:
        """See `permutation_test`."""
        return permutation_test(statistic, is_new_N, rounds=self.rounds, seed=self.seed, squared=squared)


def text_tests(
    draws: Draws, tokenizer: "PreTrainedTokenizerFast", reference: Side, new: Side
) -> tuple[list[NamedTest], tuple[Word, ...]]:
    """Returns the tests of words, pieces, unknown words and lengths, and the words that differ most."""
    texts, is_new_N = [*reference.texts, *new.texts], _sides(len(reference.records), len(new.records))
    words = count_words(texts)
    pieces = count_pieces(tokenizer, texts)
    lengths_N = np.asarray(words.counts.sum(axis=1)).reshape(-1)
    tests = [
        ("words", DISTANCE, draws.test(JensenShannon(words.counts), is_new_N, squared=True)),
        ("pieces", DISTANCE, draws.test(JensenShannon(pieces.counts), is_new_N, squared=True)),
        ("unknown words", SHARE, draws.test(UnknownShare(words.counts), is_new_N)),
        ("length", STATISTIC, draws.test(KolmogorovSmirnov(lengths_N), is_new_N)),
    ]
    return tests, _differing(words.names, words.counts[~is_new_N].sum(axis=0), words.counts[is_new_N].sum(axis=0))


def _differing(names: tuple[str, ...], reference_K: np.ndarray, new_K: np.ndarray) -> tuple[Word, ...]:
    """Returns the words that add most to the divergence, the most first."""
    reference, new = (np.asarray(each, np.float64).reshape(-1) for each in (reference_K, new_K))
    added_K = contributions(reference, new)
    total = added_K.sum()
    if not total:
        return ()
    per_mille = [1000 * each / max(each.sum(), 1.0) for each in (reference, new)]
    order = np.argsort(-added_K, kind="stable")[:_WORDS_KEPT]
    return tuple(
        Word(names[each], float(per_mille[1][each]), float(per_mille[0][each]), float(added_K[each] / total))
        for each in order.tolist()
        if added_K[each] > 0
    )


def model_tests(draws: Draws, reference: Looked, new: Looked) -> tuple[list[NamedTest], tuple[tuple[int, float], ...]]:
    """Returns the tests of vectors, confidences and predicted classes, and the most unlike of the new records.

    These are numbers of new records with their witness (`MeanDiscrepancy.witness`), the largest first.
    """
    kept = [_drawn(len(each.vectors), draws.seed) for each in (reference, new)]
    vectors_ND = np.concatenate([each.vectors[index] for each, index in zip((reference, new), kept, strict=True)])
    vectors_ND = np.asarray(vectors_ND, np.float64)
    is_new_N = _sides(*map(len, kept))
    discrepancy = MeanDiscrepancy(vectors_ND)
    scored, scores = classifier_scores(vectors_ND, is_new_N, draws.seed)
    tests = [
        ("vectors", DISCREPANCY, draws.test(discrepancy, is_new_N, squared=True)),
        ("vectors, by a classifier", AREA, draws.test(Area(scores), is_new_N[scored])),
    ]
    witness = discrepancy.witness(is_new_N)[is_new_N]
    order = np.argsort(-witness, kind="stable")[:_UNLIKE_KEPT]
    unlike = tuple((int(kept[1][each]), float(witness[each])) for each in order)
    if reference.judged is not None and new.judged is not None:
        assert reference.predicted is not None and new.predicted is not None
        from scipy import sparse  # not at the start: half a second

        whole_N = _sides(len(reference.vectors), len(new.vectors))
        confidences_N = np.concatenate([reference.judged.of_records(), new.judged.of_records()])
        predicted = sparse.csr_array(np.concatenate([reference.predicted, new.predicted]))
        tests += [
            ("confidence", STATISTIC, draws.test(KolmogorovSmirnov(confidences_N), whole_N)),
            ("predicted classes", DISTANCE, draws.test(JensenShannon(predicted), whole_N, squared=True)),
        ]
    return tests, unlike


def _sides(reference: int, new: int) -> np.ndarray:
    return np.repeat([False, True], [reference, new])


def _drawn(count: int, seed: int) -> np.ndarray:
    if count <= MOST_VECTORS:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST_VECTORS, replace=False))
