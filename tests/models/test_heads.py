import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families.registry import preset
from jaxfm.models.activations import gelu
from jaxfm.models.heads import MaskedLM, PairClassifier, TokenClassifier
from jaxfm.parallel import mesh as meshes

CONFIG = EncoderConfig(
    vocab_size=40, hidden_size=32, num_layers=1, num_heads=4, ffn_size=48, max_positions=8, initializer_range=0.3
)
GENERATOR = np.random.default_rng(0)
BATCH = {
    "tokens": GENERATOR.integers(0, 40, (4, 8)).astype(np.int32),
    "segment_ids": np.ones((4, 8), np.int32),
    "positions": np.tile(np.arange(8, dtype=np.int32), (4, 1)),
    "type_ids": np.zeros((4, 8), np.int32),
}


@functools.cache
def build(dtype: Any = jnp.float32, dropout: float = 0.1, keyed: bool = False) -> tuple[Any, Any]:
    """Returns (apply, params); `apply(params)` gives the encoder's hidden states and the logits of BATCH."""
    config = dataclasses.replace(CONFIG, dropout=dropout, attention_dropout=dropout)

    def make() -> TokenClassifier:
        return TokenClassifier(config, 3, Build(dtype=dtype), nnx.Rngs(0))

    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    draw = np.random.default_rng(1)

    @jax.jit
    def apply(params: Any) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        return model.encoder(BATCH), model(BATCH, key=jax.random.key(1) if keyed else None)

    return apply, jax.tree.map(lambda leaf: 0.3 * draw.normal(size=leaf.shape).astype(np.float32), abstract)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_logits_are_one_linear_layer_over_the_hidden_states_and_f32(dtype: Any) -> None:
    apply, params = build(dtype)
    hidden, logits = apply(params)
    assert logits.dtype == jnp.float32 and logits.shape == (4, 8, 3) and hidden.dtype == dtype
    head = jax.tree.map(lambda leaf: np.asarray(jnp.asarray(leaf, dtype), np.float64), params["head"])
    expected = np.asarray(hidden, np.float64) @ head["kernel"] + head["bias"]
    # In bf16 the sum and the result are rounded, by 2^-9 of themselves each.
    bound = 1e-5 if dtype == jnp.float32 else 2 * 2.0**-9 * (np.abs(hidden) @ np.abs(head["kernel"]) + 1)
    np.testing.assert_array_less(np.abs(logits - expected), bound)


def test_dropout_needs_a_key_and_falls_on_the_head_too() -> None:
    plain, params = build()
    dropped, _ = build(keyed=True)
    assert np.abs(dropped(params)[1] - plain(params)[1]).max() > 0.01
    # With the last norm giving nothing but ones, what is left of dropout is that of the head: 32 ones, some dropped.
    quiet = jax.tree.map(np.zeros_like, params)
    quiet["encoder"]["layers"]["ffn_norm"]["bias"] += 1.0
    quiet["head"]["kernel"] += 1.0
    np.testing.assert_array_equal(plain(quiet)[1], 32.0)
    kept = np.asarray(dropped(quiet)[1])[..., 0] * 0.9
    np.testing.assert_allclose(kept, kept.round(), atol=0.01)
    assert len(np.unique(kept.round())) > 2 and 0.05 < 1 - kept.mean() / 32 < 0.15


def test_without_a_rate_a_key_changes_nothing() -> None:
    (plain, params), (keyed, _) = build(dropout=0.0), build(dropout=0.0, keyed=True)
    np.testing.assert_array_equal(keyed(params)[1], plain(params)[1])


MODERN = dataclasses.replace(
    preset("modern_base"), vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, ffn_size=24, max_positions=8
)


def random_model(make: Any) -> tuple[Any, Any]:
    """Returns graph definition and wide random parameters."""
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    draw = np.random.default_rng(1)
    return graphdef, jax.tree.map(lambda leaf: 0.3 * draw.normal(size=leaf.shape).astype(np.float32), abstract)


def transformed(hidden: np.ndarray, params: Any, eps: float) -> np.ndarray:
    """Dense, gelu and norm in float64, biases where there are any."""
    inner = hidden @ params["dense"]["kernel"].astype(np.float64) + params["dense"].get("bias", 0.0)
    inner = np.asarray(gelu(jnp.asarray(inner, jnp.float32)), np.float64)
    centred = inner - inner.mean(-1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return normal * params["norm"]["scale"] + params["norm"].get("bias", 0.0)


@pytest.mark.parametrize("config", [CONFIG, MODERN], ids=["bert", "modern"])
def test_masked_lm_logits_of_chosen_tokens(config: EncoderConfig) -> None:
    graphdef, params = random_model(lambda: MaskedLM(config, DEFAULT_BUILD, nnx.Rngs(0)))
    chosen = np.asarray([[1, 3], [0, 7], [2, 2], [5, 6]])

    @jax.jit
    def apply(params: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        hidden_BTD = model.hidden(BATCH)
        few = jnp.take_along_axis(hidden_BTD, chosen[..., None], axis=1)
        return hidden_BTD, model.logits(hidden_BTD), model.logits(few)

    hidden, everywhere, few = (np.asarray(x) for x in apply(params))
    assert everywhere.shape == (4, 8, 128) and few.shape == (4, 2, 128)
    table = params["encoder"]["embeddings"]["word"]["embedding"]
    expected = transformed(hidden, params["transform"], config.norm_eps) @ table.T + params["decoder"]["bias"]
    np.testing.assert_allclose(everywhere[..., :40], expected[..., :40], atol=1e-4)
    # What pads the vocabulary has no share at all of a softmax, whatever its rows hold, and gets no gradient from it.
    shares = np.asarray(jax.nn.softmax(everywhere))
    assert not shares[..., 40:].any() and everywhere[..., 40:].max() < everywhere.min(initial=0, where=shares > 0)
    whole, own = (jax.nn.logsumexp(logits, axis=-1) for logits in (everywhere, everywhere[..., :40]))
    np.testing.assert_allclose(whole, own, rtol=1e-6)
    np.testing.assert_allclose(few, np.take_along_axis(everywhere, chosen[..., None], axis=1), atol=1e-5)
    assert ("bias" in params["transform"]["dense"]) == config.head_bias


def test_masked_lm_logits_are_f32_whatever_the_dtype() -> None:
    graphdef, params = random_model(lambda: MaskedLM(CONFIG, Build(dtype=jnp.bfloat16), nnx.Rngs(0)))
    apply = jax.jit(lambda params: nnx.merge(graphdef, params).logits(nnx.merge(graphdef, params).hidden(BATCH)))
    logits = apply(params)
    assert logits.dtype == jnp.float32
    assert (logits.astype(jnp.bfloat16) != logits).mean() > 0.9  # and not rounded on the way


def test_masked_lm_drops_out_with_a_key_only() -> None:
    graphdef, params = random_model(lambda: MaskedLM(CONFIG, DEFAULT_BUILD, nnx.Rngs(0)))
    run = jax.jit(lambda params, key: nnx.merge(graphdef, params).hidden(BATCH, key))
    plain, first, second = (np.asarray(run(params, key)) for key in (None, jax.random.key(1), jax.random.key(2)))
    assert np.abs(plain - first).max() > 0.01 and np.abs(first - second).max() > 0.01


def test_the_tied_table_learns_from_both_of_its_uses() -> None:
    graphdef, params = random_model(lambda: MaskedLM(CONFIG, DEFAULT_BUILD, nnx.Rngs(0)))

    def loss(first: jax.Array, second: jax.Array) -> jax.Array:
        """`first` for the tokens read, `second` for those scored."""

        def with_table(table: jax.Array) -> MaskedLM:
            encoder = params["encoder"]
            embeddings = encoder["embeddings"] | {"word": {"embedding": table}}
            return nnx.merge(graphdef, params | {"encoder": encoder | {"embeddings": embeddings}})

        log_probs = jax.nn.log_softmax(with_table(second).logits(with_table(first).hidden(BATCH)))
        return jnp.sum(jnp.sin(log_probs[..., :40]))

    table = params["encoder"]["embeddings"]["word"]["embedding"]
    read, scored = (np.asarray(leaf) for leaf in jax.jit(jax.grad(loss, argnums=(0, 1)))(table, table))
    tied = np.asarray(jax.jit(jax.grad(lambda table: loss(table, table)))(table))
    unread = np.setdiff1d(np.arange(40), BATCH["tokens"])
    assert len(unread) and not read[unread].any() and np.abs(scored[unread]).max(axis=1).min() > 1e-3
    assert not tied[40:].any()  # and so the rows that pad the vocabulary stay what they are
    assert np.abs(read).max() > 0.1
    np.testing.assert_allclose(tied, read + scored, atol=1e-4 * np.abs(tied).max())


def test_rows_that_pad_the_vocabulary_start_at_zero_and_change_no_other() -> None:
    rows = {}
    for size in (40, 128):
        config = dataclasses.replace(CONFIG, vocab_size=size)
        params = jax.jit(
            lambda config=config: meshes.initialise(lambda: MaskedLM(config, DEFAULT_BUILD, nnx.Rngs(3)))
        )()
        rows[size] = np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])
    assert not rows[40][40:].any() and np.abs(rows[128]).min(axis=1).max() > 0 and len(rows[40]) == 128
    np.testing.assert_array_equal(rows[40][:40], rows[128][:40])


def test_a_classifier_with_a_transform() -> None:
    graphdef, params = random_model(lambda: TokenClassifier(MODERN, 3, DEFAULT_BUILD, nnx.Rngs(0)))

    @jax.jit
    def apply(params: Any) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        return model.encoder(BATCH), model(BATCH)

    hidden, logits = (np.asarray(x) for x in apply(params))
    expected = transformed(hidden, params["transform"], MODERN.norm_eps) @ params["head"]["kernel"]
    np.testing.assert_allclose(logits, expected + params["head"]["bias"], atol=1e-4)


def test_a_pair_is_judged_by_the_vectors_at_its_two_markers() -> None:
    # Two segments a row; tokens 30 and 31 start heads, 32 starts tails.
    tokens = np.asarray([[1, 30, 5, 32, 2, 1, 31, 32], [32, 4, 30, 3, 0, 0, 0, 0]], np.int32)
    segments = np.asarray([[1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0, 0, 0]], np.int32)
    positions = np.asarray([[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 0, 0, 0, 0]], np.int32)
    batch = {"tokens": tokens, "segment_ids": segments, "positions": positions}
    config = dataclasses.replace(CONFIG, dropout=0.5)

    def make() -> PairClassifier:
        return PairClassifier(config, 3, Build(), nnx.Rngs(0), head_starts=(30, 31), tail_starts=(32,), segments=2)

    graphdef, params = random_model(make)
    model: Any = nnx.merge(graphdef, params)
    hidden, logits = np.asarray(model.encoder(batch), np.float64), model(batch)
    assert logits.shape == (2, 2, 3) and logits.dtype == jnp.float32
    kernels = {name: np.asarray(params[name]["kernel"], np.float64) for name in ("dense", "head")}
    biases = {name: np.asarray(params[name]["bias"], np.float64) for name in ("dense", "head")}
    assert kernels["dense"].shape == (64, 32)
    for (row, segment), (head, tail) in {(0, 0): (1, 3), (0, 1): (6, 7), (1, 0): (2, 0)}.items():
        pair = np.concatenate([hidden[row, head], hidden[row, tail]])
        inner = np.maximum(pair @ kernels["dense"] + biases["dense"], 0)
        expected = inner @ kernels["head"] + biases["head"]
        np.testing.assert_allclose(logits[row, segment], expected, rtol=1e-4, atol=1e-4)
    dropped = model(batch, key=jax.random.key(0))
    assert not np.allclose(dropped[0, 0], logits[0, 0]) and not np.allclose(
        dropped, model(batch, key=jax.random.key(1))
    )
