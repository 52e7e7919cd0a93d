"""Distances of two samples beside scipy and brute force; p-values that are uniform without a difference."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.spatial.distance import jensenshannon, pdist, squareform

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
    divergence,
    holm,
    permutation_test,
)

GENERATOR = np.random.default_rng(5)
NEW = np.repeat([False, True], [9, 6])


def divisions(rounds: int = 4) -> np.ndarray:
    return np.stack([GENERATOR.permutation(NEW).astype(np.float64) for _ in range(rounds)])


def counts(records: int = len(NEW), things: int = 20) -> np.ndarray:
    return GENERATOR.poisson(0.4, (records, things)).astype(np.float64)


def test_the_divergence_is_the_square_of_scipys_distance() -> None:
    table, some = counts(), divisions()
    found = JensenShannon(sparse.csr_array(table))(some)
    for value, division in zip(found, some, strict=True):
        new = division.astype(bool)
        expected = jensenshannon(table[~new].sum(axis=0), table[new].sum(axis=0), base=2) ** 2
        assert value == pytest.approx(expected, abs=1e-12)
    a, b = table[:9].sum(axis=0), table[9:].sum(axis=0)
    assert contributions(a, b).sum() == pytest.approx(jensenshannon(a, b, base=2) ** 2)
    assert (contributions(a, b) >= 0).all() and contributions(a, 3 * a) == pytest.approx(np.zeros(20))
    assert divergence(np.asarray([1.0, 0.0]), np.asarray([0.0, 5.0])) == pytest.approx(1.0)  # nothing in common
    assert divergence(np.zeros(3), np.ones(3)) == 0.0


def test_unknown_words_one_by_one() -> None:
    table, some = counts(things=200), divisions()
    for value, division in zip(UnknownShare(sparse.csr_array(table))(some), some, strict=True):
        new = division.astype(bool)
        known = {number for number in range(200) if table[~new, number].any()}
        occurrences = [(number, table[row, number]) for row in np.flatnonzero(new) for number in range(200)]
        unknown = sum(count for number, count in occurrences if number not in known)
        assert value == pytest.approx(unknown / sum(count for _, count in occurrences)) and value > 0


def test_kolmogorov_and_smirnov_as_scipy_with_ties() -> None:
    values, some = GENERATOR.integers(0, 5, len(NEW)), divisions()
    for value, division in zip(KolmogorovSmirnov(values)(some), some, strict=True):
        new = division.astype(bool)
        expected: Any = stats.ks_2samp(values[~new], values[new])
        assert value == pytest.approx(expected.statistic)
    values = GENERATOR.standard_normal(60)
    is_new = np.repeat([False, True], [35, 25])
    found = permutation_test(KolmogorovSmirnov(values), is_new, rounds=4000)
    exact: Any = stats.ks_2samp(values[~is_new], values[is_new], method="exact")
    assert found.p == pytest.approx(exact.pvalue, abs=0.03)


def test_the_mean_discrepancy_by_brute_force() -> None:
    vectors, some = GENERATOR.standard_normal((len(NEW), 3)), divisions()
    statistic = MeanDiscrepancy(vectors)
    width = np.median(pdist(vectors)) ** 2
    kernel = np.exp(-(squareform(pdist(vectors)) ** 2) / (2 * width))
    np.testing.assert_allclose(statistic.kernel_NN, kernel, atol=1e-12)
    for value, division in zip(statistic(some), some, strict=True):
        new, old = np.flatnonzero(division), np.flatnonzero(1 - division)
        within = np.mean([kernel[i, j] for i, j in itertools.permutations(new, 2)])
        others = np.mean([kernel[i, j] for i, j in itertools.permutations(old, 2)])
        across = np.mean([kernel[i, j] for i, j in itertools.product(new, old)])
        assert value == pytest.approx(within + others - 2 * across, abs=1e-12)
    witness = statistic.witness(NEW)
    assert witness[2] == pytest.approx(kernel[2, NEW].mean() - kernel[2, ~NEW].mean())
    same = MeanDiscrepancy(np.ones((4, 2)))
    assert same(np.asarray([[0.0, 0, 1, 1]])) == pytest.approx([0.0])


def test_the_area_as_mann_and_whitney_count_it() -> None:
    scores, some = GENERATOR.integers(0, 4, len(NEW)).astype(np.float64), divisions()
    for value, division in zip(Area(scores)(some), some, strict=True):
        new = division.astype(bool)
        expected = stats.mannwhitneyu(scores[new], scores[~new]).statistic / (6 * 9)
        assert value == pytest.approx(expected)


def test_a_classifier_scores_what_it_has_not_learned() -> None:
    is_new = np.repeat([False, True], [61, 40])
    vectors = GENERATOR.standard_normal((101, 5)) + 3.0 * is_new[:, None] * np.asarray([1.0, 0, 0, 0, 0])
    scored, scores = classifier_scores(vectors, is_new, seed=0)
    assert (is_new[scored].sum(), len(scored)) == (20, 50)
    assert Area(scores)(is_new[scored].astype(np.float64)[None])[0] > 0.9
    changed = vectors.copy()
    changed[scored[0]] += 100.0  # of those who are scored nothing is learned
    again = classifier_scores(changed, is_new, seed=0)[1]
    assert again[0] != scores[0] and np.array_equal(again[1:], scores[1:])


KINDS = ("words", "unknown", "length", "vectors", "classifier")


def drawn(kind: str, generator: np.random.Generator) -> tuple[Statistic, np.ndarray]:
    """A statistic of 24 records of one distribution, and which of them are new."""
    is_new = np.repeat([False, True], [14, 10])
    if kind in ("words", "unknown"):
        table = sparse.csr_array(generator.poisson(0.5, (24, 30)).astype(np.float64))
        return (JensenShannon(table) if kind == "words" else UnknownShare(table)), is_new
    if kind == "length":
        return KolmogorovSmirnov(generator.standard_normal(24)), is_new
    vectors = generator.standard_normal((24, 4))
    if kind == "vectors":
        return MeanDiscrepancy(vectors), is_new
    scored, scores = classifier_scores(vectors, is_new, int(generator.integers(1000)))
    return Area(scores), is_new[scored]


@pytest.mark.parametrize("kind", KINDS)
def test_p_values_are_uniform_where_there_is_no_difference(kind: str) -> None:
    generator, found = np.random.default_rng(11), []
    for number in range(300):
        statistic, is_new = drawn(kind, generator)
        found.append(permutation_test(statistic, is_new, rounds=99, seed=number).p)
    p = np.asarray(found)
    for level in (0.05, 0.1, 0.25, 0.5):  # three standard errors of 300 draws; ties make a test careful, not bold
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / 300)
    if kind in ("words", "vectors"):  # without ties
        assert stats.kstest(p, "uniform").pvalue > 0.01


def test_what_differs_is_found_and_rounds_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    table = counts(60, 12)
    table[40:, :3] += GENERATOR.poisson(2.0, (20, 3))
    is_new = np.repeat([False, True], [40, 20])
    statistic = JensenShannon(sparse.csr_array(table))
    found = permutation_test(statistic, is_new, rounds=200, seed=1, squared=True)
    assert found.p == pytest.approx(1 / 201) and found.beyond > 0.2 > found.chance
    assert found.distance == pytest.approx(jensenshannon(table[:40].sum(axis=0), table[40:].sum(axis=0), base=2))
    monkeypatch.setattr("jaxfm.evaluation.two_samples._CELLS", 500)
    again = permutation_test(statistic, is_new, rounds=200, seed=1, squared=True)
    np.testing.assert_allclose(again.null, found.null, atol=1e-15)


def test_what_is_beyond_chance() -> None:
    plain = PermutationTest(0.5, np.asarray([0.1, 0.3]))
    assert (plain.beyond, plain.chance, plain.p) == (pytest.approx(0.3), pytest.approx(0.2), pytest.approx(1 / 3))
    assert (
        PermutationTest(0.1, np.asarray([0.1, 0.3])).beyond == 0.0
        and PermutationTest(0.1, np.asarray([0.1, 0.3])).p == 1.0
    )
    square = PermutationTest(0.25, np.asarray([0.08, 0.10]), squared=True)
    assert (square.distance, square.beyond) == (0.5, pytest.approx(0.4))
    assert (
        square.quantile(1.0) == pytest.approx(np.sqrt(0.1))
        and PermutationTest(-0.1, np.zeros(3), squared=True).distance == 0
    )


def test_holm_by_hand_and_its_promise() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979, section 3
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
    p = np.random.default_rng(0).random((4000, 6))
    false = np.mean([min(holm(row)) < 0.05 for row in p])
    assert false == pytest.approx(1 - (1 - 0.05 / 6) ** 6, abs=0.011)
