"""Overlap and matching of boxes, against slow counting and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models.boxes import MatchingCosts, corners, generalized_overlap, match, matching_costs, middles

COSTS = MatchingCosts()


def counted_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """GIoU of boxes with whole corners, by counting unit squares."""

    def squares(box: np.ndarray) -> set[tuple[int, int]]:
        left, top, right, bottom = (int(value) for value in box)
        return {(x, y) for x in range(left, right) for y in range(top, bottom)}

    first, second = squares(one), squares(other)
    around = squares(np.concatenate([np.minimum(one[:2], other[:2]), np.maximum(one[2:], other[2:])]))
    union = first | second
    return len(first & second) / len(union) - (len(around) - len(union)) / len(around)


def whole_boxes(count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    first = draw.integers(0, 8, (count, 2))
    return np.concatenate([first, first + draw.integers(1, 6, (count, 2))], axis=1)


def test_generalised_overlap_is_that_of_counted_squares() -> None:
    one, other = whole_boxes(200, 0), whole_boxes(200, 1)
    wanted = [counted_overlap(*pair) for pair in zip(one, other, strict=True)]
    found = generalized_overlap(jnp.asarray(one, jnp.float32), jnp.asarray(other, jnp.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert min(wanted) < 0 < max(wanted)
    same = jnp.asarray(one, jnp.float32)
    np.testing.assert_allclose(generalized_overlap(same, same), 1.0, atol=1e-6)


def test_boxes_without_area_give_numbers_and_gradients() -> None:
    point = jnp.zeros(4)
    value, gradient = jax.value_and_grad(lambda box: generalized_overlap(box, point))(point)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_forms_of_boxes_lead_back() -> None:
    boxes = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (20, 4)), jnp.float32)
    np.testing.assert_allclose(middles(corners(boxes)), boxes, atol=1e-6)
    np.testing.assert_allclose(corners(jnp.asarray([0.5, 0.4, 0.2, 0.4])), [0.4, 0.2, 0.6, 0.6], atol=1e-6)


def drawn(count: int, seed: int, objects: int = 5) -> tuple[jax.Array, ...]:
    """Logits [Q, 4], boxes [Q, 4], labels [M], targets [M, 4]; some objects are absent."""
    draw = np.random.default_rng(seed)
    labels = np.where(draw.random(objects) < 0.3, -1, draw.integers(0, 3, objects))
    arrays = (
        draw.normal(size=(count, 4)),
        draw.uniform(0.1, 0.5, (count, 4)),
        labels,
        draw.uniform(0.1, 0.5, (objects, 4)),
    )
    return tuple(jnp.asarray(each, jnp.int32 if each.ndim == 1 else jnp.float32) for each in arrays)


@pytest.mark.parametrize("count", [5, 9])
def test_matching_costs_least_as_scipy_finds_it(count: int) -> None:
    scipy = pytest.importorskip("scipy.optimize", reason="scipy is the oracle")
    matching = jax.jit(lambda *image: match(*image, COSTS))
    for seed in range(20):
        image = drawn(count, seed)
        present = np.flatnonzero(np.asarray(image[2]) >= 0)
        cost = np.asarray(matching_costs(*image, COSTS))[present]
        rows, columns = scipy.linear_sum_assignment(cost)
        taken = np.asarray(matching(*image))
        assert len(set(taken.tolist())) == len(taken)  # no token twice
        np.testing.assert_array_equal(taken[present][rows], columns)


def test_costs_are_written_out() -> None:
    logits, boxes, labels, targets = drawn(3, 7, objects=2)
    labels = jnp.asarray([2, -1])
    costs = np.asarray(matching_costs(logits, boxes, labels, targets, MatchingCosts(1.0, 5.0, 2.0)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    overlap = np.asarray([generalized_overlap(corners(box), corners(targets[0])) for box in boxes])
    wanted = 5 * np.abs(np.asarray(boxes) - np.asarray(targets[0])).sum(axis=-1) - shares[:, 2] - 2 * overlap
    np.testing.assert_allclose(costs[0], wanted, rtol=1e-5)
    np.testing.assert_array_equal(costs[1], 0.0)


def test_what_is_no_number_is_matched_last() -> None:
    logits, boxes, _, targets = drawn(4, 3, objects=3)
    broken = boxes.at[1].set(jnp.nan)
    assert 1 not in np.asarray(match(logits, broken, jnp.asarray([0, 1, 2]), targets, COSTS))
