"""Attention of a learned vector: torch is the oracle in tests/hub/test_pair_parity.py; here several images in a row."""

# B batch, T tokens, S segments, D model

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.models.attention_pool import AttentionPool
from jaxfm.parallel import mesh as meshes

CONFIG = EncoderConfig(
    vocab_size=0, type_vocab_size=0, hidden_size=16, num_heads=2, num_layers=2, ffn_size=24, norm_placement="pre",
    patches=PatchConfig(2, grid=(2, 2)), lora_rank=2, lora_targets=("query", "up"),
)  # fmt: skip


def made() -> AttentionPool:
    def make() -> AttentionPool:
        return AttentionPool(CONFIG, jnp.dtype(jnp.float32), nnx.Rngs(0))

    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape) * 0.3, jnp.float32), abstract)
    return nnx.merge(graphdef, params)


def test_images_of_a_row_are_pooled_alone_and_padding_is_not_read() -> None:
    pool = made()
    assert not [path for path, _ in nnx.to_flat_state(nnx.state(pool)) if "lora" in path]  # it is no part of an encoder
    hidden_TD = np.random.default_rng(1).normal(size=(9, 16)).astype(np.float32)
    segments = np.asarray([[1, 1, 1, 1, 2, 2, 2, 0, 0]], np.int32)
    both = np.asarray(pool(jnp.asarray(hidden_TD)[None], jnp.asarray(segments), 2))[0]
    for segment, tokens in ((0, slice(0, 4)), (1, slice(4, 7))):
        one = pool(jnp.asarray(hidden_TD[tokens])[None], jnp.ones((1, tokens.stop - tokens.start), jnp.int32), 1)
        np.testing.assert_allclose(both[segment], one[0, 0], atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-2
    # The order of tokens does not matter to it.
    mixed = np.asarray(pool(jnp.asarray(hidden_TD[[2, 0, 3, 1]])[None], jnp.ones((1, 4), jnp.int32), 1))[0, 0]
    np.testing.assert_allclose(mixed, both[0], atol=1e-5)
