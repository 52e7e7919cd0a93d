import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models.attention import chunk_length, local_mask, masked_attention, segment_mask, sight_mask
from jaxfm.models.dropout import dropout

B, T, N, H = 3, 12, 2, 16
SEGMENTS = np.asarray([[1] * 5 + [2] * 4 + [3] * 3, [1] * 7 + [0] * 5, [0] * 12], np.int32)


def inputs(dtype=jnp.float32, scale: float = 1.0) -> list[jax.Array]:
    """Query, key and value; `scale` on query and key makes the softmax sharp."""
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = (scale, scale, 1.0)
    return [(jax.random.normal(key, (B, T, N, H)) * size).astype(dtype) for key, size in zip(keys, sizes, strict=True)]


def allowed(segments: np.ndarray) -> np.ndarray:
    """The rule by hand: [B, T, T], query and key in the same segment."""
    result = np.zeros((*segments.shape, segments.shape[1]), bool)
    for b, row in enumerate(segments):
        for i, left in enumerate(row):
            for j, right in enumerate(row):
                result[b, i, j] = left == right
    return result


def reference(q, k, v, mask_BTT: np.ndarray) -> np.ndarray:
    """Attention in float64, one query at a time and over its allowed keys alone."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    result = np.zeros_like(q)
    for b, t, n in np.ndindex(q.shape[:3]):
        keys = np.flatnonzero(mask_BTT[b, t])
        scores = k[b, keys, n] @ q[b, t, n] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        result[b, t, n] = weights / weights.sum() @ v[b, keys, n]
    return result


def test_segment_mask() -> None:
    mask = np.asarray(segment_mask(jnp.asarray(SEGMENTS)))
    assert mask.shape == (B, 1, T, T) and mask.dtype == bool
    np.testing.assert_array_equal(mask[:, 0], allowed(SEGMENTS))
    assert mask.any(axis=-1).all()  # no query is left without a key, padding included


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_masked_attention_equals_float64(scale: float) -> None:
    q, k, v = inputs(scale=scale)
    mask = segment_mask(jnp.asarray(SEGMENTS))
    expected = reference(q, k, v, allowed(SEGMENTS))
    np.testing.assert_allclose(masked_attention(q, k, v, mask), expected, atol=1e-5 * scale)
    unmasked = reference(q, k, v, np.ones((B, T, T), bool))
    assert np.abs(unmasked - expected).max() > 0.1  # the mask matters here


def test_masked_attention_in_bf16_differs_from_f32_by_bf16_rounding_alone() -> None:
    q, k, v = inputs(jnp.bfloat16)
    result = masked_attention(q, k, v, segment_mask(jnp.asarray(SEGMENTS)))
    assert result.dtype == jnp.bfloat16
    # Scores are f32 (q / 4 is exact in bf16), so only the weights and the result are rounded, by 2^-9 of themselves.
    error = np.abs(np.asarray(result, np.float64) - reference(q, k, v, allowed(SEGMENTS)))
    bound = 3 * 2.0**-9 * reference(q, k, jnp.abs(v), allowed(SEGMENTS))
    np.testing.assert_array_less(error, bound + 1e-5)
    assert error.max() > 1e-4  # bf16 was used


def test_scores_far_below_each_other_do_not_overflow() -> None:
    q, k, v = inputs(scale=1e3)
    mask = segment_mask(jnp.asarray(SEGMENTS))
    result, gradients = jax.value_and_grad(lambda q: masked_attention(q, k, v, mask).sum())(q)
    assert np.isfinite(result) and np.isfinite(gradients).all()


def test_no_gradient_crosses_a_segment() -> None:
    q, k, v = inputs()
    mask = segment_mask(jnp.asarray(SEGMENTS))
    for segment in (1, 2, 3):
        chosen = jnp.asarray(SEGMENTS == segment)[..., None, None]

        def output(q, k, v, chosen=chosen):
            return jnp.sum(jnp.sin(masked_attention(q, k, v, mask)) * chosen)

        for gradient in jax.grad(output, argnums=(0, 1, 2))(q, k, v):
            np.testing.assert_array_equal(gradient[SEGMENTS != segment], 0.0)
            assert (np.abs(gradient[SEGMENTS == segment]).max(axis=(1, 2)) > 0).all()


def test_dropout_falls_on_the_weights() -> None:
    q, k, v = inputs()
    mask, key = segment_mask(jnp.asarray(SEGMENTS)), jax.random.key(3)
    result = masked_attention(q, k, v, mask, dropout_rate=0.4, dropout_key=key)
    scores = np.einsum("btnh,bsnh->bnts", *(np.asarray(x, np.float64) for x in (q, k))) / 4
    weights = np.exp(scores) * allowed(SEGMENTS)[:, None]
    weights /= weights.sum(-1, keepdims=True)
    dropped = np.asarray(dropout(jnp.ones(weights.shape), 0.4, key), np.float64)
    expected = np.einsum("bnts,bsnh->btnh", weights * dropped, np.asarray(v, np.float64))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.abs(result - masked_attention(q, k, v, mask)).max() > 0.1
    np.testing.assert_array_equal(masked_attention(q, k, v, mask, dropout_rate=0.4), masked_attention(q, k, v, mask))


POSITIONS = np.asarray([[*range(5), *range(4), *range(3)], [*range(7), *[0] * 5], [0] * 12], np.int32)


@pytest.mark.parametrize("window_radius", [1, 2, 3, 5])
def test_local_attention_in_chunks_and_whole(window_radius: int) -> None:
    """Chunks that divide the row and that do not, against the rule by hand."""
    q, k, v = inputs(scale=2.0)
    near = allowed(SEGMENTS) & (np.abs(POSITIONS[:, :, None] - POSITIONS[:, None, :]) <= window_radius)
    real = SEGMENTS > 0
    # Padding sees other padding in chunks than in whole rows; its outputs are never read.
    assert near[0, 4, 4 - min(window_radius, 4)] and not near[0, 4, 5] and near[real].any(axis=-1).all()
    expected = reference(q, k, v, near)
    assert np.abs(expected - reference(q, k, v, allowed(SEGMENTS)))[real].max() > 0.1 or window_radius >= 5
    for chunk in (0, window_radius, window_radius + 1):
        mask = local_mask(jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS), window_radius, chunk)
        assert mask.shape == ((B, -(-T // chunk), 1, chunk, 3 * chunk) if chunk else (B, 1, T, T))
        result = masked_attention(q, k, v, mask, chunk=chunk)
        assert result.shape == q.shape and np.isfinite(result).all()
        np.testing.assert_allclose(np.asarray(result)[real], expected[real], atol=2e-5)


def before(segments: np.ndarray) -> np.ndarray:
    """`allowed` without what stands later in the row."""
    return allowed(segments) & np.tril(np.ones((segments.shape[1],) * 2, bool))


def test_a_causal_token_sees_none_after_it_in_its_segment() -> None:
    mask = sight_mask(jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS), jnp.asarray(POSITIONS))
    real = SEGMENTS > 0
    np.testing.assert_array_equal(np.asarray(mask)[:, 0][real], before(SEGMENTS)[real])
    assert np.asarray(mask).any(axis=-1).all()  # no query is left without a key, padding included
    q, k, v = inputs(scale=2.0)
    expected = reference(q, k, v, before(SEGMENTS))
    np.testing.assert_allclose(np.asarray(masked_attention(q, k, v, mask))[real], expected[real], atol=2e-5)
    assert np.abs(expected - reference(q, k, v, allowed(SEGMENTS)))[real].max() > 0.1


@pytest.mark.parametrize("window_radius", [1, 3])
def test_causal_attention_within_a_window(window_radius: int) -> None:
    q, k, v = inputs(scale=2.0)
    near = before(SEGMENTS) & (POSITIONS[:, :, None] - POSITIONS[:, None, :] <= window_radius)
    expected, real = reference(q, k, v, near), SEGMENTS > 0
    for chunk in (0, window_radius):
        mask = local_mask(jnp.asarray(SEGMENTS), jnp.asarray(POSITIONS), window_radius, chunk, jnp.asarray(POSITIONS))
        result = np.asarray(masked_attention(q, k, v, mask, chunk=chunk))
        np.testing.assert_allclose(result[real], expected[real], atol=2e-5)


def test_chunks_cost_in_proportion_to_the_row() -> None:
    def flops(tokens: int, chunk: int) -> float:
        shape = jax.ShapeDtypeStruct((1, tokens, N, H), jnp.float32)
        ids = jax.ShapeDtypeStruct((1, tokens), jnp.int32)
        apply = jax.jit(lambda q, ids: masked_attention(q, q, q, local_mask(ids, ids, 16, chunk), chunk=chunk))
        analysis = apply.lower(shape, ids).compile().cost_analysis()
        assert analysis is not None
        return analysis["flops"]

    assert chunk_length(512, 16) == 16 and chunk_length(64, 16) == 0
    assert flops(1024, 16) < 2.2 * flops(512, 16) and flops(512, 16) < flops(512, 0) / 5


def test_the_backward_pass_keeps_the_weights_once_and_narrow() -> None:
    batch, tokens, heads = 2, 64, 3
    q, k, v = (jax.random.normal(jax.random.key(i), (batch, tokens, heads, 8)).astype(jnp.bfloat16) for i in range(3))
    mask = segment_mask(jnp.ones((batch, tokens), jnp.int32))

    def apply(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return masked_attention(q, k, v, mask, dropout_rate=0.1, dropout_key=jax.random.key(3))

    _, pull = jax.vjp(apply, q, k, v)
    # The weights in bf16, what was dropped of them as bool; queries, keys, values and context.
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) <= 3 * batch * heads * tokens**2 + 4 * q.nbytes
