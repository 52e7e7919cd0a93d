"""Packed equals unpacked: several examples in a row compute what each computes alone, losses and gradients too."""

# N rows, T tokens, D model, C classes

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.core.objective import LossContext
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.models.heads import TokenClassifier
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.losses import ClassLoss
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.tasks.ner.spec import NerSpec

CONFIG = EncoderConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, max_positions=16, dropout=0.0,
    attention_dropout=0.0, initializer_range=0.3,
)  # fmt: skip
CLASSES = 5
LENGTHS = (5, 9, 3, 7, 12, 1, 4, 16, 2, 6)
PAD = 0


def make() -> TokenClassifier:
    return TokenClassifier(CONFIG, CLASSES, DEFAULT_BUILD, nnx.Rngs(0))


@functools.cache
def classifier() -> tuple[Any, Any]:
    """Returns the graph definition and wide random parameters."""
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    draw = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        return (path[-1].key == "scale") + 0.3 * draw.normal(size=leaf.shape).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(value, abstract)


@functools.cache
def rows(row_length: int, max_segments: int | None, pad_id: int = PAD) -> PackedRows:
    """The same examples in rows; about a third of the tokens without a label, as pieces inside words are."""
    generator = np.random.default_rng(2)
    tokens = [generator.integers(0, CONFIG.vocab_size, length).astype(np.int32) for length in LENGTHS]
    labels = [
        np.where(generator.random(length) < 0.3, -1, generator.integers(0, CLASSES, length)).astype(np.int32)
        for length in LENGTHS
    ]
    return build_rows(tokens, labels, row_length, pad_id, seed=3, max_segments=max_segments)


def batch_of(packed: PackedRows) -> dict[str, jax.Array]:
    return {name: jnp.asarray(values) for name, values in packed.take(np.arange(len(packed))).items()}


def test_a_causal_encoder_computes_packed_what_each_computes_alone_and_sees_nothing_later() -> None:
    causal = dataclasses.replace(CONFIG, sight=CAUSAL)
    graphdef, _ = meshes.build_abstract(
        lambda: TokenClassifier(causal, CLASSES, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    model = nnx.merge(graphdef, classifier()[1])

    def of_examples(packed: PackedRows, batch: dict[str, jax.Array]) -> dict[tuple[int, ...], np.ndarray]:
        logits, found = np.asarray(model(batch)), {}
        for row, ids in enumerate(np.asarray(batch["segment_ids"])):
            for segment in range(1, ids.max() + 1):
                found[tuple(np.asarray(packed.take(np.arange(len(packed)))["tokens"])[row, ids == segment])] = logits[
                    row, ids == segment
                ]
        return found

    alone, shared = (rows(16, count) for count in (1, None))
    ours = of_examples(shared, batch_of(shared))
    for tokens, logits in of_examples(alone, batch_of(alone)).items():
        np.testing.assert_allclose(ours[tokens], logits, atol=2e-5)
    changed = batch_of(alone)
    last = changed["positions"] == changed["segment_ids"].sum(axis=1, keepdims=True) - 1  # of the one segment, all 1
    changed["tokens"] = jnp.where(last, (changed["tokens"] + 1) % CONFIG.vocab_size, changed["tokens"])
    both = of_examples(alone, batch_of(alone)), of_examples(alone, changed)
    for tokens, logits in both[0].items():
        np.testing.assert_array_equal(both[1][tokens][:-1], logits[:-1])
        assert np.abs(both[1][tokens][-1] - logits[-1]).max() > 1e-3


def objective(smoothing: float) -> NerObjective:
    labels = tuple(f"L{i}" for i in range(CLASSES))
    spec = NerSpec(labels=labels, encoder=CONFIG, row_length=16, window=16, overlap=0, context="sentence")
    return NerObjective(spec, ClassLoss(smoothing))


@functools.partial(jax.jit, static_argnames="smoothing")
def loss_and_gradients(params: Any, batch: Any, smoothing: float) -> Any:
    def loss(params: Any) -> Any:
        found = objective(smoothing).loss(nnx.merge(classifier()[0], params), batch, LossContext(jax.random.key(0)))
        return found.total, (found.weight, found.metrics)

    return jax.value_and_grad(loss, has_aux=True)(params)


def by_example(values_NTD: np.ndarray, packed: PackedRows) -> np.ndarray:
    """Tokens of all examples one after another, in the order of the examples."""
    places = zip(packed.example_locations, LENGTHS, strict=True)
    return np.concatenate([values_NTD[row, start : start + length] for (row, _, start), length in places])


@jax.jit
def forward(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """Returns hidden states and logits."""
    model = nnx.merge(classifier()[0], params)
    return model.encoder(batch), model(batch)


def hidden_states(packed: PackedRows, **changes: jax.Array) -> np.ndarray:
    return by_example(np.asarray(forward(classifier()[1], batch_of(packed) | changes)[0]), packed)


PACKED, ALONE, WIDE = (16, None), (16, 1), (24, None)


def test_the_layouts_really_differ() -> None:
    assert len(rows(*ALONE)) == len(LENGTHS) and rows(*ALONE).segment_ids.max() == 1
    assert len(rows(*PACKED)) < 7 and rows(*PACKED).segment_ids.max() >= 3
    assert rows(*WIDE).tokens.shape[1] == 24


@pytest.mark.parametrize("layout", [PACKED, WIDE, (16, None, 7)], ids=str)
def test_hidden_states(layout: Any) -> None:
    np.testing.assert_allclose(hidden_states(rows(*layout)), hidden_states(rows(*ALONE)), atol=1e-5)


def test_hidden_states_do_depend_on_what_segments_and_positions_say() -> None:
    packed = rows(*PACKED)
    joined = {"segment_ids": jnp.ones_like(packed.segment_ids)}
    counted_on = {"positions": jnp.broadcast_to(jnp.arange(16), packed.positions.shape)}
    for wrong in (joined, counted_on):
        assert np.abs(hidden_states(packed, **wrong) - hidden_states(rows(*ALONE))).max() > 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_summed_losses_and_gradients(smoothing: float) -> None:
    _, params = classifier()
    (expected, (weight, sums)), gradients = loss_and_gradients(params, batch_of(rows(*ALONE)), smoothing)
    (result, (packed_weight, packed_sums)), packed_gradients = loss_and_gradients(
        params, batch_of(rows(*PACKED)), smoothing
    )
    labelled = int((rows(*ALONE).labels >= 0).sum())
    assert 30 < labelled < sum(LENGTHS) and float(weight) == float(packed_weight) == labelled
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    np.testing.assert_array_equal(packed_sums["accuracy"], sums["accuracy"])
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    assert largest > 1.0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest), packed_gradients, gradients
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_cross_entropy_in_float64(smoothing: float) -> None:
    params, batch = classifier()[1], batch_of(rows(*PACKED))
    logits = np.asarray(forward(params, batch)[1], np.float64)
    labels = np.asarray(batch["labels"])
    expected, right = 0.0, 0
    for n, t in zip(*np.nonzero(labels >= 0), strict=True):
        log_probs = logits[n, t] - np.log(np.exp(logits[n, t]).sum())
        target = np.full(CLASSES, smoothing / CLASSES)
        target[labels[n, t]] += 1 - smoothing
        expected -= target @ log_probs
        right += int(np.argmax(logits[n, t]) == labels[n, t])
    (result, (weight, sums)), _ = loss_and_gradients(params, batch, smoothing)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    np.testing.assert_array_equal(sums["accuracy"], [right, float(weight)])
    assert 0 < right < float(weight)


def test_outputs_are_the_logits() -> None:
    graphdef, params = classifier()
    batch = batch_of(rows(*PACKED))
    outputs = jax.jit(lambda params, batch: objective(0.3).outputs(nnx.merge(graphdef, params), batch))(params, batch)
    logits = np.asarray(forward(params, batch)[1], np.float64)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5, atol=1e-6)


def test_a_batch_of_nothing_but_padding_weighs_nothing() -> None:
    _, params = classifier()
    shape = rows(*PACKED).tokens.shape
    batch = {name: jnp.zeros(shape, jnp.int32) for name in ("tokens", "segment_ids", "positions")} | {
        "labels": jnp.full(shape, -1, jnp.int32)
    }
    (loss, (weight, sums)), gradients = loss_and_gradients(params, batch, 0.0)
    assert float(loss) == float(weight) == 0.0
    np.testing.assert_array_equal(sums["accuracy"], [0.0, 0.0])
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_array_equal(leaf, 0.0)
