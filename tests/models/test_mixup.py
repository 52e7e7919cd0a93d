"""Mixed hidden states against layers that are applied one part after the other, and partners against a plain loop."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.mixup import Mixing, draw_partners, partners_of_segments
from jaxfm.models.stack import apply_some_layers, first_stream
from jaxfm.training.paths import flat
from tests.models.test_exits import POST, PRE, SHARED, WINDOWS, batch_of, model_of

LENGTHS = ((5, 4, 7), (6, 3), (), (9,))


def packed() -> tuple[np.ndarray, np.ndarray]:
    segments, positions = np.zeros((len(LENGTHS), 16), np.int32), np.zeros((len(LENGTHS), 16), np.int32)
    for row, lengths in enumerate(LENGTHS):
        first = 0
        for number, length in enumerate(lengths, start=1):
            segments[row, first : first + length] = number
            positions[row, first : first + length] = range(length)
            first += length
    return segments, positions


def test_partners_are_a_cycle_and_meet_token_by_token() -> None:
    segments, positions = packed()
    starts = {(row, number): None for row, lengths in enumerate(LENGTHS) for number in range(1, len(lengths) + 1)}
    first = {key: int(np.argmax(segments[key[0]] == key[1])) + 16 * key[0] for key in starts}
    seen = set()
    for seed in range(8):
        found = jax.jit(draw_partners)(jax.random.key(seed), jnp.asarray(segments), jnp.asarray(positions))
        partners, own, other = (np.asarray(each) for each in found)
        where = {place: key for key, place in first.items()}
        of = {key: where[int(other.reshape(-1)[place])] for key, place in first.items()}
        seen.add(tuple(of.values()))
        walked, at = [], (0, 1)
        while at not in walked:
            walked.append(at)
            at = of[at]
        assert at == (0, 1) and len(walked) == len(first)
        wanted = np.arange(segments.size).reshape(segments.shape)
        for (row, number), place in first.items():
            theirs = of[row, number]
            both = min(LENGTHS[row][number - 1], LENGTHS[theirs[0]][theirs[1] - 1])
            wanted[row, place - 16 * row : place - 16 * row + both] = first[theirs] + np.arange(both)
        np.testing.assert_array_equal(partners, wanted)
        at = np.asarray(partners_of_segments(jnp.asarray(own), jnp.asarray(other), jnp.asarray(segments), 4))
        for row in range(len(LENGTHS)):
            for number in range(1, 5):
                theirs = of.get((row, number), (row, number))
                assert at[row, number - 1] == theirs[0] * 4 + theirs[1] - 1
    assert len(seen) > 4


def test_one_segment_alone_is_its_own_partner() -> None:
    segments = np.asarray([[1, 1, 1, 0]], np.int32)
    partners, _, _ = draw_partners(jax.random.key(0), jnp.asarray(segments), jnp.asarray([[0, 1, 2, 0]]))
    np.testing.assert_array_equal(partners, [[0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("encoder", "scan"),
    [
        pytest.param(POST, True, id="post"),
        pytest.param(PRE, False, id="pre"),
        pytest.param(WINDOWS, False, id="windows", marks=pytest.mark.slow),
        pytest.param(SHARED, False, id="shared"),
    ],
)
def test_states_are_mixed_after_the_chosen_layer(encoder: EncoderConfig, scan: bool) -> None:
    build = Build(scan=scan)
    model, batch = model_of(encoder, build, exits=()), batch_of(rows=3)
    batch["tokens"] = jnp.asarray(np.random.default_rng(3).integers(1, 90, batch["tokens"].shape), jnp.int32)
    partners, _, _ = draw_partners(jax.random.key(1), batch["segment_ids"], batch["positions"])
    after, share = (0, 1, 3, 4), 0.3

    @jax.jit
    def found(chosen: jax.Array, share: jax.Array) -> jax.Array:
        return model.encoder.encode(batch, mixing=Mixing(after, chosen, share, partners)).x_BTD

    def wanted(chosen: int) -> np.ndarray:
        own, places = model.encoder, np.asarray(partners)

        def mixed(x: jax.Array) -> jax.Array:
            return jnp.asarray((1 - share) * np.asarray(x) + share * np.asarray(x).reshape(-1, x.shape[-1])[places])

        def layers(stream: jax.Array, first: int, count: int) -> jax.Array:
            """Applies layers to states without their norm; returns the same after them."""
            if not count:
                return stream
            given = (batch["segment_ids"], batch["positions"], build)
            pair = stream
            if encoder.pre_norm:
                pair = first_stream(encoder, own.common, stream) if not first else with_norm(stream, first)
            every = encoder.global_every if encoder.local_window else 1
            pair = apply_some_layers(
                encoder, own.layers, own.common, pair, *given, first=jnp.int32(first), count=count, phase=first % every
            )
            return pair[0] if encoder.pre_norm else pair

        def with_norm(stream: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
            scale = own.layers.next_norm.scale[...][count - 1]
            centred = stream - stream.mean(-1, keepdims=True)
            bias = own.layers.next_norm.bias[...][count - 1]
            normed = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + encoder.norm_eps) * scale + bias
            return stream, normed

        last = layers(mixed(layers(own.embeddings(batch).x_BTD, 0, chosen)), chosen, 4 - chosen)
        return np.asarray(with_norm(last, 4)[1] if encoder.pre_norm else last)

    valid = np.asarray(batch["segment_ids"]) > 0
    plain = np.asarray(jax.jit(lambda: model.encoder(batch))())
    for chosen in after:
        got = np.asarray(found(jnp.int32(chosen), jnp.float32(share)))
        np.testing.assert_allclose(got[valid], wanted(chosen)[valid], atol=2e-5)
        assert np.abs(got - plain)[valid].max() > 0.05
        np.testing.assert_array_equal(found(jnp.int32(chosen), jnp.float32(0.0)), found(jnp.int32(-1), jnp.float32(0)))
    np.testing.assert_allclose(np.asarray(found(jnp.int32(-1), jnp.float32(0.5)))[valid], plain[valid], atol=1e-6)


def test_a_layer_that_is_not_trained_has_no_gradient_from_its_norm() -> None:
    encoder = dataclasses.replace(PRE, num_layers=2)
    model, batch = model_of(encoder, Build(scan=False, frozen_layers=1), exits=()), batch_of()
    partners, _, _ = draw_partners(jax.random.key(1), batch["segment_ids"], batch["positions"])
    mixing = Mixing((1,), jnp.int32(1), jnp.float32(0.4), partners)

    graphdef, params = nnx.split(model)

    @jax.jit
    def gradient_of(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return (nnx.merge(graphdef, params).encoder.encode(batch, mixing=mixing).x_BTD ** 2)[..., :7].sum()

        return jax.grad(loss)(params)

    found = flat(nnx.to_pure_dict(gradient_of(params)))
    gradient = np.abs(np.asarray(found["encoder/layers/next_norm/scale"]))
    assert gradient[1].max() > 1e-3 and not gradient[0].any()
