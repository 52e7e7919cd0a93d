"""Boxes in images: forms, overlap, and which of many predicted ones are taken for which objects."""

# M objects of an image, Q predicted boxes, C classes

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxfm.parallel.mesh import drop_indivisible_axes, spec

_LARGEST_COST = 1e6  # of what is not a number


class MatchingCosts(NamedTuple):
    """What a predicted box costs for an object; of Carion et al. 2020 (DETR), section 3.1.

    Attributes:
      classes: times minus the probability of the object's class.
      boxes: times the sum of differences of middle, width and height.
      overlap: times minus the generalised overlap.
    """

    classes: float = 1.0
    boxes: float = 5.0
    overlap: float = 2.0


def corners(boxes: jax.Array) -> jax.Array:
    """Returns left, top, right and bottom [..., 4] of middle (column, row), width and height [..., 4]."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def middles(boxes: jax.Array) -> jax.Array:
    """Returns middle (column, row), width and height [..., 4] of left, top, right and bottom [..., 4]."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([(first + last) / 2, last - first], axis=-1)


def generalized_overlap(one: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the generalised intersection over union of boxes as `corners`, -1 to 1 (Rezatofighi et al. 2019).

    The arrays [..., 4] are broadcast. Of two boxes without area it is a number, not NaN, and has a gradient.
    """
    tiny = 1e-12
    shared = _area(jnp.maximum(one[..., :2], other[..., :2]), jnp.minimum(one[..., 2:], other[..., 2:]))
    union = _area(one[..., :2], one[..., 2:]) + _area(other[..., :2], other[..., 2:]) - shared
    around = _area(jnp.minimum(one[..., :2], other[..., :2]), jnp.maximum(one[..., 2:], other[..., 2:]))
    return shared / jnp.maximum(union, tiny) - (around - union) / jnp.maximum(around, tiny)


def _area(first: jax.Array, last: jax.Array) -> jax.Array:
    """Returns the area between two corners, 0 where they are the wrong way round."""
    sides = jnp.maximum(last - first, 0.0)
    return sides[..., 0] * sides[..., 1]


def match(
    logits_QC: jax.Array, boxes_Q4: jax.Array, labels_M: jax.Array, targets_M4: jax.Array, costs: MatchingCosts
) -> jax.Array:
    """Returns the predicted box of each object, int32 [M], so that the sum of costs is least; no box is taken twice.

    The number of an absent object (label -1) means nothing. Boxes are middles and sides in shares of the image.

    Args:
      logits_QC: f32, with "no object" as the last class.
      boxes_Q4: f32.
      labels_M: int32, -1: absent; M is at most Q.
      targets_M4: f32.
      costs: weights.
    """
    cost_MQ = matching_costs(logits_QC, boxes_Q4, labels_M, targets_M4, costs)
    rows, columns = optax.assignment.hungarian_algorithm(cost_MQ)
    return jnp.zeros(len(labels_M), jnp.int32).at[rows].set(columns.astype(jnp.int32))


@jax.named_scope("match_objects")
def match_batch(
    found: tuple[jax.Array, jax.Array], labels: jax.Array, targets: jax.Array, costs: MatchingCosts
) -> jax.Array:
    """Returns `match` of each image [B, S, M], of arrays [B, S, ...]; `found` are logits and boxes.

    Each device matches the images that it holds. A loop over all of them at once would exchange a number among all
    devices in each of its turns.
    """

    def own(*arrays: jax.Array) -> jax.Array:
        return jax.vmap(jax.vmap(lambda *image: match(*image, costs=costs)))(*arrays)

    arrays = (*found, labels, targets)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return own(*arrays)
    cut = drop_indivisible_axes(labels.shape, spec("batch", "segments", "features"), mesh)
    first = jax.sharding.PartitionSpec(cut[0])
    return jax.shard_map(own, in_specs=(first,) * len(arrays), out_specs=first, check_vma=False)(*arrays)


def matching_costs(
    logits_QC: jax.Array, boxes_Q4: jax.Array, labels_M: jax.Array, targets_M4: jax.Array, costs: MatchingCosts
) -> jax.Array:
    """Returns the costs [M, Q] of `match`; those of absent objects are 0, so that they change no choice."""
    shares_QC = jax.nn.softmax(logits_QC, axis=-1)
    of_class_MQ = shares_QC.T[jnp.maximum(labels_M, 0)]
    apart_MQ = jnp.abs(targets_M4[:, None] - boxes_Q4).sum(axis=-1)
    overlap_MQ = generalized_overlap(corners(targets_M4)[:, None], corners(boxes_Q4))
    cost_MQ = costs.boxes * apart_MQ - costs.classes * of_class_MQ - costs.overlap * overlap_MQ
    cost_MQ = jnp.nan_to_num(cost_MQ, nan=_LARGEST_COST, posinf=_LARGEST_COST, neginf=_LARGEST_COST)
    return jnp.where(labels_M[:, None] >= 0, cost_MQ, 0.0)
