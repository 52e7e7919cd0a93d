"""A plugin as docs/extending.md shows it: a metric in euros, and a loss that goes easy on what is nearly right."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxfm


def cost(gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    """A person taken for a place costs 5, the other way round 1."""
    return sum(
        5.0 if is_person == "PER" else 1.0 for is_person, said in zip(gold, predicted, strict=True) if is_person != said
    )


def mean_absolute_error(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Ghosh et al. 2017: robust to wrong labels."""
    picked = jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
    return 2.0 * (1.0 - picked)


jaxfm.register_metric("cost", cost, less_is_better=True, task="classification")
jaxfm.register_loss("mae", mean_absolute_error)
