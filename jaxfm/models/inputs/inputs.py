"""What the layers take of a batch, whatever the modality."""

# B batch, T tokens (or patches, frames: the elements of a row), D model

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax

from jaxfm.models.dropout import DropoutKey


class Inputs(NamedTuple):
    """The arrays that `models.stack` computes with.

    Attributes:
      x_BTD: what each token is before the first layer [B, T, D], in the dtype of activations.
      segment_ids_BT: int32 [B, T]; a token attends to tokens of its own segment. Segments of a row count from 1; 0 is
        padding. A token of segment -n attends to segment n, and no token attends to it.
      positions_BT: int32 [B, T]; positions count from 0 inside each segment.
      horizons_BT: int32 [B, T]; the last position of its segment that each token sees, where the encoder's sight is
        "prefix". None for other sights.
    """

    x_BTD: jax.Array
    segment_ids_BT: jax.Array
    positions_BT: jax.Array
    horizons_BT: jax.Array | None = None


class InputModule(Protocol):
    """A modality: an nnx.Module that makes the layers' inputs of a batch.

    Its file in this folder also has a function `fields(...) -> core.batch.BatchSpec`: the arrays that it reads.
    """

    def __call__(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> Inputs:
        """Returns the inputs of the layers; `key` turns dropout on."""
        ...
