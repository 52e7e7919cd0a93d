"""Models that see some patches of an image and predict the pixels of the others."""

# B batch, T tokens, K visible tokens, V values of a patch, D encoder, E decoder

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.inputs import InputModule, Inputs
from jaxfm.models.inputs.patches import HIDDEN, sine_positions
from jaxfm.models.relative import make_common
from jaxfm.models.stack import apply_layers, make_layers
from jaxfm.models.vectors import projection
from jaxfm.parallel.mesh import constrain, with_axes

# Of the variance of a patch, in the target (He et al. 2022, in their code).
_EPSILON = 1e-6
# A little more than the product, so that rounding down gives 3 for 0.75 of 4 in any arithmetic.
_ROUNDING = 1e-4


def hidden_patches(batch: Mapping[str, jax.Array], noise_BT: jax.Array, ratio: float) -> jax.Array:
    """Returns which patches [B, T] are hidden: of each image the `ratio` of them with the least noise, rounded down."""
    is_patch_BT = batch["cells"][..., 0] >= 0
    segment_ids_BT = batch["segment_ids"]
    before_BTT = (noise_BT[:, None, :] < noise_BT[:, :, None]) & is_patch_BT[:, None, :]
    # Of equal noise the earlier patch goes first, so that exactly as many are hidden as the ratio says.
    ties_BTT = (noise_BT[:, None, :] == noise_BT[:, :, None]) & is_patch_BT[:, None, :]
    tokens = noise_BT.shape[1]
    ties_BTT &= jnp.arange(tokens)[None, None, :] < jnp.arange(tokens)[None, :, None]
    same_BTT = segment_ids_BT[:, None, :] == segment_ids_BT[:, :, None]
    rank_BT = ((before_BTT | ties_BTT) & same_BTT).sum(axis=-1)
    patches_BT = batch["grids"][..., 0] * batch["grids"][..., 1]
    hidden_BT = rank_BT < jnp.floor(patches_BT * ratio + _ROUNDING).astype(jnp.int32)
    return constrain(hidden_BT & is_patch_BT, "batch", "tokens")


def visible_length(row_length: int, prefix: int, segments: int, ratio: float) -> int:
    """Returns the most tokens K of a row of `row_length` that the encoder sees: what no image fills is left out."""
    patches = row_length - prefix * segments
    # What is hidden of each image is rounded down, so that several hide less than one of as many patches would.
    hidden = int(patches * ratio + _ROUNDING) - (segments - 1)
    return min(row_length, prefix * segments + patches - hidden)


class VisibleRows(NamedTuple):
    """The visible tokens of rows.

    Attributes:
      batch: the fields of `models.inputs.patches` at these tokens, [B, K, ...]; padding after them.
      place_BT: where each token of the whole row stands among them, if it is visible.
      visible_BT: whether it is.
    """

    batch: dict[str, jax.Array]
    place_BT: jax.Array
    visible_BT: jax.Array


def visible_rows(batch: Mapping[str, jax.Array], hidden_BT: jax.Array, length: int) -> VisibleRows:
    """Moves the visible tokens of each row to its front and cuts it to `length`."""
    visible_BT = (batch["segment_ids"] > 0) & ~hidden_BT
    order_BK = jnp.argsort(~visible_BT, axis=-1, stable=True)[:, :length]
    kept_BK = jnp.take_along_axis(visible_BT, order_BK, axis=-1)
    fields = {}
    for name in ("pixels", "normalized", "segment_ids", "positions", "cells", "grids"):
        if name in batch:
            values = batch[name]
            index = order_BK.reshape(*order_BK.shape, *[1] * (values.ndim - 2))
            fields[name] = jnp.take_along_axis(values, index, axis=1)
    fields["segment_ids"] = jnp.where(kept_BK, fields["segment_ids"], 0)
    return VisibleRows(fields, jnp.cumsum(visible_BT, axis=-1) - 1, visible_BT)


class MaskedAutoencoder(nnx.Module):
    """An encoder of the visible patches and a light decoder of all of them (He et al. 2022, MAE, section 3).

    The decoder has fixed waves as positions, whatever the encoder has.
    """

    def __init__(
        self,
        config: EncoderConfig,
        build: Build,
        rngs: nnx.Rngs,
        *,
        decoder: EncoderConfig,
        visible: int,
        inputs: InputModule | None = None,
    ):
        """Makes both; `visible` is the most tokens K of a row that the encoder sees; `inputs`: as `Encoder`."""
        self.encoder = Encoder(config, build, rngs, inputs)
        self.embed = projection(config, decoder.hidden_size, build.dtype, rngs, bias=True)
        init = with_axes(nnx.initializers.truncated_normal(config.initializer_range), "prefix", "embed")
        self.mask_token = nnx.Param(init(rngs.params(), (1, decoder.hidden_size), jnp.float32))
        self.decoder_layers = make_layers(decoder, build.dtype, rngs)
        self.decoder_common = make_common(decoder, build.dtype, rngs)
        self.pixels = projection(
            config, config.patches.values, build.dtype, rngs, inputs=decoder.hidden_size, bias=True
        )
        self.decoder, self.visible = decoder, visible
        self.build = dataclasses.replace(build, frozen_layers=0)

    def __call__(
        self, batch: Mapping[str, jax.Array], hidden_BT: jax.Array, *, key: DropoutKey | None = None
    ) -> jax.Array:
        """Returns predicted values f32 [B, T, V] of all patches; `key` turns dropout on."""
        encoder_key, decoder_key = split_key(key, 2)
        rows = visible_rows(batch, hidden_BT, self.visible)
        seen_BKE = self.embed(self.encoder(rows.batch, key=encoder_key))
        place_BT1 = jnp.clip(rows.place_BT, 0, self.visible - 1)[..., None]
        x_BTE = jnp.take_along_axis(seen_BKE, place_BT1, axis=1)
        x_BTE = jnp.where(rows.visible_BT[..., None], x_BTE, self.mask_token[...].astype(x_BTE.dtype))
        cells_BT2 = batch["cells"]
        waves_BTE = sine_positions(cells_BT2, self.decoder.hidden_size)
        x_BTE = x_BTE + jnp.where(cells_BT2[..., :1] >= 0, waves_BTE, 0.0).astype(x_BTE.dtype)
        x_BTE = constrain(x_BTE, "batch", "tokens", "features")
        x_BTE = apply_layers(
            self.decoder,
            self.decoder_layers,
            self.decoder_common,
            Inputs(x_BTE, batch["segment_ids"], batch["positions"]),
            self.build,
            key=decoder_key,
        )
        return self.pixels(x_BTE).astype(jnp.float32)


class MaskedEncoder(nnx.Module):
    """An encoder that sees a learned vector in place of hidden patches, and a linear map to pixels (SimMIM)."""

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs, *, inputs: InputModule | None = None):
        """Makes encoder and map (Xie et al. 2022, section 3); `inputs`: as `Encoder`."""
        assert config.patches.mask_token
        self.encoder = Encoder(config, build, rngs, inputs)
        self.pixels = projection(config, config.patches.values, build.dtype, rngs, bias=True)

    def __call__(
        self, batch: Mapping[str, jax.Array], hidden_BT: jax.Array, *, key: DropoutKey | None = None
    ) -> jax.Array:
        """Returns predicted values f32 [B, T, V] of all patches; `key` turns dropout on."""
        return self.pixels(self.encoder({**batch, HIDDEN: hidden_BT}, key=key)).astype(jnp.float32)


def decoder_config(config: EncoderConfig, width: int, layers: int) -> EncoderConfig:
    """Returns the shape of a decoder: the encoder's kind of layers, narrower and fewer, heads at most as wide."""
    heads = max(count for count in range(1, max(width // min(config.head_dim, width), 1) + 1) if width % count == 0)
    return dataclasses.replace(
        config, hidden_size=width, num_layers=layers, num_heads=heads, num_kv_heads=0, head_size=0, ffn_size=4 * width,
        position_embedding="sine", layer_groups=0, lora_rank=0, adapter_size=0, prefix_length=0,
    )  # fmt: skip


class Statistics(NamedTuple):
    """What the target of each patch is normalised by, f32 [B, T, 1]."""

    mean: jax.Array
    deviation: jax.Array


def patch_statistics(values_BTV: jax.Array) -> Statistics:
    """Returns the mean of each patch and the root of its variance (of a sample: divided by V - 1) and a little."""
    variance = jnp.var(values_BTV, axis=-1, keepdims=True, ddof=1)
    return Statistics(values_BTV.mean(axis=-1, keepdims=True), jnp.sqrt(variance + _EPSILON))
