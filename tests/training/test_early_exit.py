"""Examples that leave early against all heads over all rows: what is computed is the same, only less of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.evaluation import exits
from jaxfm.evaluation.exits import ExitRule, Places
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.classification.spec import ClassifierSpec
from jaxfm.tasks.ner.spec import WORDS, NerSpec
from jaxfm.training.early_exit import EarlyExit, row_counts
from jaxfm.training.exit_scores import HeadEvaluator
from jaxfm.training.paths import nested
from tests import tiny

POST = dataclasses.replace(tiny.ENCODER, num_layers=6)
PRE = dataclasses.replace(POST, norm_placement="pre", first_norm=True)
WINDOWS = dataclasses.replace(PRE, local_window=4, global_every=3, position_embedding="rope")
LENGTH, EXAMPLES, BATCH = 32, 45, 8


def classifier(encoder: EncoderConfig, kind: str = "single") -> ClassifierSpec:
    return ClassifierSpec(
        kind=kind,
        labels=("a", "b", "c"),
        encoder=encoder,
        pooling="cls",
        pairs=False,
        row_length=LENGTH,
        window=LENGTH,
        segments=4,
        threshold=0.5,
        exits=(2, 4),
    )


def tagger(encoder: EncoderConfig, pooling: str = "first") -> NerSpec:
    return NerSpec(("O", "B-X", "I-X"), encoder, LENGTH, LENGTH, 8, "sentence", word_pooling=pooling, exits=(2, 4))


def rows_of(spec: Any, examples: int = EXAMPLES) -> tuple[PackedRows, np.ndarray | None]:
    """Returns packed examples of all lengths and, of tokens, which of them are read."""
    draw = np.random.default_rng(3)
    tokens = [draw.integers(5, 90, size) for size in draw.integers(2, 20, examples)]
    if isinstance(spec, ClassifierSpec):
        targets = np.full((examples, *spec.label_field().shape[1:]), -1, np.int32)
        return build_rows(tokens, targets, LENGTH, 0, None, max_segments=spec.segments), None
    words = [np.sort(draw.integers(0, 5, len(each))).astype(np.int32) for each in tokens]
    fields = {WORDS: words} if spec.token_fields else {}
    rows = build_rows(tokens, [np.full(len(each), -1) for each in tokens], LENGTH, 0, None, token_fields=fields)
    return rows, (draw.random(rows.tokens.shape) < 0.5) & (rows.segment_ids > 0)


class Case:
    """A model of random weights, its rows, and what all of its heads say of all of these."""

    def __init__(self, spec: Any):
        self.spec, self.mesh = spec, make_mesh(MeshConfig())
        make: Callable[[], Any] = lambda: spec.make_model(Build(), nnx.Rngs(0))  # noqa: E731
        self.graphdef, _ = build_abstract(make, self.mesh)
        # The heads' weights are drawn widely, so that some examples are sure early.
        params = tiny.drawn(make, spec.encoder, seed=2)
        self.params = nested({name: value * (4 if "head/kernel" in name else 1) for name, value in params.items()})
        self.rows, self.read = rows_of(spec)
        self.heads = HeadEvaluator(spec, self.graphdef, self.mesh, BATCH)(self.params, self.rows)
        self.places = Places(self.rows.example_locations, self.rows.segment_ids, self.read)

    def rule(self, threshold: float | None) -> ExitRule:
        return ExitRule((2, 4, 6), (1.5, 0.8, 2.0), threshold, "")

    def engine(self, threshold: float | None, batch_size: int = BATCH) -> EarlyExit:
        return EarlyExit(self.spec, self.graphdef, self.mesh, batch_size, self.rule(threshold))

    def expected(self, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits, and the layers of each example, of all heads over all rows."""
        form, rule = self.spec.exit_form, self.rule(threshold)
        sure = {
            head: exits.confidence(form, self.heads[head][form.output], self.places, rule.temperature_of[head])
            for head in (2, 4)
        }
        left = exits.leaving(sure, 6, threshold)
        return exits.mixed(form, self.heads, left, self.places, rule.temperature_of)[form.output], left

    def used(self, logits: np.ndarray) -> np.ndarray:
        """Returns the logits that belong to an example."""
        if self.spec.exit_form.of_tokens:
            return logits[self.rows.segment_ids > 0]
        return logits[self.rows.example_locations[:, 0], self.rows.example_locations[:, 1]]


@pytest.fixture(
    scope="module", params=["post", "pre", "windows", "labels", "tokens", "words"],
)  # fmt: skip
def case(request: pytest.FixtureRequest) -> Case:
    make: dict[str, Callable[[], Any]] = {
        "post": lambda: classifier(POST),
        "pre": lambda: classifier(PRE),
        "windows": lambda: classifier(WINDOWS),
        "labels": lambda: classifier(POST, "multi"),
        "tokens": lambda: tagger(POST),
        "words": lambda: tagger(PRE, "mean"),
    }
    return Case(make[request.param]())


def test_examples_leave_where_they_should_with_what_the_head_there_says(case: Case) -> None:
    sure = exits.confidence(case.spec.exit_form, case.heads[2][case.spec.exit_form.output], case.places, 1.5)
    threshold = float(np.quantile(sure, 0.6))
    found = case.engine(threshold)(case.params, case.rows, case.read)
    logits, left = case.expected(threshold)
    assert len(set(left)) == 3, "a threshold by which examples leave at each head"
    np.testing.assert_array_equal(found.left, left)
    np.testing.assert_allclose(
        case.used(found.outputs[case.spec.exit_form.output]), case.used(logits), atol=2e-5, rtol=1e-5
    )


def test_the_ends_of_thresholds_are_the_whole_model_and_the_first_head(case: Case) -> None:
    name = case.spec.exit_form.output
    whole = case.engine(None)(case.params, case.rows, case.read)
    assert (whole.left == 6).all()
    np.testing.assert_allclose(case.used(whole.outputs[name]), case.used(case.heads[6][name]), atol=5e-6)
    first = case.engine(0.0)(case.params, case.rows, case.read)
    assert (first.left == 2).all()
    np.testing.assert_allclose(case.used(first.outputs[name]), case.used(case.heads[2][name]) * (2.0 / 1.5), atol=5e-6)


def test_a_result_does_not_depend_on_what_lies_beside_it(case: Case) -> None:
    name, threshold = case.spec.exit_form.output, 0.8
    together = case.engine(threshold)(case.params, case.rows, case.read)
    few = case.engine(threshold, 4)(case.params, case.rows, case.read)
    np.testing.assert_array_equal(together.left, few.left)
    np.testing.assert_allclose(case.used(together.outputs[name]), case.used(few.outputs[name]), atol=2e-5, rtol=1e-5)


def test_less_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(classifier(POST))
    engine, sizes = case.engine(0.45), list[tuple[int, ...]]()
    part, end = engine._part, engine._end
    spy = lambda which: lambda *given, **more: (sizes.append(given[-2]["segment_ids"].shape), which(*given, **more))[1]  # noqa: E731
    monkeypatch.setattr(engine, "_part", spy(part))
    monkeypatch.setattr(engine, "_end", spy(end))
    found = engine(case.params, case.rows)
    computed = sum(2 * rows * length for rows, length in sizes)
    assert 2 <= found.left.mean() < 5 and computed < 0.8 * 6 * found.units.computed
    engine.compile(case.params, 4, 16)
    fields = ("tokens", "segment_ids", "positions", "labels", "example_locations")
    empty = dataclasses.replace(case.rows, **{name: getattr(case.rows, name)[:0] for name in fields})
    nothing = case.engine(0.9)(case.params, empty)
    assert len(nothing.left) == 0 and nothing.outputs["outputs"].shape == (0, 4, 3)


def test_numbers_of_rows() -> None:
    assert row_counts(32, 1) == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
    assert row_counts(32, 4) == (4, 8, 12, 16, 24, 32)
    assert row_counts(20, 1)[-3:] == (12, 16, 20) and row_counts(2, 4) == (4,)
