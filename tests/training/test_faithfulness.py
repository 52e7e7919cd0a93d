"""Comprehensiveness and sufficiency beside a slow version of them, written by hand."""

import math
import pathlib
from collections.abc import Sequence

import numpy as np
import pytest

from jaxfm.programs.model import Model
from jaxfm.training.faithfulness import FRACTIONS, erase, random_orders
from tests import tiny

TEXTS = ("ada met boole in hull", "the old town", "leeds", "boole said that ada met nobody in the old town of hull")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    runs: dict[str, pathlib.Path] = tiny.write_runs(tmp_path_factory.mktemp("faithful"), ("classification",))
    return Model(runs["classification"])


def probability(model: Model, words: Sequence[str], kept: set[int], label: str) -> float:
    """What the model says of a text with masks in the place of all words but some."""
    tokenizer = model.predictor.tokenizer  # type: ignore[attr-defined]
    pieces = [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words]
    shown = (word if number in kept else " ".join(["[MASK]"] * pieces[number]) for number, word in enumerate(words))
    return model(" ".join(shown))["scores"][label]


def test_scores_are_those_of_the_slow_version(model: Model) -> None:
    records = [model.record(text, "a text") for text in TEXTS]
    (portion,) = model.explainer.prepared(records)
    orders = [random_orders(each, (0, number)) for number, each in enumerate(portion.explained)]
    attribution = model.explainer.attribution(portion.explained)
    found = erase(attribution, model.explainer.params, portion.rows, portion.explained, orders)
    for text, each, (order,) in zip(TEXTS, found, orders, strict=True):
        words, label = text.split(), model(text)["label"]
        every = set(range(len(words)))
        without, alone = [], []
        for fraction in FRACTIONS:
            first = set(order[: max(1, math.ceil(len(words) * fraction))].tolist())
            full = probability(model, words, every, label)
            without.append(full - probability(model, words, every - first, label))
            alone.append(full - probability(model, words, first, label))
        assert each.comprehensiveness == pytest.approx(np.mean(without), abs=2e-4)  # results have four digits
        assert each.sufficiency == pytest.approx(np.mean(alone), abs=2e-4)


def test_orders_depend_on_the_seed_alone_and_a_blank_text_has_no_score(model: Model) -> None:
    (portion,) = model.explainer.prepared([model.record(text, "a text") for text in (*TEXTS, "")])
    one, other = (random_orders(portion.explained[3], (0, 3, draw)) for draw in (1, 2))
    assert sorted(one[0]) == list(range(12)) and one[0].tolist() != other[0].tolist()
    assert one[0].tolist() == random_orders(portion.explained[3], (0, 3, 1))[0].tolist()
    orders = [random_orders(each, (0,)) for each in portion.explained]
    attribution = model.explainer.attribution(portion.explained)
    *_, blank = erase(attribution, model.explainer.params, portion.rows, portion.explained, orders)
    assert math.isnan(blank.comprehensiveness) and math.isnan(blank.sufficiency)
