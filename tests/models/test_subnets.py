"""Subnets: computed by masks and gates as the encoder that is cut out computes, in every kind of encoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models import subnets
from jaxfm.models.heads import SequenceClassifier
from jaxfm.models.subnets import Subnet, SubnetSpace, cut, cut_encoder, kept_layers, order, select, selection_of
from jaxfm.training.paths import flat, nested

POST = EncoderConfig(
    vocab_size=96, hidden_size=24, num_layers=4, num_heads=4, ffn_size=32, max_positions=16, dropout=0.0,
    attention_dropout=0.0,
)  # fmt: skip
GATED = {"gated": True, "activation": "silu", "ffn_bias": False}
ROTARY = {"position_embedding": "rope", "norm_placement": "pre", "norm": "rms", "qk_norm": True}
RELATIVE = {"relative_positions": "disentangled", "relative_distance": 8, "relative_terms": ("c2p", "p2c")}
ENCODERS = {
    "post-norm": POST,
    "gated": dataclasses.replace(POST, **GATED),
    "pre-norm": dataclasses.replace(POST, **ROTARY, layer_scale=0.3),
    "pre-norm, gated, shared heads": dataclasses.replace(
        POST, **ROTARY | GATED, first_norm=True, num_kv_heads=2, head_size=8
    ),
    "pre- and post-norm": dataclasses.replace(POST, norm_placement="pre_and_post", gated=True),
    "disentangled": dataclasses.replace(POST, **RELATIVE, relative_maps=True),
}
SMALL = Subnet(3, 2, 12)


def make_model(encoder: EncoderConfig, seed: int = 0, scan: bool = True) -> Any:
    with nnx.use_eager_sharding(False):
        return SequenceClassifier(encoder, 3, Build(scan=scan), nnx.Rngs(seed), segments=2)


def params_of(model: Any) -> dict[str, Any]:
    return flat(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]))


def with_params(model: Any, params: dict[str, Any]) -> Any:
    return nnx.merge(nnx.split(model)[0], nested(jax.tree.map(jnp.asarray, params)))


def wide(encoder: EncoderConfig) -> dict[str, Any]:
    """No bias is 0 and no scale is 1: what is left out, or taken from another layer, shows."""
    draw = np.random.default_rng(1)
    return {
        path: (path.endswith("scale") + 0.3 * draw.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in params_of(make_model(encoder)).items()
    }


def batch() -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    segments = np.array([[1] * 7 + [2] * 9, [1] * 12 + [0] * 4], np.int32)
    positions = np.array([[*range(7), *range(9)], [*range(12), *[0] * 4]], np.int32)
    tokens = draw.integers(1, 96, segments.shape).astype(np.int32)
    found = {"tokens": tokens, "segment_ids": segments, "positions": positions, "type_ids": np.zeros_like(tokens)}
    return {name: jnp.asarray(value) for name, value in found.items()}


def test_layers_are_kept_evenly_with_the_first_and_the_last() -> None:
    assert [kept_layers(12, depth) for depth in (1, 2, 3, 4, 6)] == [
        (0,),
        (0, 11),
        (0, 6, 11),
        (0, 4, 7, 11),
        (0, 2, 4, 7, 9, 11),
    ]
    for layers in range(1, 25):
        for depth in range(1, layers + 1):
            kept = kept_layers(layers, depth)
            assert len(set(kept)) == depth and list(kept) == sorted(kept) and 0 <= kept[0] and kept[-1] < layers


@pytest.mark.parametrize(
    ("name", "scan"), [*((name, True) for name in ENCODERS), ("post-norm", False), ("pre-norm", False)]
)
def test_a_selected_subnet_equals_the_model_that_is_cut_out(name: str, scan: bool) -> None:
    encoder, params = ENCODERS[name], wide(ENCODERS[name])
    whole = with_params(make_model(encoder, scan=scan), params)
    outputs: Any = jax.jit(lambda selection: select(whole, selection)(batch()))
    with_all, small = (outputs(selection_of(encoder, each)) for each in (Subnet(encoder.num_layers, 4, 32), SMALL))
    np.testing.assert_allclose(with_all, whole(batch()), atol=2e-5)
    assert not hasattr(whole.encoder.layers, "gate") or whole.encoder.layers.gate is None  # it stays as it was
    smaller = cut_encoder(encoder, SMALL)
    found = with_params(make_model(smaller, seed=7, scan=scan), cut(params, encoder, SMALL))(batch())
    assert {path: leaf.shape for path, leaf in cut(params, encoder, SMALL).items()} == {
        path: leaf.shape for path, leaf in params_of(make_model(smaller)).items()
    }
    np.testing.assert_allclose(small, found, atol=2e-5)
    assert np.abs(np.asarray(small) - np.asarray(with_all)).max() > 0.05
    assert outputs._cache_size() == 1  # one program for all of them


def test_gradients_reach_what_a_subnet_keeps_and_nothing_else() -> None:
    encoder = ENCODERS["post-norm"]
    graphdef, state = nnx.split(with_params(make_model(encoder), wide(encoder)))

    def loss(state: Any) -> jax.Array:
        return select(nnx.merge(graphdef, state), selection_of(encoder, SMALL))(batch()).sum()

    grads = flat(nnx.to_pure_dict(jax.grad(loss)(state)))
    kept = list(kept_layers(4, 3))
    left_out = [layer for layer in range(4) if layer not in kept]
    for path in ("ffn/up/kernel", "attention/query/kernel", "ffn_norm/scale"):
        of_layer = np.abs(grads[f"encoder/layers/{path}"]).reshape(4, -1).max(axis=1)
        assert (of_layer[kept] > 0).all() and (of_layer[left_out] == 0).all()
    assert np.abs(grads["encoder/layers/ffn/down/kernel"][:, 12:]).max() == 0
    assert np.abs(grads["encoder/layers/attention/output/kernel"][:, 2:]).max() == 0


@pytest.mark.parametrize("name", ["post-norm", "pre-norm, gated, shared heads", "disentangled"])
def test_another_order_of_heads_and_neurons_is_the_same_function(name: str) -> None:
    encoder, params = ENCODERS[name], wide(ENCODERS[name])
    draw = np.random.default_rng(3)
    shares = encoder.num_kv_heads > 0
    heads = None if shares else np.stack([draw.permutation(4) for _ in range(4)])
    neurons = np.stack([draw.permutation(32) for _ in range(4)])
    other = order(params, heads, neurons)
    before, after = (with_params(make_model(encoder), each)(batch()) for each in (params, other))
    np.testing.assert_allclose(before, after, atol=2e-5)
    moved = {path for path in params if not np.array_equal(params[path], other[path])}
    assert ("encoder/layers/attention/value/kernel" in moved) is not shares
    assert "encoder/layers/ffn/up/kernel" in moved and ("encoder/layers/ffn/gate/kernel" in moved) is encoder.gated


def test_importance_is_how_the_loss_changes_with_a_factor_of_a_head() -> None:
    encoder = ENCODERS["post-norm"]
    graphdef, state = nnx.split(with_params(make_model(encoder), wide(encoder)))

    def loss(state: Any, heads: Any, neurons: Any) -> jax.Array:
        model = nnx.merge(graphdef, state)
        model.encoder.layers.attention.output.kernel[...] *= heads[..., None, None]
        model.encoder.layers.ffn.down.kernel[...] *= neurons[..., None]
        return (model(batch()) ** 2).sum()

    ones = jnp.ones((4, 4)), jnp.ones((4, 32))
    grads, of_heads, of_neurons = jax.grad(loss, argnums=(0, 1, 2))(state, *ones)
    heads, neurons = subnets.importance(*(flat(nnx.to_pure_dict(each)) for each in (state, grads)))
    np.testing.assert_allclose(heads, np.abs(of_heads), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(neurons, np.abs(of_neurons), rtol=1e-4, atol=1e-4)


def test_drawn_subnets_are_all_those_of_the_space_alike() -> None:
    space, encoder = SubnetSpace((2, 4), (1, 2, 4), (32,)), POST
    draw = jax.jit(jax.vmap(lambda key: subnets.draw_selection(key, encoder, space)))
    drawn = draw(jax.random.split(jax.random.key(0), 600))
    shapes = list(zip(drawn.layers.sum(axis=1).tolist(), drawn.heads.sum(axis=1).tolist(), strict=True))
    counts = {shape: shapes.count(shape) for shape in set(shapes)}
    assert set(counts) == {(depth, heads) for depth in (2, 4) for heads in (1, 2, 4)}
    assert all(60 < count < 140 for count in counts.values()) and (drawn.neurons == 1).all()
    two = drawn.layers[np.asarray(drawn.layers).sum(axis=1) == 2]
    assert (two == np.array([True, False, False, True])).all()
    assert list(space) == [Subnet(*sizes, 32) for sizes in ((2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4))]
    assert space.smallest == (2, 1, 32) and space.largest == (4, 4, 32)
