"""An encoder of images with detection tokens, each of which says a class and a box (Fang et al. 2021, YOLOS)."""

# B batch, T tokens, S segments (images in a row), Q detection tokens, D model, C classes

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.products import dot_general
from jaxfm.parallel.mesh import constrain, with_axes


class Found(NamedTuple):
    """What detection tokens say.

    Attributes:
      logits: f32 [B, S, Q, C + 1], the last class is "no object".
      boxes: f32 [B, S, Q, 4]: column and row of the middle, width and height, in shares of the image's sides.
    """

    logits: jax.Array
    boxes: jax.Array


class HiddenLayers(nnx.Module):
    """Two dense layers of the encoder's width, each with relu."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the layers."""
        self.first = _linear(config, config.hidden_size, dtype, rngs, "norm")
        self.second = _linear(config, config.hidden_size, dtype, rngs, "norm")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [..., D] of [..., D]."""
        return jax.nn.relu(self.second(jax.nn.relu(self.first(x))))


def _linear(config: EncoderConfig, count: int, dtype: jnp.dtype, rngs: nnx.Rngs, axis: str) -> nnx.Linear:
    """Returns a map of D to `count`; kernels are drawn as He et al. 2015 do for relu, biases are zero."""
    return nnx.Linear(
        config.hidden_size,
        count,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=with_axes(nnx.initializers.he_normal(), "embed", axis),
        bias_init=with_axes(nnx.initializers.zeros_init(), axis),
        rngs=rngs,
    )


class Detector(nnx.Module):
    """An encoder, and two heads of three layers over each detection token (as transformers' YOLOS)."""

    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        segments: int,
        inputs: InputModule | None = None,
    ):
        """Makes encoder and heads for rows of at most `segments` images; `inputs`: as `Encoder`."""
        self.encoder = Encoder(config, build, rngs, inputs)
        self.classes = HiddenLayers(config, build.dtype, rngs)
        self.head = _linear(config, num_classes + 1, build.dtype, rngs, "classes")
        self.boxes = HiddenLayers(config, build.dtype, rngs)
        self.box_head = _linear(config, 4, build.dtype, rngs, "classes")
        self.segments = segments

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> Found:
        """Returns classes and boxes, unspecified where a row has no such image; `key` turns dropout on."""
        return self.found(self.of_detection_tokens(self.encoder(batch, key=key), batch))

    def of_detection_tokens(self, x_BTD: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the hidden states of the detection tokens of each image [B, S, Q, D]."""
        patches = self.encoder.config.patches
        first = patches.prefix - patches.detection_tokens
        return take_tokens(x_BTD, batch, first, patches.detection_tokens, self.segments)

    def found(self, x: jax.Array) -> Found:
        """Returns what hidden states [..., D] of any tokens say: classes [..., C + 1] and boxes [..., 4]."""
        logits = self.head(self.classes(x)).astype(jnp.float32)
        boxes = self.box_head(self.boxes(x)).astype(jnp.float32)
        return Found(logits, jax.nn.sigmoid(boxes))


def take_tokens(x_BTD: jax.Array, batch: Mapping[str, jax.Array], first: int, count: int, segments: int) -> jax.Array:
    """Returns tokens `first` to `first + count` of the prefix of each image [B, S, count, D]; 0 for absent images.

    A product with one-hot vectors, not a gather: rows may be cut along their tokens.
    """
    cells_BT2, ids_BT = batch["cells"], batch["segment_ids"]
    number_BT = jnp.where(cells_BT2[..., 0] < 0, cells_BT2[..., 1] - first, -1)
    number_BT = jnp.where((number_BT >= 0) & (number_BT < count), (ids_BT - 1) * count + number_BT, -1)
    one_hot_BTN = jax.nn.one_hot(number_BT, segments * count, dtype=x_BTD.dtype)
    taken_BND = jnp.einsum("BTN,BTD->BND", one_hot_BTN, x_BTD, precision="highest")
    taken_BND = constrain(taken_BND, "batch", "segments", "features")
    return taken_BND.reshape(len(x_BTD), segments, count, x_BTD.shape[-1])
