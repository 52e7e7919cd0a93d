"""A batch cut into micro-batches, and put together again."""

# A micro-batches, B batch

from typing import Any

import jax
import jax.numpy as jnp


def cut(batch: Any, count: int) -> Any:
    """Returns arrays [A, B / A, ...] of arrays [B, ...].

    Rows i, i + A, i + 2 A ... form micro-batch i: each keeps the batch's sharding without moving a row.
    """
    return jax.tree.map(lambda rows: jnp.swapaxes(rows.reshape(-1, count, *rows.shape[1:]), 0, 1), batch)


def join(parts: Any) -> Any:
    """Returns arrays [B, ...] of arrays [A, B / A, ...]: the inverse of `cut`."""
    return jax.tree.map(lambda rows: jnp.swapaxes(rows, 0, 1).reshape(-1, *rows.shape[2:]), parts)
