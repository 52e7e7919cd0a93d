"""How fresh kernels are drawn."""

import functools
import math

import jax
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig


def kernel_init(config: EncoderConfig, inputs: int, outputs: int, *, residual: bool = False) -> nnx.Initializer:
    """Returns what draws the kernel of a linear map, as `EncoderConfig.initializer` says.

    "normal": N(0, initializer_range), cut at two deviations; kernels that write to the residual stream are narrower by
    sqrt(2 L), the number of such writes (GPT-2: Radford et al. 2019, section 2.3; Megatron-LM: Shoeybi et al. 2019,
    section 4). "xavier": uniform with variance 2 / (inputs + outputs) (Glorot and Bengio 2010, equation 16), all alike,
    as Dosovitskiy et al. 2021 and He et al. 2022 (appendix A.1) train vision transformers.

    Args:
      config: of the encoder.
      inputs: numbers in.
      outputs: numbers out.
      residual: the map writes to the residual stream.
    """
    if config.initializer == "xavier":
        limit = math.sqrt(6.0 / (inputs + outputs))
        return functools.partial(jax.random.uniform, minval=-limit, maxval=limit)
    narrower = math.sqrt(2 * config.num_layers) if residual else 1.0
    return nnx.initializers.truncated_normal(config.initializer_range / narrower)
