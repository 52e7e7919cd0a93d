"""Small trained parts: nothing changes at first, and what they compute is what float64 and a longer row say."""

import dataclasses
import functools
import itertools
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.adapt_config import AdaptConfig, LoraConfig
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.models.adapters import is_adapter_param, merge_low_rank, only_mergeable, with_adapters, without_adapters
from jaxfm.models.attention import local_mask, masked_attention, segment_mask
from jaxfm.models.heads import TokenClassifier
from jaxfm.parallel import mesh as meshes

BERT = EncoderConfig(
    vocab_size=64, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, max_positions=16, dropout=0.0,
    attention_dropout=0.0, initializer_range=0.2,
)  # fmt: skip
MODERN = dataclasses.replace(
    preset("modern_base"), vocab_size=64, hidden_size=32, num_layers=4, num_heads=4, ffn_size=48, local_window=4,
    initializer_range=0.2,
)  # fmt: skip
ENCODERS = {"bert": BERT, "modernbert": MODERN}
LORA = AdaptConfig(lora=LoraConfig(rank=3, alpha=5.0, targets=("all",)))
ADDED = {
    "lora": LORA,
    "lora of two": AdaptConfig(lora=LoraConfig(rank=2, targets=("value", "query"))),
    "adapters": AdaptConfig(adapter_size=6),
}
LENGTHS = (5, 9, 3, 7, 12, 1, 4, 16, 2, 6)


@functools.cache
def rows(max_segments: int | None) -> PackedRows:
    draw = np.random.default_rng(2)
    tokens = [draw.integers(0, 64, length).astype(np.int32) for length in LENGTHS]
    return build_rows(tokens, [np.zeros(len(t), np.int32) for t in tokens], 16, 0, seed=3, max_segments=max_segments)


def batch_of(packed: PackedRows) -> dict[str, jax.Array]:
    return {name: jnp.asarray(values) for name, values in packed.take(np.arange(len(packed))).items()}


@functools.cache
def fresh(encoder: EncoderConfig, dtype: Any = jnp.float32) -> tuple[Any, dict[str, np.ndarray]]:
    """Graph definition and parameters as a new run has them; those of the encoder are the same with anything added."""

    def make() -> nnx.Module:
        return TokenClassifier(encoder, 5, Build(dtype=jnp.dtype(dtype)), nnx.Rngs(0))

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    return graphdef, flat(jax.jit(lambda: meshes.initialise(make))())


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {path: np.array(leaf) for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def drawn(params: dict[str, np.ndarray], seed: int = 5) -> dict[str, np.ndarray]:
    """What was added drawn anew and wide: no part is zero any more."""
    draw = np.random.default_rng(seed)
    some = {path: 0.3 * draw.normal(size=value.shape).astype(np.float32) for path, value in params.items()}
    return {path: some[path] if is_adapter_param(path) else value for path, value in params.items()}


def logits(encoder: EncoderConfig, params: dict[str, np.ndarray], batch: Any = None, dtype: Any = jnp.float32) -> Any:
    nested, graphdef = flax.traverse_util.unflatten_dict(params, sep="/"), fresh(encoder, dtype)[0]
    apply = jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch))
    return np.asarray(apply(nested, batch or batch_of(rows(None))))


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("modernbert", "lora"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in itertools.product(ENCODERS, ADDED)
            if case != ("modernbert", "lora")
        ),
    ],
)
def test_at_first_nothing_changes(family: str, name: str, dtype: Any) -> None:
    encoder = with_adapters(ENCODERS[family], ADDED[name])
    base, params = fresh(ENCODERS[family])[1], dict(fresh(encoder)[1])
    added = {path for path in params if is_adapter_param(path)}
    assert added and set(params) - added == set(base)
    # What is drawn for the new parts must not shift what is drawn for the others: the same weights here by hand.
    params |= base
    np.testing.assert_array_equal(logits(encoder, params, dtype=dtype), logits(ENCODERS[family], base, dtype=dtype))
    assert np.abs(logits(encoder, drawn(params)) - logits(ENCODERS[family], base)).max() > 0.1


@pytest.mark.parametrize("name", ["lora", pytest.param("lora of two", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["bert", pytest.param("modernbert", marks=pytest.mark.slow)])
def test_merged_weights_compute_the_same(family: str, name: str) -> None:
    encoder = with_adapters(ENCODERS[family], ADDED[name])
    params = drawn(fresh(encoder)[1])
    plain, merged = merge_low_rank(encoder, params)
    assert plain == ENCODERS[family] and set(merged) == set(fresh(plain)[1])
    expected = logits(encoder, params)
    np.testing.assert_allclose(logits(plain, merged), expected, atol=2e-5)
    untouched = {path: value for path, value in params.items() if path in merged}
    assert np.abs(logits(plain, untouched) - expected).max() > 0.1


def test_the_update_is_that_of_the_paper() -> None:
    """W + A B * alpha / rank of one layer and one map, in float64."""
    encoder = with_adapters(BERT, LORA)
    params = drawn(fresh(encoder)[1])
    merged = merge_low_rank(encoder, params)[1]
    for name, inputs in (("attention/query", 1), ("attention/output", 2), ("ffn/down", 1)):
        path = f"encoder/layers/{name}"
        kernel, a, b = (params[f"{path}/{part}"][1].astype(np.float64) for part in ("kernel", "lora/a", "lora/b"))
        assert a.ndim == inputs + 1 and a.shape[-1] == b.shape[0] == 3
        wanted = kernel + np.tensordot(a, b, 1) * 5.0 / 3
        np.testing.assert_allclose(merged[f"{path}/kernel"][1], wanted, atol=1e-6)


def test_a_is_drawn_as_peft_draws_it_and_b_is_zero() -> None:
    encoder = dataclasses.replace(with_adapters(BERT, LORA), hidden_size=256, lora_rank=64)
    params = fresh(encoder)[1]
    for name, fan_in in (("attention/query", 256), ("attention/output", 256), ("ffn/down", 48)):
        a = params[f"encoder/layers/{name}/lora/a"]
        # kaiming_uniform with a = sqrt(5): uniform within 1 / sqrt(fan in)
        assert 0.98 < np.abs(a).max() * fan_in**0.5 <= 1.0
        assert a.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.03)
        assert not params[f"encoder/layers/{name}/lora/b"].any()
    layers = params["encoder/layers/attention/query/lora/a"]
    assert not np.array_equal(layers[0], layers[1])


def test_an_adapter_is_a_bottleneck_after_each_part_of_a_layer() -> None:
    """A whole post-norm layer in float64, from its parameters alone, for one token that sees itself only."""
    encoder = with_adapters(dataclasses.replace(BERT, num_layers=1), AdaptConfig(adapter_size=6))
    params = drawn(fresh(encoder)[1])
    layer = {
        path.removeprefix("encoder/layers/"): value[0].astype(np.float64)
        for path, value in params.items()
        if path.startswith("encoder/layers/")
    }
    one = {name: jnp.ones((1, 1), jnp.int32) for name in ("tokens", "segment_ids")} | {
        "positions": jnp.zeros((1, 1), jnp.int32)
    }
    graphdef = fresh(encoder)[0]
    nested = flax.traverse_util.unflatten_dict(params, sep="/")

    def run(params: Any) -> Any:
        model = nnx.merge(graphdef, params)
        return model.encoder.embeddings(one).x_BTD, model.encoder(one)

    x, got = (np.asarray(value, np.float64)[0, 0] for value in jax.jit(run)(nested))

    def linear(name: str, value: np.ndarray) -> np.ndarray:
        kernel, bias = layer[f"{name}/kernel"], layer[f"{name}/bias"]
        return (value @ kernel.reshape(value.size, -1)) + bias.reshape(-1)

    def norm(name: str, value: np.ndarray) -> np.ndarray:
        centred = value - value.mean()
        scaled = centred / np.sqrt((centred**2).mean() + encoder.norm_eps)
        return scaled * layer[f"{name}/scale"] + layer[f"{name}/bias"]

    def gelu(value: np.ndarray) -> np.ndarray:
        from math import erf

        return value * 0.5 * (1 + np.vectorize(erf)(value / np.sqrt(2)))

    def adapter(name: str, value: np.ndarray) -> np.ndarray:
        return value + linear(f"{name}/up", gelu(linear(f"{name}/down", value)))

    update = linear("attention/output", linear("attention/value", x))
    x = norm("attention_norm", x + adapter("attention_adapter", update))
    update = linear("ffn/down", gelu(linear("ffn/up", x)))
    x = norm("ffn_norm", x + adapter("ffn_adapter", update))
    np.testing.assert_allclose(got, x, atol=1e-5)


SEGMENTS = np.asarray([[1] * 5 + [2] * 4 + [3] * 3, [1] * 7 + [0] * 5], np.int32)


def attention_inputs() -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = [(2, 12, 2, 8)] * 3 + [(3, 2, 8)] * 2
    return [2 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize("chunk", [None, 0, 3])
def test_a_prefix_is_keys_and_values_that_every_query_sees(chunk: int | None) -> None:
    """One query at a time in float64, over its own keys and the prefix."""
    q, k, v, prefix_k, prefix_v = attention_inputs()
    positions = np.asarray([[*range(5), *range(4), *range(3)], [*range(7), *[0] * 5]])
    segments = jnp.asarray(SEGMENTS)
    window_radius = 12 if chunk is None else 2
    mask = (
        segment_mask(segments) if chunk is None else local_mask(segments, jnp.asarray(positions), window_radius, chunk)
    )
    got = masked_attention(q, k, v, mask, chunk=chunk or 0, prefix=(prefix_k, prefix_v))
    q, k, v, prefix_k, prefix_v = (np.asarray(x, np.float64) for x in (q, k, v, prefix_k, prefix_v))
    for b, t, n in np.ndindex(q.shape[:3]):
        near = np.abs(positions[b] - positions[b, t]) <= window_radius
        seen = np.flatnonzero((SEGMENTS[b] == SEGMENTS[b, t]) & near)
        keys = np.concatenate([k[b, seen, n], prefix_k[:, n]])
        values = np.concatenate([v[b, seen, n], prefix_v[:, n]])
        weights = np.exp(keys @ q[b, t, n] / np.sqrt(8))
        np.testing.assert_allclose(got[b, t, n], weights @ values / weights.sum(), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("modernbert", "prefix"),
        *(
            pytest.param(family, name, marks=pytest.mark.slow)
            for family, name in itertools.product(ENCODERS, ("prefix", "adapters", "lora"))
            if (family, name) != ("modernbert", "prefix")
        ),
    ],
)
def test_packed_equals_one_example_a_row_and_segments_stay_apart(family: str, name: str) -> None:
    settings = AdaptConfig(prefix_length=4) if name == "prefix" else ADDED[name]
    encoder = with_adapters(ENCODERS[family], settings)
    params = drawn(fresh(encoder)[1])

    def by_example(packed: PackedRows) -> np.ndarray:
        values = logits(encoder, params, batch_of(packed))
        places = zip(packed.example_locations, LENGTHS, strict=True)
        return np.concatenate([values[row, start : start + length] for (row, _, start), length in places])

    assert len(rows(None)) < len(rows(1)) == len(LENGTHS)
    np.testing.assert_allclose(by_example(rows(None)), by_example(rows(1)), atol=3e-5)
    # The gradient of what one segment says with regard to the words of all others is 0, exactly.
    batch, graphdef = batch_of(rows(None)), fresh(encoder)[0]
    nested = flax.traverse_util.unflatten_dict(params, sep="/")

    def first_segment(table: jax.Array) -> jax.Array:
        """Each token of the row looks up a row of its own, so that gradients tell them apart."""
        changed = {**nested, "encoder": {**nested["encoder"], "embeddings": {**nested["encoder"]["embeddings"]}}}
        changed["encoder"]["embeddings"]["word"] = {"embedding": table}
        own = batch | {"tokens": jnp.arange(batch["tokens"].size).reshape(batch["tokens"].shape) % 128}
        values = nnx.merge(graphdef, changed)(own)[:8]
        return (values * (own["segment_ids"][:8] == 1)[..., None] * jnp.arange(1.0, 6.0)).sum()

    table = jnp.asarray(np.random.default_rng(0).normal(size=(128, 32)), jnp.float32)
    grads = np.abs(np.asarray(jax.jit(jax.grad(first_segment))(table))).sum(axis=1)
    segments = np.asarray(batch["segment_ids"]).reshape(-1)[:128]
    assert (grads[: len(segments)][segments == 1] > 0).all() and (grads[: len(segments)][segments != 1] == 0).all()


def test_what_is_added_is_remembered_as_json_and_can_be_left_out() -> None:
    settings = dataclasses.replace(LORA, adapter_size=2, prefix_length=3)
    encoder = with_adapters(BERT, settings)
    assert encoder != BERT == without_adapters(encoder)
    values: dict[str, Any] = dataclasses.asdict(encoder)
    assert EncoderConfig(**{**values, "lora_targets": list(values["lora_targets"])}) == encoder
    assert with_adapters(encoder, AdaptConfig()) == encoder  # another run goes on with its adapters


REFUSED = [
    (
        LoraConfig(rank=2, targets=("querry",)),
        "config.adapt.lora.targets: 'querry' is not a linear map of a layer. Did you",
    ),
    (
        LoraConfig(rank=2, targets=("attention_norm",)),
        "'attention_norm' is not a linear map of a layer. Valid choices: ",
    ),
    (LoraConfig(rank=2, targets=("gate",)), "'gate' is not a linear map of a layer"),
    (LoraConfig(rank=2, targets=()), "config.adapt.lora.targets: names none. Valid choices: 'all', 'down'"),
    (LoraConfig(rank=33), "config.adapt.lora.rank: 33 is more than the rank 32 of the weights themselves; at most 32."),
]


@pytest.mark.parametrize(("lora", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_targets_that_are_refused(lora: LoraConfig, message: str) -> None:
    with pytest.raises(UserError) as caught:
        with_adapters(BERT, AdaptConfig(lora=lora))
    assert message in str(caught.value)


def test_adapters_of_another_size_are_refused_and_none_can_be_merged() -> None:
    encoder = with_adapters(BERT, AdaptConfig(adapter_size=8))
    with pytest.raises(UserError, match=r"adapter_size: 4, but the first weights were trained with 8\. Give that"):
        with_adapters(encoder, AdaptConfig(adapter_size=4))
    with pytest.raises(UserError, match=r"--format=hf: .*config\.adapt\.adapter_size=8, and .* cannot be merged"):
        only_mergeable(encoder, "hf")
    only_mergeable(with_adapters(BERT, LORA), "hf")
