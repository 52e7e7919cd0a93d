"""Scores of written texts by hand, and the baselines beside them."""

import collections
import math

import pytest

from jaxfm.evaluation.generation import METRICS, baseline_scores, baseline_texts, first_sentences, generation_scores

TEXTS = ["the cat sat on the mat today", "a dog barks at night"]
GOLD = [["the cat sat on the mat", "there is a cat on the mat today"], ["dogs bark at night"]]


def counts(words: list[str], order: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def bleu(texts: list[str], references: list[list[str]]) -> float:
    """Papineni et al. 2002 with the exponential smoothing that sacrebleu has by default."""
    found, all_of = [0] * 4, [0] * 4
    length = wanted = 0
    for text, gold in zip(texts, references, strict=True):
        words = text.split()
        length += len(words)
        wanted += min((abs(len(one.split()) - len(words)), len(one.split())) for one in gold)[1]
        for order in range(1, 5):
            best: collections.Counter[tuple[str, ...]] = collections.Counter()
            for one in gold:
                best |= counts(one.split(), order)
            own = counts(words, order)
            found[order - 1] += sum((own & best).values())
            all_of[order - 1] += sum(own.values())
    smooth, logs = 1.0, []
    for right, total in zip(found, all_of, strict=True):
        smooth = smooth * 2 if not right else smooth
        logs.append(math.log((right or 1 / smooth) / total))
    return 100 * math.exp(sum(logs) / 4) * (1 if length >= wanted else math.exp(1 - wanted / length))


def test_bleu_and_rouge_are_those_of_the_papers() -> None:
    found = generation_scores(TEXTS, GOLD)
    assert tuple(found) == METRICS
    assert found["bleu"] == pytest.approx(bleu(TEXTS, GOLD), abs=1e-9)
    # Six words of seven are in the first reference, whose six are all found; "bark" and "dog" are stems.
    assert found["rouge1"] == pytest.approx((2 * (6 / 7) * 1 / (6 / 7 + 1) + 2 * (4 / 5) * 1 / (4 / 5 + 1)) / 2)
    assert found["rouge2"] == pytest.approx((2 * (5 / 6) * 1 / (5 / 6 + 1) + 2 * (3 / 4) * 1 / (3 / 4 + 1)) / 2)
    assert found["exact_match"] == 0.0 and found["length_ratio"] == pytest.approx(12 / 10)
    assert 0 < found["chrf"] < 100


def test_the_right_text_has_everything_and_another_one_nothing() -> None:
    first = [gold[-1] + " " for gold in GOLD]
    best = generation_scores(first, GOLD)
    assert best["exact_match"] == best["rouge1"] == best["rougeL"] == 1.0
    assert best["bleu"] == pytest.approx(100) and best["chrf"] == pytest.approx(100)
    worst = generation_scores(["xyz", "uvw"], GOLD)
    assert worst["exact_match"] == worst["rouge1"] == 0.0 and worst["bleu"] < 10


def test_baselines_copy_the_source_and_its_first_sentences() -> None:
    source = 'One is here. Two, "so!" Three? Four. Five'
    assert first_sentences(source, 3) == 'One is here. Two, "so!" Three?'
    assert first_sentences("No end", 3) == "No end" and first_sentences("A. B. C.", 3) == "A. B. C."
    assert baseline_texts([source]) == {"copy": [source], "lead": ['One is here. Two, "so!" Three?']}
    scores = baseline_scores([source], [[source]])
    assert scores["copy"]["exact_match"] == 1.0 and scores["lead"]["exact_match"] == 0.0
    assert 0 < scores["lead"]["rouge1"] < 1
