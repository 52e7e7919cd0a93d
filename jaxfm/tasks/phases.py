"""A loss that is one of two, by how far a run is, at the memory of one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal

from jaxfm.core.objective import Loss, LossContext

LossOf = Callable[[Any, Mapping[str, jax.Array], LossContext], Loss]


def one_of_two(
    is_first: jax.Array, losses: tuple[LossOf, LossOf], model: Any, batch: Mapping[str, jax.Array], context: LossContext
) -> Loss:
    """Returns the first of two losses where `is_first` holds, else the second; the other is not computed.

    Both give metrics of the same names. Under `jax.vmap` over `is_first` both are computed, and one is taken.

    The gradient of a `lax.cond` keeps what the backward passes of both branches need, the part of the branch that is
    not taken as zeros. So each branch computes its gradients in the forward pass: what it needs for them lives in the
    branch alone. Only parameters that are trained get any.
    """
    graphdef, state = nnx.split(model)
    leaves, tree = jax.tree.flatten(state)

    def total_of(loss: LossOf, leaves: Sequence[jax.Array], rest: Any) -> tuple[jax.Array, Any]:
        merged = nnx.merge(graphdef, jax.tree.unflatten(tree, leaves))
        total, weight, metrics = loss(merged, *rest)
        return total, (weight, metrics)

    @jax.custom_vjp
    def either(is_first: jax.Array, leaves: list[jax.Array], rest: Any) -> Any:
        first, second = (lambda *given, loss=loss: total_of(loss, *given) for loss in losses)
        return lax.cond(is_first, first, second, leaves, rest)

    def forward(is_first: CustomVJPPrimal, leaves: list[CustomVJPPrimal], rest: Any) -> Any:
        is_trained = [leaf.perturbed for leaf in leaves]
        values = [leaf.value for leaf in leaves]

        def with_gradients(loss: LossOf) -> Callable[..., Any]:
            def total(trained: list[jax.Array], values: list[jax.Array], rest: Any) -> Any:
                return total_of(loss, _put(trained, values, is_trained), rest)

            return jax.value_and_grad(total, has_aux=True)

        trained = [value for value, moves in zip(values, is_trained, strict=True) if moves]
        rest = jax.tree.map(lambda leaf: leaf.value, rest)
        found, gradients = lax.cond(is_first.value, *map(with_gradients, losses), trained, values, rest)
        nothing: list[Any] = [None] * len(leaves)
        return found, _put(gradients, nothing, is_trained)

    def backward(gradients: list[Any], cotangents: Any) -> Any:
        scale = cotangents[0]
        return None, [None if each is None else each * scale for each in gradients], None

    either.defvjp(forward, backward, symbolic_zeros=True)
    total, (weight, metrics) = either(is_first, leaves, (dict(batch), context))
    return Loss(total, weight, metrics)


def _put(trained: Sequence[Any], values: Sequence[Any], is_trained: Sequence[bool]) -> list[Any]:
    """Returns the values, those that are trained replaced by `trained`, which are in the same order."""
    moved = iter(trained)
    return [next(moved) if moves else value for value, moves in zip(values, is_trained, strict=True)]
