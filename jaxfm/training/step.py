"""One optimizer update: summed losses, summed gradients, one division, and never a NaN in the weights."""

# A micro-batches, B batch, T tokens

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxfm.core.objective import Loss, LossContext
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.training.adaptation import EVERYTHING, Adaptation
from jaxfm.training.micro_batches import cut
from jaxfm.training.state import TrainState

# (params, batch, context) -> Loss: an objective's loss with its model closed over.
LossFn = Callable[[Any, Mapping[str, jax.Array], LossContext], Loss]
# (state, sums, batch, constants) -> (state, sums)
StepFn = Callable[..., tuple[TrainState, Sums]]


def metric_names(loss_fn: LossFn, params: Any, batch: Mapping[str, Any], constants: Any = ()) -> tuple[str, ...]:
    """Returns the names of the sums a step adds to, for (abstract) parameters, batch and constants."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    context = LossContext(key, jax.ShapeDtypeStruct((), jnp.float32), constants)
    return (*jax.eval_shape(loss_fn, params, batch, context).metrics, "loss", "gradient_norm", "skipped")


def _over_micro_batches(gradients: Callable[..., Any], accumulate: int) -> Callable[..., Any]:
    """Returns (trained, params, batch, context) -> (loss, gradients, weight, metric sums), all of them sums."""

    def summed(
        trained: Any, params: Any, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[jax.Array, Any, jax.Array, Sums]:
        if accumulate == 1:
            (loss, (weight, sums)), grads = gradients(trained, params, batch, context)
            return loss, grads, weight, sums
        micro = cut(dict(batch), accumulate)
        keys = jax.random.split(context.key, accumulate)

        def one(index_batch: Any) -> Any:
            part, part_key = index_batch
            (loss, (weight, sums)), grads = gradients(trained, params, part, context._replace(key=part_key))
            return loss, grads, weight, sums

        def body(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(part)), None

        shapes = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], (micro, keys)))
        start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return lax.scan(body, start, (micro, keys))[0]

    return summed


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    accumulate: int = 1,
    adaptation: Adaptation = EVERYTHING,
) -> StepFn:
    """Returns (state, sums, batch, constants) -> (state after one update, sums with this step's metrics added).

    With `accumulate` = A the batch is cut into A micro-batches whose summed losses and gradients are added and divided
    once by the global weight: the update is that of the whole batch, whatever the spread of labels
    (huggingface/transformers#34191). A step whose gradient is not finite changes neither parameters nor optimizer
    state and is counted in the metric "skipped"; `step` goes on, so that the next batch and key differ.

    Gradients are taken of the trained part of the parameters alone, as `adaptation` says; nothing touches the rest.

    The optimizer's update may ask for the gradients' global norm, as `norm`, and for the step, as `step`. The loss is
    told how far the run of `total_steps` is, from 0 to 1, for whatever a task schedules.
    """
    partition = adaptation.partition

    def total(trained: Any, params: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Any:
        loss = loss_fn(partition.join(trained, params), batch, context)
        return loss.total, (loss.weight, loss.metrics)

    gradients = jax.value_and_grad(total, has_aux=True)
    summed = _over_micro_batches(gradients, accumulate)
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(
        state: TrainState, sums: Sums, batch: Mapping[str, jax.Array], constants: Any = ()
    ) -> tuple[TrainState, Sums]:
        with jax.named_scope("random"):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        # What is moved, and where `params` are an average of it, that average.
        trained = partition.trained(state.params)
        moved = (state.live_params, trained) if adaptation.ema else (trained,)
        context = LossContext(key, state.step / total_steps, constants)
        loss, grads, weight, step_sums = summed(moved[0], state.params, batch, context)
        grads = adaptation.mask(grads, state.step)
        divisor = jnp.maximum(weight, 1.0)
        with jax.named_scope("optimizer"):
            norm = optax.tree.norm(grads) / divisor

        def update(moved: tuple[Any, ...], opt_state: Any) -> tuple[tuple[Any, ...], Any]:
            old, *average = moved
            mean = jax.tree.map(lambda grad: grad * (1.0 / divisor), grads)
            updates, opt_state = optimizer.update(mean, opt_state, old, norm=norm, step=state.step)
            new = optax.apply_updates(old, updates)
            return (new, *(adaptation.average(kept, new, state.step) for kept in average)), opt_state

        # A finite norm means finite gradients whose squares do not overflow either: the moments stay finite too.
        # A branch, not a select: XLA then updates the donated buffers in place (10 % of a step on CPU).
        healthy = jnp.isfinite(loss) & jnp.isfinite(norm)
        with jax.named_scope("optimizer"):
            moved, opt_state = lax.cond(healthy, update, lambda *same: same, moved, state.opt_state)
        state = TrainState(
            step=state.step + 1,
            params=partition.put(moved[-1], state.params),
            opt_state=opt_state,
            key=state.key,
            live_params=moved[0] if adaptation.ema else {},
        )
        step_sums = step_sums | {
            "loss": weighted(loss, weight),
            "gradient_norm": weighted(norm),
            "skipped": weighted(jnp.where(healthy, 0.0, 1.0)),
        }
        return state, metrics_lib.add(sums, step_sums)

    return train_step
