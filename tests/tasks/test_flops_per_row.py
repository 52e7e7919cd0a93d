"""The operations of each objective, by hand."""

from typing import Any

import pytest

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Objective
from jaxfm.families.registry import preset
from jaxfm.tasks import registry

D, V, T = 768, 30522, 128
ENCODER = 72 * 12 * D**2 + 12 * 12 * D * T  # a token of rows of 128 tokens


def objective(task: str, **keys: Any) -> Objective:
    values = registry.default_config(task)
    values.data.row_length = T
    for name, value in keys.items():
        setattr(values.task, name, value)
    return registry.abstract_objective(registry.from_config_dict(values), preset("bert_base"))


def per_token(task: str, **keys: Any) -> float:
    return objective(task, **keys).flops_per_row(AdaptConfig()) / T


def test_masked_lm_scores_the_vocabulary_at_masked_tokens() -> None:
    assert per_token("masked_lm") == pytest.approx(ENCODER + 0.15 * 6 * (D * V + D**2))
    # A share that changes counts by its mean.
    assert per_token("masked_lm", ratio=0.3, final_ratio=0.1) == pytest.approx(per_token("masked_lm", ratio=0.2))


def test_ner_scores_every_token() -> None:
    assert per_token("ner") == pytest.approx(ENCODER + 6 * D * 9)


def test_answers_have_a_start_and_an_end_at_every_token() -> None:
    assert per_token("qa") == pytest.approx(ENCODER + 6 * D * 2)


def test_spans_have_two_ends_and_as_many_classes_as_types_and_none() -> None:
    assert per_token("nested_ner") == pytest.approx(ENCODER + 6 * 2 * D * 150 + 10 * 6 * 150 * 8)


def test_spans_have_vectors_that_are_compared_with_every_label() -> None:
    spans = 10 * 6 * (256 * D + D * 18)
    assert per_token("zero_shot_ner") == pytest.approx(ENCODER + 6 * 2 * D * 256 + spans)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classification_scores_every_segment(pooling: str) -> None:
    segments = T // 16
    dense = D**2 if pooling == "cls" else 0
    assert per_token("classification", pooling=pooling) == pytest.approx(ENCODER + segments / T * 6 * (dense + D * 2))


def test_relations_score_two_vectors_of_every_segment() -> None:
    segments = T // 32
    assert per_token("relations") == pytest.approx(ENCODER + segments / T * 6 * (2 * D**2 + D * 19))
    assert per_token("relations", markers="none") == pytest.approx(ENCODER + segments / T * 6 * (D**2 + D * 19))


def test_a_generator_adds_its_layers_and_the_detector_its_dense_layer() -> None:
    layer = 72 * D**2 + 12 * D * T
    more = per_token("replaced_token", generator_depth=0.25) - per_token("masked_lm")
    assert more == pytest.approx(3 * layer + 6 * D**2)


def test_logits_of_a_row() -> None:
    assert objective("masked_lm").logits_per_row() == pytest.approx(0.15 * T * V)
    assert objective("ner").logits_per_row() == T * 9
    assert objective("qa").logits_per_row() == T * 2
    assert objective("classification").logits_per_row() == T // 16 * 2
    assert objective("relations").logits_per_row() == T // 32 * 19
