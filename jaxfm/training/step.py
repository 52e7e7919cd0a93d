"""One optimizer update: summed losses, summed gradients, one division, and never a NaN in the weights."""

# A micro-batches, B batch, T tokens

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxfm.core.objective import Loss, LossContext
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.training.adaptation import EVERYTHING, Adaptation
from jaxfm.training.micro_batches import cut
from jaxfm.training.private_gradients import RowPrivacy
from jaxfm.training.spikes import SpikeGuard
from jaxfm.training.state import TrainState

# (params, batch, context) -> Loss: an objective's loss with its model closed over.
LossFn = Callable[[Any, Mapping[str, jax.Array], LossContext], Loss]
# (state, sums, batch, constants) -> (state, sums)
StepFn = Callable[..., tuple[TrainState, Sums]]


def metric_names(
    loss_fn: LossFn, params: Any, batch: Mapping[str, Any], constants: Any = (), *, guard: SpikeGuard | None = None
) -> tuple[str, ...]:
    """Returns the names of the sums a step adds to, for (abstract) parameters, batch and constants."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    context = LossContext(key, jax.ShapeDtypeStruct((), jnp.float32), constants, key)
    own = jax.eval_shape(loss_fn, params, batch, context).metrics
    return (*own, "loss", "gradient_norm", "skipped", *(("spikes",) if guard else ()))


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


class Gradients(NamedTuple):
    """What a batch says of the parameters: sums, to be divided by the weight.

    Attributes:
      loss: f32 scalar.
      grads: a tree like the trained part of the parameters.
      weight: f32 scalar, the number of targets, or their weights.
      sums: of further metrics.
    """

    loss: jax.Array
    grads: Any
    weight: jax.Array
    sums: Sums


def make_gradients(
    loss_fn: LossFn,
    *,
    total_steps: int,
    accumulate: int = 1,
    adaptation: Adaptation = EVERYTHING,
    privacy: RowPrivacy | None = None,
) -> Callable[..., Gradients]:
    """Returns (moved, state, batch, constants) -> Gradients of the update that follows the state.

    `moved` is the trained part as the optimizer moves it (`moved_part`). Everything random is drawn from the state's
    key and step, so the same state and batch give the same gradients at any time.
    """
    partition = adaptation.partition

    def total(trained: Any, params: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Any:
        loss = loss_fn(partition.join(trained, params), batch, context)
        return loss.total, (loss.weight, loss.metrics)

    of_batch = jax.value_and_grad(total, has_aux=True)
    summed = _over_micro_batches(of_batch if privacy is None else privacy.of_rows(of_batch), accumulate)

    def gradients(moved: Any, state: TrainState, batch: Mapping[str, jax.Array], constants: Any = ()) -> Gradients:
        with jax.named_scope("random"):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        context = LossContext(key, state.step / total_steps, constants, key)
        loss, grads, weight, step_sums = summed(moved, state.params, batch, context)
        if privacy is not None:
            grads, weight = privacy.noised(grads, key), jnp.float32(privacy.expected)
            step_sums = privacy.metrics(step_sums)
        return Gradients(loss, adaptation.mask(grads, state.step), weight, step_sums)

    return gradients


def moved_part(state: TrainState, adaptation: Adaptation) -> Any:
    """Returns what of a state the optimizer moves."""
    return state.live_params if adaptation.averaging else adaptation.partition.trained(state.params)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    accumulate: int = 1,
    adaptation: Adaptation = EVERYTHING,
    guard: SpikeGuard | None = None,
    privacy: RowPrivacy | None = None,
) -> StepFn:
    """Returns (state, sums, batch, constants) -> (state after one update, sums with this step's metrics added).

    With `accumulate` = A the batch is cut into A micro-batches whose summed losses and gradients are added and divided
    once by the global weight: the update is that of the whole batch, whatever the spread of labels
    (huggingface/transformers#34191). A step whose gradient is not finite changes neither parameters nor optimizer
    state and is counted in the metric "skipped"; `step` goes on, so that the next batch and key differ.

    With a `guard` an update whose gradient norm is a spike is left out alike, and counted in the metric "spikes".

    Gradients are taken of the trained part of the parameters alone, as `adaptation` says; nothing touches the rest.

    With `privacy` the gradients are noised sums of clipped ones of single rows, divided by a fixed number, and there is
    no loss; what follows is computed from these.

    The optimizer's update may ask for the gradients' global norm, as `norm`, and for the step, as `step`. The loss is
    told how far the run of `total_steps` is, from 0 to 1, for whatever a task schedules.
    """
    partition = adaptation.partition
    of_rows = {"accumulate": accumulate, "adaptation": adaptation, "privacy": privacy}
    gradients = make_gradients(loss_fn, total_steps=total_steps, **of_rows)
    optimizer = optax.with_extra_args_support(optimizer)

    def train_step(
        state: TrainState, sums: Sums, batch: Mapping[str, jax.Array], constants: Any = ()
    ) -> tuple[TrainState, Sums]:
        # What is moved, and where `params` are an average of it, that average.
        trained = partition.trained(state.params)
        moved = (state.live_params, trained) if adaptation.averaging else (trained,)
        loss, grads, weight, step_sums = gradients(moved[0], state, batch, constants)
        divisor = jnp.maximum(weight, 1.0)
        with jax.named_scope("optimizer"):
            norm = optax.tree.norm(grads) / divisor

        def update(moved: tuple[Any, ...], opt_state: Any) -> tuple[tuple[Any, ...], Any]:
            old, *average = moved
            mean = jax.tree.map(lambda grad: grad * (1.0 / divisor), grads)
            updates, opt_state = optimizer.update(mean, opt_state, old, norm=norm, step=state.step)
            new = optax.apply_updates(old, updates)
            if adaptation.averaging is not None:
                average = [adaptation.averaging(average[0], new, opt_state, state.step)]
            return (new, *average), opt_state

        # A finite norm means finite gradients whose squares do not overflow either: the moments stay finite too.
        # A branch, not a select: XLA then updates the donated buffers in place (10 % of a step on CPU).
        healthy = jnp.isfinite(loss) & jnp.isfinite(norm)
        is_taken, is_spike, remembered = healthy, None, state.guard
        if guard is not None:
            with jax.named_scope("optimizer"):
                is_spike, remembered = guard.judge(state.guard, norm, healthy)
                is_taken = healthy & ~is_spike
        with jax.named_scope("optimizer"):
            moved, opt_state = lax.cond(is_taken, update, lambda *same: same, moved, state.opt_state)
        state = TrainState(
            step=state.step + 1,
            params=partition.put(moved[-1], state.params),
            opt_state=opt_state,
            key=state.key,
            live_params=moved[0] if adaptation.averaging else {},
            guard=remembered,
        )
        step_sums = {"loss": weighted(loss, weight), **step_sums} | {
            "gradient_norm": weighted(norm),
            "skipped": weighted(jnp.where(healthy, 0.0, 1.0)),
            **({} if is_spike is None else {"spikes": weighted(jnp.where(is_spike, 1.0, 0.0))}),
        }
        return state, metrics_lib.add(sums, step_sums)

    return train_step
