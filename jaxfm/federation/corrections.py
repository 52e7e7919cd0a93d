"""What federated methods change of a client's gradients, as an optimizer around the run's own."""

# x what the server sent, y the client's values, c_i and c the control variates of client and server

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

FEDAVG, FEDPROX, SCAFFOLD = METHODS = ("fedavg", "fedprox", "scaffold")


class Corrected(NamedTuple):
    """State of `corrected`. Trees are like the trained part of the parameters, or empty.

    Attributes:
      inner: of the optimizer inside.
      anchor: x (FedProx).
      offset: c - c_i (SCAFFOLD).
      total: sum of the client's own gradients so far (SCAFFOLD).
      count: int32 scalar, how many these are.
    """

    inner: Any
    anchor: Any
    offset: Any
    total: Any
    count: Any


def corrected(
    optimizer: optax.GradientTransformation, method: str, proximal: float = 0.0
) -> optax.GradientTransformation:
    """Returns the optimizer whose gradients are those that a method of federated training takes.

    FedProx adds `proximal` (y - x), the gradient of its proximal term (Li et al. 2020, equation 2); x are the values
    that `init` is given. SCAFFOLD adds c - c_i (Karimireddy et al. 2020, algorithm 1, line 10). FedAvg adds nothing,
    and the optimizer itself is returned. Clipping is told the norm of the corrected gradients.
    """
    if method == FEDAVG or (method == FEDPROX and not proximal):
        return optimizer
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Corrected:
        zeros = jax.tree.map(jnp.zeros_like, params) if method == SCAFFOLD else {}
        anchor = jax.tree.map(jnp.copy, params) if method == FEDPROX else {}
        return Corrected(inner.init(params), anchor, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **told: Any) -> tuple[Any, Any]:
        own, total = updates, state.total
        if method == FEDPROX:
            updates = jax.tree.map(lambda g, y, x: g + proximal * (y - x), own, params, state.anchor)
        else:
            total = jax.tree.map(jnp.add, total, own)
            updates = jax.tree.map(jnp.add, own, state.offset)
        told["norm"] = optax.tree.norm(updates)
        moved, of_inner = inner.update(updates, state.inner, params, **told)
        return moved, Corrected(of_inner, state.anchor, state.offset, total, state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def begin(opt_state: Any, step: Any, offset: Any = None) -> Any:
    """Returns a fresh state of local training that starts after `step` updates of the schedule.

    Moments are those of a client that remembers nothing; the rate is that of the whole run at this step. `offset`:
    c - c_i, for SCAFFOLD.
    """
    if offset is not None:
        opt_state = opt_state._replace(offset=offset)

    def moved(part: Any) -> Any:
        return part._replace(count=jnp.asarray(step, jnp.int32)) if is_schedule(part) else part

    def is_schedule(part: Any) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    return jax.tree.map(moved, opt_state, is_leaf=is_schedule)
