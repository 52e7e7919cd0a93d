"""Scores of replaced-token detection from outputs by hand, and those of rows drawn anew."""

import jax
import numpy as np
import pytest

from tests.tasks.replaced_token.test_objective import Bench
from tests.tasks.replaced_token.test_task import RATIOS, created


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(created(tmp_path_factory.mktemp("rtd")))


@pytest.fixture(scope="module")
def outputs(bench: Bench) -> dict[str, np.ndarray]:
    """Of all validation rows at once."""
    rows = bench.task.datasets["valid"]
    return jax.device_get(bench.outputs(rows.take(np.arange(len(rows)))))


def _of_any_unit(metric: str) -> str:
    return metric.removesuffix("_token").removesuffix("_whole_word").removesuffix("_span")


@pytest.mark.slow
def test_rows_drawn_anew_score_as_rows(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    evaluation = bench.task.scorer("valid").report(outputs)
    data, each = evaluation.bootstrap_data, len(outputs["target"]) // 2
    assert data is not None and data.count == each
    less = {name for name in evaluation.metrics if not bench.task.directions[_of_any_unit(name)]}
    assert less == set(data.less_is_better) & set(evaluation.metrics)
    assert data.metrics(np.arange(each)) == pytest.approx(dict(evaluation.metrics), rel=1e-6)
    index = np.random.default_rng(0).integers(0, each, each)
    picked = np.concatenate([index, index + each])
    wanted = bench.task.scorer("valid").report({name: values[picked] for name, values in outputs.items()}).metrics
    assert data.metrics(index) == pytest.approx(dict(wanted), rel=1e-6)
    # What another generator proposes is other data to find replacements in.
    other = (
        bench.task.scorer("valid").report(outputs | {"sampled": np.roll(outputs["sampled"], 1, axis=0)}).bootstrap_data
    )
    assert other is not None and other.identity != data.identity


def test_scores_from_outputs_by_hand(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    evaluation = bench.task.scorer("valid").report(outputs)
    arrays = bench.task.datasets["valid"].take(np.arange(len(outputs["target"])))
    original, seen = arrays["tokens"].copy(), arrays["tokens"].copy()
    for row, valid in enumerate(outputs["target"] >= 0):
        original[row, outputs["place"][row][valid]] = outputs["target"][row][valid]
        seen[row, outputs["place"][row][valid]] = outputs["sampled"][row][valid]
    alarm = np.asarray(bench.replaced({**arrays, "tokens": seen})) > 0
    counted = (arrays["segment_ids"] > 0) & ~np.isin(original, bench.task.text.tokenizer.all_special_ids)
    each = len(seen) // 2  # those with masks by token come first
    changed, alarm, counted = ((part & counted)[:each] for part in (original != seen, alarm, counted))
    replaced, flagged, found = changed.sum(), alarm.sum(), (changed & alarm).sum()
    tokens, errors = counted.sum(), (changed != alarm).sum()
    own = evaluation.scores["units"]["token"]
    assert 0 < found < min(replaced, flagged)
    np.testing.assert_allclose(own["recall"], found / replaced)
    np.testing.assert_allclose(own["precision"], found / flagged)
    np.testing.assert_allclose(own["f1"], 2 * found / (replaced + flagged))
    np.testing.assert_allclose(own["replaced"], replaced / tokens)
    np.testing.assert_allclose(own["discriminator_accuracy"], 1 - errors / tokens)
    scale = 50 * RATIOS[1] * tokens / own["targets"]
    np.testing.assert_allclose(own["loss"], own["generator_loss"] + scale * own["discriminator_loss"], rtol=1e-6)
    assert set(bench.task.directions) <= set(evaluation.metrics) and "f1_whole_word" in evaluation.metrics
    records = list(evaluation.predictions)
    assert len(records) == each and sum(len(record["replaced"]) for record in records) == replaced
    assert sum(record["false_alarms"] for record in records) == flagged - found
    for record in records:
        assert all(word["token"] != word["by"] and 0 <= word["probability"] <= 1 for word in record["replaced"])
        assert "[MASK]" not in record["text"]
    assert sum(word["probability"] > 0.5 for record in records for word in record["replaced"]) == found


def test_the_rows_judged_worst_are_shown_as_the_encoder_saw_them(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    evaluation = bench.task.scorer("valid").report(outputs)
    records = {f"row {record['row']:,}": record for record in evaluation.predictions}
    assert len(evaluation.wrong) > 1
    losses = []
    for shown in evaluation.wrong:
        record, (view,), facts = records[shown.origin], shown.views, dict(shown.facts)
        assert not record["correct"] and "[SEP]" not in view.text
        replaced = record["replaced"]
        marked = [view.text[mark.start : mark.end] for mark in view.marks]
        assert marked == [token["by"].removeprefix("##") for token in replaced]
        assert [mark.label for mark in view.marks] == [token["token"] for token in replaced]
        assert [mark.status == "right" for mark in view.marks] == [token["probability"] > 0.5 for token in replaced]
        assert (facts["replaced"], facts["false alarms"]) == (str(len(replaced)), str(record["false_alarms"]))
        losses.append(float(facts["loss"]))
    assert losses == sorted(losses, reverse=True)
