"""Vectors of texts and images: the tokens they are pooled from, the map to them, their length."""

# B batch, T tokens, D model, E embedding

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.initializers import kernel_init
from jaxfm.models.products import dot_general
from jaxfm.parallel.mesh import constrain, with_axes

# exp(log_scale) is cut off here: Radford et al. 2021, section 2.5.
LARGEST_SCALE = 100.0


def projection(
    config: EncoderConfig,
    dimension: int,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
    *,
    inputs: int | None = None,
    bias: bool = False,
) -> nnx.Linear:
    """Returns a linear map of `inputs` numbers (default: D) to `dimension`."""
    return nnx.Linear(
        inputs or config.hidden_size,
        dimension,
        use_bias=bias,
        dtype=dtype,
        dot_general=dot_general,
        bias_init=with_axes(nnx.initializers.zeros_init(), "norm"),
        kernel_init=with_axes(kernel_init(config, inputs or config.hidden_size, dimension), "embed", "norm"),
        rngs=rngs,
    )


def pooled_tokens(segment_ids_BT: jax.Array, positions_BT: jax.Array, pooling: str) -> jax.Array:
    """Returns which tokens [B, T] the vector of their segment is the mean of."""
    if pooling == "mean":
        return jnp.ones_like(segment_ids_BT, bool)
    if pooling == "cls":
        return positions_BT == 0
    following_BT = jnp.pad(segment_ids_BT[:, 1:], ((0, 0), (0, 1)))
    return constrain(segment_ids_BT != following_BT, "batch", "tokens")


def normalized(x: jax.Array) -> jax.Array:
    """Returns vectors [..., E] divided by their length; zero stays zero, with a gradient of zero."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    # The inner `where` keeps the gradient of the root at zero from being infinite.
    length = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return x / length
