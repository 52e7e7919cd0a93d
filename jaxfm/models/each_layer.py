"""An encoder layer by layer: what each layer gives, and what its attention takes of which token."""

# B batch, T tokens, D model, N heads

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.attention import AttentionSpec, attention_specs, horizons, local_mask
from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.kernels import XLA
from jaxfm.models.stack import EncoderLayer, make_layer_inputs


def attention_problem(config: EncoderConfig) -> str:
    """Returns why an encoder's attention is not a share of its tokens; "" where it is."""
    if config.prefix_length:
        return "its layers attend to a learned prefix (config.adapt.prefix), which is no part of the input."
    return ""


def each_layer(
    encoder: Encoder, batch: Mapping[str, jax.Array], *, weights: bool = False
) -> Iterator[tuple[jax.Array, jax.Array | None]]:
    """Yields what the layers read first and then what each of them gives, [B, T, D], without dropout.

    With `weights` what each layer gives comes with its attention [B, N, T, T] (query, key), a softmax over keys. The
    layers are computed one by one in the program that calls this, not in a loop: what is not used costs nothing.
    """
    config = encoder.config
    inputs = encoder.embeddings(batch, None)
    specs = _whole_masks(config, encoder.build, inputs)
    of_period = make_layer_inputs(config, specs, encoder.common, inputs.positions_BT)
    graphdef, parameters = nnx.split(encoder.layers)
    first_norm = None if encoder.common is None else encoder.common.first_norm
    x_BTD = inputs.x_BTD
    normed_BTD = x_BTD if first_norm is None else first_norm(x_BTD)
    yield normed_BTD, None
    for number in range(config.num_layers):
        stack = number * config.layer_groups // config.num_layers if config.layer_groups else number
        layer: EncoderLayer = nnx.merge(graphdef, jax.tree.map(lambda leaf, stack=stack: leaf[stack], parameters))
        layer_inputs = of_period[number % len(of_period)]
        weights_BTNT = layer.attention.weights(normed_BTD, layer_inputs) if weights else None
        stream = layer((x_BTD, normed_BTD) if config.pre_norm else x_BTD, layer_inputs, None)
        x_BTD, normed_BTD = stream if config.pre_norm else (stream, stream)
        yield normed_BTD, None if weights_BTNT is None else jnp.swapaxes(weights_BTNT, 1, 2)


def rollout(encoder: Encoder, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns how much of each input token (last axis) is in each token after the last layer, f32 [B, T, T].

    Of each layer half of a token stays and half is what it attends to, the mean over heads; the layers' matrices are
    multiplied (Abnar and Zuidema 2020, section 3). A row sums to 1.
    """
    tokens = batch["segment_ids"].shape[1]
    rolled_BTT = jnp.broadcast_to(jnp.eye(tokens), (len(batch["segment_ids"]), tokens, tokens))
    for _, weights_BNTT in each_layer(encoder, batch, weights=True):
        if weights_BNTT is not None:
            mean_BTT = weights_BNTT.astype(jnp.float32).mean(axis=1)
            rolled_BTT = 0.5 * rolled_BTT + 0.5 * jnp.matmul(mean_BTT, rolled_BTT, precision="highest")
    return rolled_BTT


def _whole_masks(config: EncoderConfig, build: Build, inputs: Inputs) -> tuple[AttentionSpec, ...]:
    """Returns what the layers see, by no kernel and not cut into chunks: all weights of a row are asked for."""
    plain = Build(build.dtype, attention=AttentionConfig(XLA))
    _, segment_ids_BT, positions_BT, horizons_BT = inputs
    specs = attention_specs(config, plain, segment_ids_BT, positions_BT, horizons_BT, training=False)
    last_BT = horizons(config.sight, positions_BT, horizons_BT)
    return tuple(
        spec._replace(mask=local_mask(segment_ids_BT, positions_BT, spec.window_radius, 0, last_BT), chunk=0)
        if spec.chunk
        else spec
        for spec in specs
    )
