"""Every path of `attend` computes one function: parity, gradients, no leak; which path is taken; that it is taken.

What this machine cannot run is lowered for the device it is for. On a GPU or TPU, JAXFM_TEST_PLATFORMS=cuda,cpu (or
tpu,cpu) lets the same tests run its kernels.
"""

# B batch, T tokens, N heads, H head dim, S keys

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.analysis import hlo
from jaxfm.config import MeshConfig
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import CAUSAL, FULL, PREFIX, EncoderConfig
from jaxfm.models.attention import attend, attention_specs, masked_attention, segment_mask
from jaxfm.models.encoder import Encoder
from jaxfm.models.kernels import (
    KERNELS,
)
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel import target
from jaxfm.planning.hardware import describe_devices, has_gpu_compiler, parse_topology

B, T, N, H = 3, 256, 2, 16
AUTO = AttentionConfig()
RADIUS = 20
ENCODER = EncoderConfig(
    vocab_size=64, hidden_size=N * H, num_layers=3, num_heads=N, ffn_size=48, max_positions=T, dropout=0.0,
    attention_dropout=0.0, initializer_range=0.2, local_window=2 * RADIUS, global_every=3, position_embedding="rope",
)  # fmt: skip


def rows(*lengths: tuple[int, ...]) -> np.ndarray:
    """Segment ids [rows, T] of segments of such lengths, and padding after them."""
    return np.stack([np.repeat([*range(1, len(row) + 1), 0], [*row, T - sum(row)]) for row in lengths]).astype(np.int32)


PACKED = rows((70, 100, 60), (T,), ())
ALONE = rows((200,), (T,), ())
# Path, segment ids, window radius, sight.
CASES = {
    "xla": ("xla", PACKED, 0, FULL),
    "xla local": ("xla", PACKED, RADIUS, FULL),
    "splash": ("splash", PACKED, 0, FULL),
    "splash local": ("splash", PACKED, RADIUS, FULL),
    "cudnn": ("cudnn", ALONE, 0, FULL),
    "cudnn packed": ("cudnn", PACKED, 0, FULL),
    "cudnn local": ("cudnn", PACKED, RADIUS, FULL),
    "xla causal": ("xla", PACKED, 0, CAUSAL),
    "xla local causal": ("xla", PACKED, RADIUS, CAUSAL),
    "splash causal": ("splash", PACKED, 0, CAUSAL),
    "splash local causal": ("splash", PACKED, RADIUS, CAUSAL),
    "cudnn causal": ("cudnn", ALONE, 0, CAUSAL),
    "cudnn packed causal": ("cudnn", PACKED, 0, CAUSAL),
    "cudnn local causal": ("cudnn", PACKED, RADIUS, CAUSAL),
    "xla prefix": ("xla", PACKED, 0, PREFIX),
    "xla local prefix": ("xla", PACKED, RADIUS, PREFIX),
    "cudnn prefix": ("cudnn", PACKED, 0, PREFIX),
}
PREFIX_LENGTH = 37  # of each segment


def positions(segments: np.ndarray) -> np.ndarray:
    """Positions within each segment, 0 on padding."""
    segments = np.abs(segments)
    starts = np.diff(segments, axis=1, prepend=-1) != 0
    place = np.broadcast_to(np.arange(T), segments.shape)
    return np.where(segments > 0, place - np.maximum.accumulate(np.where(starts, place, 0), axis=1), 0)


def allowed(segments: np.ndarray, window_radius: int, sight: str = FULL) -> np.ndarray:
    """The rule by hand, [B, T, S]."""
    own = positions(segments)
    query, key = own[:, :, None], own[:, None, :]
    seen = (np.abs(segments)[:, :, None] == segments[:, None, :]) & (np.abs(query - key) <= (window_radius or T))
    if sight == PREFIX:
        return seen & ((key <= query) | ((query < PREFIX_LENGTH) & (key < PREFIX_LENGTH)))
    return seen & (key <= query) if sight == CAUSAL else seen


def horizons(segments: np.ndarray) -> np.ndarray:
    """What a batch says of the last position that each token sees, for the sight "prefix"."""
    own = positions(segments)
    return np.where(own < PREFIX_LENGTH, PREFIX_LENGTH - 1, own)


def reference(arrays: list[np.ndarray], mask_BTS: np.ndarray, back: np.ndarray) -> tuple[np.ndarray, ...]:
    """Attention and, for the gradient `back` of its result, those of q, k and v, in float64 and closed form."""
    q, k, v = arrays
    scale = q.shape[-1] ** -0.5
    scores = np.where(mask_BTS[:, None], np.einsum("btnh,bsnh->bnts", q, k) * scale, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    of_weights = np.einsum("btnh,bsnh->bnts", back, v)
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdims=True)) * scale
    return (
        np.einsum("bnts,bsnh->btnh", weights, v),
        np.einsum("bnts,bsnh->btnh", of_scores, k),
        np.einsum("bnts,btnh->bsnh", of_scores, q),
        np.einsum("bnts,btnh->bsnh", weights, back),
    )


def inputs(dtype: Any) -> tuple[list[jax.Array], np.ndarray]:
    """Query, key and value, and a gradient of the result; what `dtype` can hold."""
    made = [jax.random.normal(key, (B, T, N, H)).astype(dtype) for key in jax.random.split(jax.random.key(0), 4)]
    return made[:3], np.asarray(made[3], np.float64)


@pytest.fixture
def on_this_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets kernels run where their device is not.

    Splash attention is interpreted, block by block. In the place of cuDNN JAX computes, by XLA, what that is asked for:
    it tests what we ask; `test_the_gpu_compiler_takes_cudnn`, and this file on a GPU, the rest.
    """
    if jax.default_backend() != "tpu":
        splash = KERNELS["splash"]
        compute = functools.partial(splash.compute, interpret=True)  # pyright: ignore[reportCallIssue]
        monkeypatch.setitem(KERNELS, "splash", dataclasses.replace(splash, platforms=("cpu", "gpu"), compute=compute))
    if target.cuda_capability() is None:
        asked = jax.nn.dot_product_attention

        def stand_in(*arrays: jax.Array, implementation: str, **options: Any) -> jax.Array:
            assert implementation == "cudnn"
            return asked(*arrays, implementation="xla", **options)

        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
        here = dataclasses.replace(KERNELS["cudnn"], platforms=("cpu", "tpu"), unsupported_reason=lambda problem: None)
        monkeypatch.setitem(KERNELS, "cudnn", here)
    yield


def with_gradients(path: str, segments: np.ndarray, window_radius: int, dtype: Any, sight: str = FULL) -> Any:
    """Compiles (q, k, v, back) -> the result and the gradients of q, k, v."""
    config = dataclasses.replace(ENCODER, local_window=2 * window_radius, sight=sight)
    last = jnp.asarray(horizons(segments)) if sight == PREFIX else None
    build = Build(dtype, attention=AttentionConfig(path, one_segment=segments is ALONE))

    def apply(q: jax.Array, k: jax.Array, v: jax.Array, back: jax.Array, segment_ids: jax.Array, own: jax.Array) -> Any:
        spec = attention_specs(config, build, segment_ids, own, last, training=True)[-1]
        assert spec.path == path and spec.window_radius == window_radius
        result, pull = jax.vjp(lambda q, k, v: attend(q, k, v, spec), q, k, v)
        return result, *pull(back.astype(dtype))

    compiled = jax.jit(apply)
    return lambda q, k, v, back: compiled(q, k, v, back, jnp.asarray(segments), jnp.asarray(positions(segments)))


@pytest.mark.usefixtures("on_this_machine")
@pytest.mark.parametrize("case", CASES)
def test_every_path_computes_one_function_and_leaks_nothing(case: str) -> None:
    path, segments, window_radius, sight = CASES[case]
    dtype = jnp.bfloat16 if path == "cudnn" else jnp.float32
    exact = dtype == jnp.float32 and jax.default_backend() == "cpu"
    (q, k, v), back = inputs(dtype)
    back[segments == 0] = 0.0  # outputs at padding are never read
    apply = with_gradients(path, segments, window_radius, dtype, sight)
    found = [np.asarray(x, np.float64) for x in apply(q, k, v, back)]
    wide = [np.asarray(x, np.float64) for x in (q, k, v)]
    wanted = reference(wide, allowed(segments, window_radius, sight), back)
    real = segments > 0
    assert all(np.isfinite(x).all() for x in found)
    for got, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got[real], expected[real], atol=2e-6 if exact else 5e-2)
    for gradient in found[1:]:
        np.testing.assert_array_equal(gradient[~real], 0.0)
    # The mask matters here, and so do the window and the sight.
    others = [allowed(segments, {0: RADIUS, RADIUS: 0}[window_radius], sight), np.ones((B, T, T), bool)]
    others += [allowed(segments, window_radius, other) for other in (FULL, CAUSAL, PREFIX) if other != sight]
    for mask in others:
        assert np.abs(reference(wide, mask, back)[0] - wanted[0])[real].max() > 0.1
    for segment in range(1, segments.max() + 1):
        inside = segments == segment
        for gradient in apply(q, k, v, np.where(inside[..., None, None], back, 0.0))[1:]:
            np.testing.assert_array_equal(np.asarray(gradient)[~inside], 0.0)
            # A first token that sees itself alone has no choice: its query has no gradient.
            first = inside & (positions(segments) == 0) & (sight == CAUSAL)
            assert (np.abs(np.asarray(gradient, np.float64)[inside & ~first]).max(axis=(1, 2)) > 0).all()
    if sight != FULL:
        nothing_comes_from_the_future(apply, (q, k, v), back, segments, sight)


def nothing_comes_from_the_future(
    apply: Any, arrays: Sequence[jax.Array], back: np.ndarray, segments: np.ndarray, sight: str
) -> None:
    """What one token gets has no gradient at a later one, but within a prefix."""
    own = positions(segments)
    for place in (5, PREFIX_LENGTH - 1, PREFIX_LENGTH, 55):
        asked = (segments > 0) & (own == place)
        last = max(place, PREFIX_LENGTH - 1) if sight == PREFIX else place
        for gradient in apply(*arrays, np.where(asked[..., None, None], back, 0.0))[2:]:
            found = np.abs(np.asarray(gradient, np.float64)).max(axis=(2, 3))
            assert not found[own > last].any() and (found[asked] > 0).all()


@pytest.mark.usefixtures("on_this_machine")
@pytest.mark.parametrize(
    "case", [name for name, (_, segments, _, sight) in CASES.items() if segments is PACKED and sight == FULL]
)
def test_tokens_of_negative_segments_see_theirs_and_are_not_seen(case: str) -> None:
    path, segments, window_radius, _ = CASES[case]
    segments = segments.copy()
    segments[0, 60:70] *= -1  # the ends of two segments, near enough to the rest for a window
    segments[1, -12:] *= -1
    dtype = jnp.bfloat16 if path == "cudnn" else jnp.float32
    exact = dtype == jnp.float32 and jax.default_backend() == "cpu"
    (q, k, v), back = inputs(dtype)
    back[segments == 0] = 0.0
    found = [np.asarray(x, np.float64) for x in with_gradients(path, segments, window_radius, dtype)(q, k, v, back)]
    wide = [np.asarray(x, np.float64) for x in (q, k, v)]
    wanted = reference(wide, allowed(segments, window_radius), back)
    seen, hidden = segments > 0, segments < 0
    assert (
        hidden.any()
        and np.abs(reference(wide, allowed(np.abs(segments), window_radius), back)[0] - wanted[0]).max() > 0.1
    )
    for got, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got[seen | hidden], expected[seen | hidden], atol=2e-6 if exact else 5e-2)
    assert (np.abs(found[0][hidden]).max(axis=(1, 2)) > 0).all() and not found[2][hidden].any()
    assert not found[3][hidden].any(), "nothing flows to the keys and values of what is not seen"


@pytest.mark.usefixtures("on_this_machine")
@pytest.mark.parametrize("path", KERNELS)
def test_a_kernel_runs_on_each_devices_own_rows_and_heads(path: str) -> None:
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    mesh = meshes.make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    segments = PACKED[:2]
    (q, k, v), _ = inputs(jnp.float32)
    config = dataclasses.replace(ENCODER, local_window=0)

    @jax.jit
    def apply(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        build = Build(attention=AttentionConfig(path))
        return attend(q, k, v, attention_specs(config, build, ids, ids, training=True)[0])

    place = jax.sharding.NamedSharding(mesh, meshes.spec("batch", "tokens", "heads", "head_dim"))
    ids = jax.device_put(segments, jax.sharding.NamedSharding(mesh, meshes.spec("batch", "tokens")))
    arrays = [jax.device_put(x[:2], place) for x in (q, k, v)]
    with jax.set_mesh(mesh):
        compiled = apply.lower(*arrays, ids).compile()
        result = compiled(*arrays, ids)
    text = compiled.as_text() or ""
    assert not any(name in text for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    assert result.sharding.is_equivalent_to(place, 4)
    expected = masked_attention(q[:2], k[:2], v[:2], segment_mask(jnp.asarray(segments)))
    np.testing.assert_allclose(np.asarray(result)[segments > 0], np.asarray(expected)[segments > 0], atol=2e-6)


def encoder(dtype: Any = jnp.float32, **changes: Any) -> Any:
    """Returns (attention, segment ids, key) -> a function of weights that gives hidden states, and weights."""
    config = dataclasses.replace(ENCODER, **changes)

    def make(attention: AttentionConfig = AUTO) -> Encoder:
        return Encoder(config, Build(dtype, attention=attention), nnx.Rngs(1))

    params = meshes.initialise(make)
    tokens = np.random.default_rng(1).integers(0, 64, PACKED[:2].shape)

    def with_attention(attention: AttentionConfig, segments: np.ndarray, key: jax.Array | None = None) -> Any:
        graphdef, _ = meshes.build_abstract(lambda: make(attention), meshes.make_mesh(MeshConfig()))
        batch = {"tokens": jnp.asarray(tokens), "segment_ids": segments, "positions": positions(segments)}
        return lambda params: nnx.merge(graphdef, params)(batch, key=key)

    return with_attention, params


@pytest.mark.slow
@pytest.mark.usefixtures("on_this_machine")
def test_an_encoder_of_global_and_local_layers_is_the_same_by_kernels() -> None:
    """The layers' order of windows and their rotations, too."""
    with_attention, params = encoder()
    segments = PACKED[:2]
    expected, result = (
        np.asarray(jax.jit(with_attention(AttentionConfig(path), segments))(params)) for path in ("xla", "splash")
    )
    assert not np.array_equal(result, expected)  # another path
    np.testing.assert_allclose(result[segments > 0], expected[segments > 0], atol=2e-5)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (the extra tpu) is not installed")
@pytest.mark.parametrize(("heads", "head_dim", "window_radius"), [(4, 64, 0), (3, 80, RADIUS)])
def test_the_tpu_compiler_takes_splash_attention(heads: int, head_dim: int, window_radius: int) -> None:
    """Forward and backward, on a mesh, for chips that need not be present."""
    mesh = meshes.make_mesh(MeshConfig(data=4), describe_devices(parse_topology("v5e:2x2")))
    config = dataclasses.replace(
        ENCODER,
        hidden_size=heads * head_dim,
        num_heads=heads,
        local_window=2 * window_radius,
        global_every=3 if window_radius else 1,
    )

    def apply(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> Any:
        spec = attention_specs(config, Build(q.dtype), ids, ids, training=True)[-1]
        return jax.grad(lambda q, k, v: attend(q, k, v, spec).astype(jnp.float32).sum(), argnums=(0, 1, 2))(q, k, v)

    def abstract(shape: tuple[int, ...], dtype: Any, *axes: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, meshes.spec(*axes)))

    q = abstract((4, T, heads, head_dim), jnp.bfloat16, "batch", "tokens", "heads", "head_dim")
    ids = abstract((4, T), jnp.int32, "batch", "tokens")
    with jax.set_mesh(mesh), target.tracing_for("tpu"):
        text = jax.jit(apply).lower(q, q, q, ids).compile().as_text() or ""
    assert text.count("tpu_custom_call") == 3 and "all-gather" not in text
    # Two products a block forward, seven backward; with a window, at most three of the T / 128 blocks in a row.
    keys = T if window_radius == 0 else min(T, 3 * 128)
    products = sum(call.times * hlo.matmul_flops(call) for call in hlo.parse(text).calls())
    assert products == 2 * 9 * heads * T * keys * head_dim


# What marks a kernel in a lowered program: for rows of one segment, and for packed ones.
MARKS = {
    "splash": ("tpu", "tpu_custom_call", "tpu_custom_call"),
    "cudnn": ("cuda", "__cudnn$fmhaSoftmax", "__cudnn$fmhaScaleBiasSoftmax"),
}


def lowered(platform: str, apply: Any, params: Any) -> str:
    """The text of a program and its gradient, for a platform that need not be present."""
    with target.tracing_for({"cuda": "gpu"}.get(platform, platform)):
        traced = jax.jit(jax.grad(lambda params: apply(params).astype(jnp.float32).sum())).trace(params)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.usefixtures("cudnn_here")
@pytest.mark.parametrize("name", MARKS)
def test_auto_lowers_to_the_kernel_of_the_device(name: str) -> None:
    platform, mark, packed = MARKS[name]
    segments = ALONE[:2]
    with_attention, params = encoder(jnp.bfloat16, global_every=1)
    auto = AttentionConfig("auto", one_segment=True)
    text = lowered(platform, with_attention(auto, segments), params)
    assert text.count(mark) >= 2  # forward and backward
    assert ("__cudnn$fmhaSoftmaxBackward" in text) == (name == "cudnn")
    text = lowered(platform, with_attention(AUTO, PACKED[:2]), params)
    assert text.count(packed) >= 2 and (mark == packed or mark not in text)
    windows, params_of_windows = encoder(jnp.bfloat16)
    text = lowered(platform, windows(auto, segments), params_of_windows)
    assert text.count(packed) >= 2 and text.count(mark) >= 2  # layers with a window, and those without
    # The same model, asked for XLA, or for what no kernel can do: dropout on the weights.
    assert mark not in lowered(platform, with_attention(AttentionConfig("xla", True), segments), params)
    dropping, params = encoder(jnp.bfloat16, attention_dropout=0.1, global_every=1)
    assert mark not in lowered(platform, dropping(auto, segments, jax.random.key(0)), params)
    assert mark in lowered(platform, dropping(auto, segments), params)  # as in evaluation


@pytest.mark.usefixtures("cudnn_here")
@pytest.mark.skipif(not has_gpu_compiler(), reason="XLA for GPUs (the extra cuda) is not installed")
@pytest.mark.parametrize("segments", [ALONE, PACKED], ids=["one", "packed"])
def test_the_gpu_compiler_takes_cudnn(segments: np.ndarray) -> None:
    """A whole encoder, forward and backward: with cuDNN nothing of [B, N, T, T] is held, without it that is."""
    (device,) = describe_devices(parse_topology("gpu:h100:1"))
    place = jax.sharding.SingleDeviceSharding(device)
    with_attention, params = encoder(jnp.bfloat16, attention_dropout=0.0)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), params)
    held = {}
    for path in ("auto", "xla"):
        apply = with_attention(AttentionConfig(path, one_segment=segments is ALONE), segments[:2])
        with target.tracing_for("gpu"):
            traced = jax.jit(jax.grad(lambda p, apply=apply: apply(p).astype(jnp.float32).sum())).trace(abstract)
            compiled = traced.lower().compile()
        assert ("fmha" in (compiled.as_text() or "")) == (path == "auto")
        memory = compiled.memory_analysis()
        assert memory is not None
        held[path] = memory.temp_size_in_bytes
    assert held["auto"] < held["xla"] / 2
