"""Hidden spans against a loop over steps, and how often a step is hidden."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.models.dropout import RowsKey
from jaxfm.models.span_masks import Draws, draw_spans, hidden_steps


def looped(begins_K: np.ndarray, place: float, steps: int, starts: float, length: int) -> np.ndarray:
    """Returns which of the steps of one clip are hidden."""
    length = min(length, max(steps // 2, 1))
    first = [step for step in range(steps) if begins_K[step] < starts] or [int(np.floor(np.float32(place) * steps))]
    hidden = np.zeros(len(begins_K), bool)
    for step in first:
        hidden[step : min(step + length, steps)] = True
    return hidden


def test_spans_are_those_of_a_loop() -> None:
    counts = np.asarray([[12, 5], [1, 0], [20, 3]])
    valid = np.arange(20) < counts[..., None]
    for seed in range(20):
        draws = draw_spans(jax.random.key(seed), valid.shape)
        for starts, length in ((0.08, 10), (0.3, 2), (0.0001, 4), (1.0, 1)):
            found = np.asarray(hidden_steps(draws, jnp.asarray(valid), starts=starts, length=length))
            for row, segment in np.ndindex(3, 2):
                steps = int(counts[row, segment])
                begins, place = np.asarray(draws.begins_BSK[row, segment]), float(draws.place_BS[row, segment])
                wanted = looped(begins, place, steps, starts, length) if steps else np.zeros(20, bool)
                np.testing.assert_array_equal(found[row, segment], wanted)
                assert wanted.any() == (steps > 0)


def test_a_step_is_hidden_as_often_as_its_spans_say() -> None:
    valid = jnp.ones((4000, 1, 60), bool)
    hidden = hidden_steps(draw_spans(jax.random.key(0), valid.shape), valid, starts=0.08, length=10)
    share = np.asarray(hidden).mean(axis=(0, 1))
    # After the first nine steps: that one of ten steps began a span. Clips in which none begins are 0.7 %.
    np.testing.assert_allclose(share[9:].mean(), 1 - 0.92**10, atol=0.01)
    np.testing.assert_allclose(share[0], 0.08, atol=0.015)


def test_draws_of_a_row_depend_on_its_number_alone() -> None:
    key = jax.random.key(3)
    whole, later = draw_spans(key, (6, 2, 9)), draw_spans(RowsKey(key, jnp.uint32(2), jnp.uint32(1)), (4, 2, 9))
    np.testing.assert_array_equal(whole.begins_BSK[2:], later.begins_BSK)
    np.testing.assert_array_equal(whole.place_BS[2:], later.place_BS)
    assert isinstance(whole, Draws) and len(np.unique(whole.begins_BSK)) > 100
