"""Metrics as (sum, weight) until the end, so that micro-batches, steps, devices and hosts add up exactly."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# name -> f32 [2]: sum and weight
Sums = dict[str, jax.Array]


def weighted(total: jax.Array | float, weight: jax.Array | float = 1.0) -> jax.Array:
    """Returns the f32 [2] array (sum, weight)."""
    return jnp.stack([jnp.asarray(total, jnp.float32), jnp.asarray(weight, jnp.float32)])


def add(left: Sums, right: Sums) -> Sums:
    """Adds two sets of sums with the same names."""
    return {name: left[name] + right[name] for name in left}


def zeros_like(sums: Mapping[str, Any]) -> Sums:
    """Returns sums of 0 with the names of `sums`, whose values may be abstract."""
    return {name: jnp.zeros((2,), jnp.float32) for name in sums}


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns sum / weight of each metric, NaN for a weight of 0; waits for the device."""
    pairs = {name: (float(value[0]), float(value[1])) for name, value in jax.device_get(dict(sums)).items()}
    return {name: total / weight if weight else float("nan") for name, (total, weight) in pairs.items()}
