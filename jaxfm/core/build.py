"""How a model computes, never what: everything here leaves parameters and results as they are, to rounding."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """The kernel that computes attention, and what it may rely on.

    Attributes:
      path: `config.model.attention`.
      one_segment: every row holds one segment, which starts at its first token (`config.data.packed` is False).
    """

    path: str = "auto"
    one_segment: bool = False


@dataclasses.dataclass(frozen=True)
class Build:
    """Options that a model is built with.

    Attributes:
      dtype: of activations; parameters are always f32.
      scan: layers are looped over by one compiled body (fast to compile); False: unrolled (faster on CPU).
      remat: the part of a layer that the backward pass computes again (`config.model.remat`).
      attention: the kernel that computes attention.
      frozen_layers: number of the lowest layers whose parameters have no gradient (`config.adapt.freeze_layers`).
    """

    dtype: jnp.dtype = dataclasses.field(default=jnp.dtype(jnp.float32))
    scan: bool = True
    remat: str = "none"
    attention: AttentionConfig = AttentionConfig()
    frozen_layers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "dtype", jnp.dtype(self.dtype)
        )  # jnp.bfloat16, a class, is equal to it but hashes otherwise


DEFAULT_BUILD = Build()
