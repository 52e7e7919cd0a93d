"""Batches of images on the device: augmented, and mixed with one another."""

# B batch, T tokens, S segments (images in a row)

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxfm.models.dropout import DropoutKey, RowsKey
from jaxfm.models.inputs.augmentation import Augmentation, augment, mix


class Partner(NamedTuple):
    """The row that each row is mixed with: its neighbour, 2 i with 2 i + 1.

    Attributes:
      share_B: f32, the share of the neighbour in each row.
    """

    share_B: jax.Array

    def labels_of(self, labels: jax.Array) -> jax.Array:
        """Returns the labels [B, ...] of the neighbours."""
        return jnp.flip(labels.reshape(-1, 2, *labels.shape[1:]), axis=1).reshape(labels.shape)

    def share(self, like: jax.Array) -> jax.Array:
        """Returns the shares in the shape of an array [B, ...]."""
        return self.share_B.reshape(-1, *[1] * (like.ndim - 1))


def augmented(
    inputs: Any,
    batch: Mapping[str, jax.Array],
    augmentation: Augmentation | None,
    key: DropoutKey,
    *,
    segments: int = 1,
) -> tuple[dict[str, jax.Array], Partner | None]:
    """Returns the batch with changed pixels on the scale of the weights, and with what its rows are mixed.

    Args:
      inputs: the `PatchInputs` of the model.
      batch: of the fields of `models.inputs.patches`.
      augmentation: what is done; None: nothing.
      key: what is drawn depends on it and on the numbers of the rows alone.
      segments: most images a row.
    """
    if augmentation is None:
        return dict(batch), None
    patches = inputs.config.patches
    pixels = augment(batch, augmentation, patches.size, patches.channels, key, segments=segments)
    partner = None
    if augmentation.mixes:
        assert not isinstance(key, RowsKey), "images are mixed within a micro-batch"
        pixels, share_B = mix(batch, pixels, augmentation, patches.size, patches.channels, key)
        partner = Partner(share_B)
    return {**batch, "normalized": inputs.normalize(pixels)}, partner
