"""What a model reads of each token as real numbers, so that it can be moved, and what means nothing in its place."""

# B batch, T tokens, E embedding (of text) or values of a patch (of images)

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.inputs.patches import NORMALIZED, PatchInputs
from jaxfm.models.inputs.text import WORD_VECTORS, TextInputs, word_table


class InputVectors(NamedTuple):
    """Vectors of the tokens of a batch, and those of what means nothing.

    Attributes:
      field: that a batch has them in.
      own_BTE: of the tokens, f32.
      nothing_BTE: of a token that means nothing, or grey: the mean of the pixels that the weights know.
    """

    field: str
    own_BTE: jax.Array
    nothing_BTE: jax.Array


def input_vectors(inputs: InputModule, batch: Mapping[str, jax.Array], baseline: int) -> InputVectors:
    """Returns what an encoder reads of a batch; `baseline` is the token of text that means nothing."""
    if isinstance(inputs, PatchInputs):
        own_BTV = inputs.normalize(batch["pixels"])
        return InputVectors(NORMALIZED, own_BTV, jnp.zeros_like(own_BTV))
    assert isinstance(inputs, TextInputs), "a modality says here what its tokens' vectors are"
    table_VE = word_table(inputs)
    own_BTE = table_VE[batch["tokens"]]
    return InputVectors(WORD_VECTORS, own_BTE, jnp.broadcast_to(table_VE[baseline], own_BTE.shape))
