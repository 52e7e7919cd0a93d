import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxfm.config import MeshConfig
from jaxfm.models.dropout import dropout, random_words, split_key, threefry
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel import target

KEY = jax.random.key(7)
SHAPE = (64, 128, 256)  # 2,097,152 elements
COUNT = math.prod(SHAPE)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_rate_and_mean(rate: float) -> None:
    kept = np.asarray(dropout(jnp.ones(SHAPE), rate, KEY))
    share, deviation = (kept == 0).mean(), math.sqrt(rate * (1 - rate) / COUNT)
    # Four standard deviations of the binomial: a wrong rate of 0.1014 for 0.1 would fail.
    assert abs(share - rate) < 4 * deviation
    values = np.unique(kept)
    assert len(values) == 2 and values[0] == 0.0
    np.testing.assert_allclose(values[1], 1 / (1 - rate), rtol=1e-4)  # the rate is met to 2^-16
    assert abs(kept.mean(dtype=np.float64) - 1.0) < 4 * deviation / (1 - rate)


def test_the_scale_belongs_to_the_rate_that_is_met() -> None:
    rate = 1.4 / 65536  # met as 1 / 65536
    kept = np.asarray(dropout(jnp.ones(SHAPE), rate, KEY))
    assert 0 < (kept == 0).sum() < 4 * COUNT / 65536
    assert kept.max() == np.float32(65536 / 65535)


def test_neighbours_fall_independently() -> None:
    """Four elements, a quarter of the last axis apart, share a call: a bad split of it would show as correlation."""
    zero = np.asarray(dropout(jnp.ones(SHAPE), 0.3, KEY)) == 0
    for axis, distance in ((0, 1), (1, 1), (2, 1), (2, SHAPE[2] // 4), (2, SHAPE[2] // 2), (2, 3 * SHAPE[2] // 4)):
        last = SHAPE[axis] - distance
        left, right = np.take(zero, range(last), axis), np.take(zero, range(distance, SHAPE[axis]), axis)
        both, pairs = (left & right).mean(), left.size
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / pairs)


def test_kept_elements_are_scaled_and_dropped_ones_are_exactly_zero() -> None:
    x = jax.random.normal(jax.random.key(1), (40, 33)) * 1e6  # an odd last axis: some of the bits are unused
    result = np.asarray(dropout(x, 0.25, KEY))
    dropped = result == 0
    assert 0.15 < dropped.mean() < 0.35
    np.testing.assert_allclose(result[~dropped], np.asarray(x)[~dropped] / 0.75, rtol=1e-6)
    gradient = np.asarray(jax.grad(lambda x: dropout(x, 0.25, KEY).sum())(x))
    np.testing.assert_array_equal(gradient[dropped], 0.0)
    np.testing.assert_allclose(gradient[~dropped], 1 / 0.75, rtol=1e-6)


def test_what_is_not_finite_leaves_no_trace_where_it_is_dropped() -> None:
    x = jnp.full((100,), jnp.inf)
    result = np.asarray(dropout(x, 0.5, KEY))
    assert set(result) == {0.0, np.inf}


def test_without_a_key_or_a_rate_nothing_changes() -> None:
    x = jax.random.normal(jax.random.key(1), (8, 16))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, KEY) is x


def test_the_key_alone_decides() -> None:
    x = jnp.ones((64, 64))
    masks = [np.asarray(dropout(x, 0.5, key)) for key in (KEY, KEY, jax.random.key(8))]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert 0.4 < (masks[0] != masks[2]).mean() < 0.6


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_dtype_is_kept_and_does_not_change_the_mask(dtype) -> None:
    result = dropout(jnp.ones((64, 64), dtype), 0.5, KEY)
    assert result.dtype == dtype
    np.testing.assert_array_equal(np.asarray(result) == 0, np.asarray(dropout(jnp.ones((64, 64)), 0.5, KEY)) == 0)


@pytest.mark.parametrize(
    ("count", "config"),
    [
        (1, MeshConfig()),
        (2, MeshConfig()),
        (4, MeshConfig()),
        (4, MeshConfig(fsdp=2)),
        (4, MeshConfig(tensor=2)),
    ],
    ids=str,
)
def test_the_mask_is_the_same_on_every_mesh(count: int, config: MeshConfig) -> None:
    mesh = meshes.make_mesh(config, jax.devices()[:count])
    by_row = NamedSharding(mesh, meshes.spec("batch"))
    x = jax.device_put(np.ones((8, 16, 32), np.float32), by_row)
    assert len(x.sharding.device_set) == count
    result = jax.jit(lambda x, key: dropout(x, 0.3, key), out_shardings=by_row)(x, KEY)
    np.testing.assert_array_equal(result, dropout(jnp.ones((8, 16, 32)), 0.3, KEY))


def test_split_key() -> None:
    assert split_key(None, 3) == [None, None, None]
    keys = [np.asarray(jax.random.key_data(key)) for key in split_key(KEY, 3) if key is not None]
    assert len({tuple(key.tolist()) for key in keys}) == len(keys) == 3


def test_threefry_is_that_of_its_authors() -> None:
    """Known answers of Random123 (kat_vectors, threefry2x32, 20 rounds): zeros, ones, digits of pi."""
    known = [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ]
    for key, counter, output in known:
        high, low = threefry(jnp.asarray(key, jnp.uint32), *(jnp.uint32(word) for word in counter))
        assert (int(high), int(low)) == output


def test_words_are_those_of_jax() -> None:
    """jax.random's bits are the two words of the same counters, one xor the other."""
    key = jax.random.key(5)
    high, low = random_words(key, (1, 6, 7))
    np.testing.assert_array_equal(high ^ low, jax.random.bits(key, (1, 6, 7), jnp.uint32))


def test_every_place_has_words_of_its_own() -> None:
    high, low = random_words(jax.random.key(6), (5, 4, 300))
    pairs = set(zip(np.asarray(high).ravel().tolist(), np.asarray(low).ravel().tolist(), strict=True))
    assert len(pairs) == 5 * 4 * 300


def test_a_key_of_another_generator_is_refused() -> None:
    with pytest.raises(ValueError, match="rbg, not of threefry2x32"):
        random_words(jax.random.key(0, impl="rbg"), (2, 2))


@pytest.mark.parametrize("shape", [(2, 3, 128), (5, 33), (7, 2)])
def test_the_mask_is_the_same_on_every_platform(shape: tuple[int, ...]) -> None:
    x = jnp.ones(shape)
    here = dropout(x, 0.4, KEY)
    assert 0 < float((here == 0).mean()) < 1
    for platform in ("tpu", "gpu"):
        with target.tracing_for(platform):
            np.testing.assert_array_equal(dropout(x, 0.4, KEY), here)
