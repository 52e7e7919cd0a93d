import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import ParallelConfig
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.presets import EncoderConfig
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
        return TokenClassifier(config, 3, nnx.Rngs(0), dtype=dtype)

    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(ParallelConfig()))
    draw = np.random.default_rng(1)

    @jax.jit
    def apply(params: Any) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(graphdef, params)
        fields = (BATCH[name] for name in ("tokens", "segment_ids", "positions", "type_ids"))
        return model.encoder(*fields), model(BATCH, key=jax.random.key(1) if keyed else None)

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
