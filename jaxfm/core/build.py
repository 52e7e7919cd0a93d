"""How a model computes, never what: everything here leaves parameters and results as they are, to rounding."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """By what attention is computed.

    Attributes:
      path: `config.model.attention`.
      one_segment: every row holds one segment, from its first token on (`config.data.packed` is False).
    """

    path: str = "auto"
    one_segment: bool = False


@dataclasses.dataclass(frozen=True)
class Build:
    """Options that a model is built with.

    Attributes:
      dtype: of activations; parameters are always f32.
      scan: layers are looped over by one compiled body (fast to compile); False: unrolled (faster on CPU).
      remat: what of a layer the backward pass computes again (`config.model.remat`).
      attention: by what attention is computed.
      frozen_layers: lowest layers whose parameters have no gradient.
    """

    dtype: jnp.dtype = dataclasses.field(default=jnp.dtype(jnp.float32))
    scan: bool = True
    remat: str = "none"
    attention: AttentionConfig = AttentionConfig()
    frozen_layers: int = 0


DEFAULT_BUILD = Build()
