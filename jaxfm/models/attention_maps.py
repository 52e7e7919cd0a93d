"""Which patches of an image the last layer of an encoder attends to."""

# B batch, T tokens, N heads, D model

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.models.attention import MASKED, segment_mask
from jaxfm.models.encoder import Encoder
from jaxfm.models.layer_outputs import attention_scores
from jaxfm.models.stack import apply_layers


def last_attention(encoder: Encoder, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns what each token gets of the attention of its image's first token in the last layer, f32 [B, T].

    It is the mean over heads, and sums to 1 over the tokens of an image. The first token is the class token, which
    classes are read from; where there is none, it is the mean over all tokens of the image.

    Args:
      encoder: of images, with norms before its parts and no relative positions.
      batch: of the fields of `models.inputs.patches`.
    """
    config = encoder.config
    assert config.pre_norm and not config.has_relative_positions and not config.layer_groups and not config.local_window
    inputs = encoder.embeddings(batch, None)
    graphdef, parameters = nnx.split(encoder.layers)
    normed_BTD = inputs.x_BTD
    if config.num_layers > 1:
        before = jax.tree.map(lambda leaf: leaf[:-1], parameters)
        shorter = dataclasses.replace(config, num_layers=config.num_layers - 1)
        build = dataclasses.replace(encoder.build, frozen_layers=0)
        normed_BTD = apply_layers(shorter, nnx.merge(graphdef, before), encoder.common, inputs, build)
    elif encoder.common is not None and encoder.common.first_norm is not None:
        normed_BTD = encoder.common.first_norm(normed_BTD)
    scores_BNTT = attention_scores(encoder, config.num_layers - 1, normed_BTD, inputs.positions_BT)
    scores_BNTT = jnp.where(segment_mask(inputs.segment_ids_BT), scores_BNTT, MASKED)
    weights_BTT = jax.nn.softmax(scores_BNTT, axis=-1).mean(axis=1)
    queries_BT = inputs.segment_ids_BT > 0
    if config.patches.class_token:
        queries_BT &= (batch["cells"][..., 0] < 0) & (batch["cells"][..., 1] == 0)
    same_BTT = inputs.segment_ids_BT[:, :, None] == inputs.segment_ids_BT[:, None, :]
    asked_BTT = (queries_BT[:, :, None] & same_BTT).astype(jnp.float32)
    asked_BTT /= jnp.maximum(asked_BTT.sum(axis=1, keepdims=True), 1.0)
    return jnp.einsum("BTS,BTS->BS", asked_BTT, weights_BTT)
