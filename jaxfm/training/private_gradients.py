"""Gradients of single rows, clipped and summed, and noise on the sum: what DP-SGD changes of a step.

Abadi et al. 2016, algorithm 1. A row's gradient is that of the mean of its own targets, scaled to a norm of at most C
over all trained parameters; the noise N(0, (z C)^2) is added once to the sum of the whole batch, and all is divided by
B, the expected number of rows, however many came: on what is divided by B the noise has the deviation z C / B.
(google-deepmind/jax_privacy#395 divided it once too often.)
"""

# R rows of a micro-batch, B expected rows of a batch

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfm.observe.metrics import Sums, weighted

_NOISE = 0x6E6F6973
"""Tells the noise from other draws of a step's key."""
_ROUNDING = 1e-5  # f32: a clipped norm is below the bound, not at it


@dataclasses.dataclass(frozen=True)
class RowPrivacy:
    """How the gradients of a step are made private.

    Attributes:
      clip_norm: C.
      noise: z, the noise multiplier.
      expected: B, the rows of a batch on average, by which sums are divided.
    """

    clip_norm: float
    noise: float
    expected: int

    def of_rows(self, gradients: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the gradients of single rows, clipped and summed, in the form of those of a batch.

        Args:
          gradients: (trained, params, batch, context) -> ((loss, (weight, metric sums)), gradients), sums.

        Loss, weight and metrics are nothing: those of training would tell of its rows.
        """

        def summed(trained: Any, params: Any, batch: Mapping[str, jax.Array], context: Any) -> Any:
            rows = len(next(iter(batch.values())))

            def of_row(row: Any, key: jax.Array) -> Any:
                alone = jax.tree.map(lambda field: field[None], row)
                (_, (weight, sums)), grads = gradients(trained, params, alone, context._replace(key=key))
                return clipped(grads, self.clip_norm, weight), dict.fromkeys(sums, weighted(0.0, 0.0))

            of_rows, nothing = jax.vmap(of_row)(dict(batch), jax.random.split(context.key, rows))
            grads, sums = jax.tree.map(lambda each: each.sum(axis=0), (of_rows, nothing))
            zero = jnp.float32(0.0)
            return (zero, (zero, sums)), grads

        return summed

    def noised(self, grads: Any, key: jax.Array) -> Any:
        """Returns sums of gradients with noise, which is a function of the step's key."""
        leaves, structure = jax.tree.flatten(grads)
        keys = jax.random.split(jax.random.fold_in(key, _NOISE), len(leaves))
        deviation = self.noise * self.clip_norm
        noised = [
            leaf + deviation * jax.random.normal(each, leaf.shape, leaf.dtype)
            for leaf, each in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(structure, noised)

    def metrics(self, sums: Sums) -> Sums:
        """Returns metric sums without the loss, which a step adds by itself."""
        return {**sums, "loss": weighted(0.0, 0.0)}


def clipped(grads: Any, clip_norm: float, weight: jax.Array) -> Any:
    """Returns the gradient of a row's mean loss, of at most that norm over all leaves; zeros where it is not finite.

    Args:
      grads: of the SUM of the row's losses.
      clip_norm: the bound.
      weight: what the sum is divided by; 0 for a row that only fills up a batch, or one without targets.
    """
    divisor = jnp.where(weight > 0, weight, 1.0)
    norm = optax.tree.norm(grads) / divisor
    scale = jnp.minimum(1.0, clip_norm * (1 - _ROUNDING) / jnp.maximum(norm, 1e-30)) / divisor
    counts = jnp.isfinite(norm) & (weight > 0)
    return jax.tree.map(lambda grad: jnp.where(counts, grad * scale, 0.0), grads)
