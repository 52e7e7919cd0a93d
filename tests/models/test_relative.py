"""Relative positions: buckets against transformers' own functions, shifts and scores against loops."""

# B batch, T tokens, N heads, H head dim

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models import relative
from jaxfm.models.attention import masked_attention, segment_mask
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes

TINY: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "ffn_size": 24, "max_positions": 32,
    "initializer_range": 0.3,
}  # fmt: skip
DEBERTA = EncoderConfig(
    **TINY, type_vocab_size=0, position_embedding="none", relative_positions="disentangled", relative_buckets=8,
    relative_distance=32, relative_norm=True, relative_terms=("c2p", "p2c"),
)  # fmt: skip
MPNET = EncoderConfig(**TINY, relative_positions="bias", relative_buckets=32, relative_distance=128)


def test_buckets_of_a_bias_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = np.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(distances))
    np.testing.assert_array_equal(relative.bias_buckets(distances, 32, 128), expected.numpy())
    # All but that of "to the right by 0".
    assert len(set(relative.bias_buckets(distances, 32, 128).tolist())) == 31


@pytest.mark.parametrize(("buckets", "largest"), [(256, 512), (8, 40), (32, 128)])
def test_rows_of_distances_are_those_of_transformers(buckets: int, largest: int) -> None:
    torch = pytest.importorskip("torch")
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    distances = np.arange(1 - largest, largest)
    found = make_log_bucket_position(torch.from_numpy(distances), buckets, largest).long()
    expected = torch.clamp(found + buckets, 0, 2 * buckets - 1)
    np.testing.assert_array_equal(relative.distance_rows(distances, buckets, buckets, largest), expected.numpy())


def test_distances_without_buckets_are_told_apart_up_to_the_largest() -> None:
    np.testing.assert_array_equal(
        relative.distance_rows(np.arange(-6, 7), 4, 0, 4), [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
    )


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_skew_shifts_each_row(tokens: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, tokens, 2 * tokens - 1))
    expected = np.stack([[row[i, tokens - 1 - i :][:tokens] for i in range(tokens)] for row in x])
    np.testing.assert_array_equal(relative.skew(jnp.asarray(x, jnp.float32)), expected.astype(np.float32))


@pytest.mark.parametrize("terms", [("c2p", "p2c"), ("c2p",), ("p2c",)])
def test_disentangled_scores_are_products_with_the_row_of_each_distance(terms: tuple[str, ...]) -> None:
    config, draw, tokens = dataclasses.replace(DEBERTA, relative_terms=terms), np.random.default_rng(0), 7
    q, k = draw.normal(size=(2, 2, tokens, 2, 8)).astype(np.float32)
    keys, queries = draw.normal(size=(2, 16, 2, 8)).astype(np.float32)
    expected = np.zeros((2, 2, tokens, tokens), np.float32)
    for i in range(tokens):
        for j in range(tokens):
            (row,) = relative.distance_rows(np.asarray([i - j]), 8, 8, 32)
            if "c2p" in terms:
                expected[:, :, i, j] += np.sum(q[:, i] * keys[row], axis=-1)
            if "p2c" in terms:
                expected[:, :, i, j] += np.sum(k[:, j] * queries[row], axis=-1)
    given = (keys if "c2p" in terms else None, queries if "p2c" in terms else None)
    found = relative.disentangled_scores(
        config, *map(jnp.asarray, (q, k)), *(None if x is None else jnp.asarray(x) for x in given)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2], ids=["one bias for all rows", "a bias a row"])
def test_the_gradient_of_attention_with_a_bias_is_that_of_autodiff(rows: int) -> None:
    draw, tokens = np.random.default_rng(0), 6
    q, k, v = (jnp.asarray(draw.normal(size=(2, tokens, 2, 8)), jnp.float32) for _ in range(3))
    bias = jnp.asarray(draw.normal(size=(rows, 2, tokens, tokens)), jnp.float32)
    mask = segment_mask(jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]]))
    weight = jnp.asarray(draw.normal(size=q.shape), jnp.float32)

    def plain(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        scores = 0.3 * jnp.einsum("btnh,bsnh->bnts", q, k) + bias
        return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1), v)

    def ours(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        return masked_attention(q, k, v, mask, bias=bias, scale=0.3)

    np.testing.assert_allclose(ours(q, k, v, bias), plain(q, k, v, bias), atol=1e-5)
    found, expected = (
        jax.grad(lambda *args, f=f: jnp.sum(f(*args) * weight), argnums=(0, 1, 2, 3))(q, k, v, bias)
        for f in (ours, plain)
    )
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 0.1
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("config", [MPNET, DEBERTA], ids=["bias", "disentangled"])
def test_all_layers_share_one_table_and_it_learns(config: EncoderConfig) -> None:
    batch = {
        "tokens": jnp.asarray([[3, 4, 5, 6, 7, 8]]),
        "segment_ids": jnp.asarray([[1, 1, 1, 1, 2, 2]]),
        "positions": jnp.asarray([[0, 1, 2, 3, 0, 1]]),
    }

    gradients = []
    for scan in (True, False):
        make = lambda scan=scan: Encoder(config, Build(scan=scan), nnx.Rngs(0))  # noqa: E731
        graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
        params = jax.jit(lambda make=make: meshes.initialise(make))()

        @jax.jit
        def states(params: Any, graphdef: Any = graphdef) -> jax.Array:
            return jnp.sum(nnx.merge(graphdef, params)(batch)[0, :4] ** 3)

        gradients.append(jax.grad(states)(params)["common"]["relative"]["embedding"])
        # Attention without its dependence on distances is another function.
        without = params | {"common": jax.tree.map(jnp.zeros_like, params["common"])}
        assert abs(float(states(without) - states(params))) > 1e-3
    assert np.abs(gradients[0]).max() > 1e-3
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)
