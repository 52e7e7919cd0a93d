"""AdamW, its schedules, and what of it differs by parameter path: decay, rates, when a parameter is first trained."""

# G groups by depth, see jaxfm.training.adaptation

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfm.config import OptimConfig
from jaxfm.errors import UserError
from jaxfm.training.adaptation import EVERYTHING, Adaptation
from jaxfm.training.paths import match_paths

Schedule = Callable[[Any], Any]


def make_schedule(config: OptimConfig, total_steps: int) -> Schedule:
    """Returns step (0-based count of updates done) -> learning rate of the next update.

    Linear warm-up over warmup_fraction of the steps, then the shape that config.schedule names. With no warm-up the
    linear schedule is that of transformers' Trainer: rate * (1 - step / total_steps).

    Raises:
      UserError: wsd whose warm-up and decay overlap.
    """
    peak, final = config.learning_rate, config.learning_rate * config.final_fraction
    warmup = round(config.warmup_fraction * total_steps)
    rest = max(total_steps - warmup, 1)
    if config.schedule == "linear":
        after = optax.linear_schedule(peak, final, rest)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction)
    elif config.schedule == "constant":
        after = optax.constant_schedule(peak)
    else:
        decay = max(round(config.decay_fraction * total_steps), 1)
        if warmup + decay > total_steps:
            raise UserError(
                f"config.optim.decay_fraction: {config.decay_fraction} and warmup_fraction {config.warmup_fraction} "
                f"overlap: {warmup} + {decay} steps of {total_steps}. Together they must not exceed 1."
            )
        after = optax.linear_schedule(peak, final, decay, transition_begin=rest - decay)
    if warmup == 0:
        return after
    # The first update already moves: rate peak / warmup, not 0.
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1)), after], [warmup])


def learning_rate_at(config: OptimConfig, total_steps: int, step: int) -> float:
    """Returns what `make_schedule(config, total_steps)(step)` gives, computed on the host.

    An optax schedule is a program of the devices, whose result is there when they have done all that was asked before.
    """
    peak, final = config.learning_rate, config.learning_rate * config.final_fraction
    warmup = round(config.warmup_fraction * total_steps)
    rest = max(total_steps - warmup, 1)
    if step < warmup:
        return peak / warmup + (peak - peak / warmup) * min(step / max(warmup - 1, 1), 1.0)
    step -= warmup
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine":
        return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(step / rest, 1.0)))
    falls = rest if config.schedule == "linear" else max(round(config.decay_fraction * total_steps), 1)
    return peak + (final - peak) * min(max(step - (rest - falls), 0) / falls, 1.0)


def clip_by_known_norm(limit: float) -> optax.GradientTransformationExtraArgs:
    """Scales gradients down to the global norm `limit`; `update` is told their norm as `norm`.

    The step knows it already (its guard against NaN). optax.clip_by_global_norm would read all gradients once more, and
    XLA would write the scaled ones out for it: 3 passes over memory as large as the model (profiles/NOTES.md).
    """

    def update(updates: Any, state: Any, params: Any = None, **told: Any) -> tuple[Any, Any]:
        del params
        norm = told["norm"]
        factor = jnp.where(norm < limit, 1.0, limit / norm)
        return jax.tree.map(lambda gradient: gradient * factor, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def scale_by_adam_per_group(
    b1: float, b2: float, eps: float, *, adaptation: Adaptation
) -> optax.GradientTransformationExtraArgs:
    """Adam whose bias correction counts the updates of each group by itself, from the one that it wakes for.

    `update` is told the run's step as `step`; gradients of what sleeps must be 0, and so are its moments.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        return optax.ScaleByAdamState(
            count=jnp.zeros(len(adaptation.unfreeze_steps), jnp.int32),
            mu=jax.tree.map(jnp.zeros_like, params),
            nu=jax.tree.map(jnp.zeros_like, params),
        )

    def update(updates: Any, state: Any, params: Any = None, **told: Any) -> tuple[Any, Any]:
        del params
        count_G = state.count + adaptation.unfrozen(told["step"])
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment(updates, state.nu, b2, 2)
        times_G = jnp.maximum(count_G, 1).astype(jnp.float32)  # a group that sleeps: 0 / 1
        mu_hat = adaptation.over_groups(lambda m, correction: m / correction, 1 - b1**times_G, mu)
        nu_hat = adaptation.over_groups(lambda v, correction: v / correction, 1 - b2**times_G, nu)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return updates, optax.ScaleByAdamState(count=count_G, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_group(adaptation: Adaptation) -> optax.GradientTransformationExtraArgs:
    """Multiplies updates by the rate of their group, and by 0 where it sleeps; `update` is told the step as `step`."""

    def update(updates: Any, state: Any, params: Any = None, **told: Any) -> tuple[Any, Any]:
        del params
        rates_G = jnp.asarray(adaptation.rates or (1.0,) * len(adaptation.unfreeze_steps), jnp.float32)
        if adaptation.unfreeze_steps:
            rates_G = jnp.where(adaptation.unfrozen(told["step"]), rates_G, 0.0)
        return adaptation.over_groups(jnp.multiply, rates_G, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def make_optimizer(
    config: OptimConfig, schedule: Schedule, params: Any, adaptation: Adaptation = EVERYTHING
) -> optax.GradientTransformation:
    """Returns AdamW of the trained part: clip by global norm, Adam, decoupled decay, rate.

    Decay is for what no pattern of no_decay matches, and a rate of its own for each group of `adaptation`. `params` are
    all of them, and may be abstract; only their paths are read. `update` takes the trained part of gradients and
    parameters, the gradients' global norm as `norm` and, where groups wake up, the run's step as `step`.
    """
    undecayed = match_paths(params, config.no_decay, "config.optim.no_decay", OptimConfig.no_decay)
    decayed = jax.tree.map(lambda skip: not skip, adaptation.partition.select(undecayed))
    waking = functools.partial(scale_by_adam_per_group, adaptation=adaptation)
    adam = waking if adaptation.unfreeze_steps else optax.scale_by_adam
    parts: list[optax.GradientTransformation] = [clip_by_known_norm(config.clip_norm)] if config.clip_norm else []
    parts += [
        adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        *([scale_by_group(adaptation)] if adaptation.rates or adaptation.unfreeze_steps else []),
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*parts)
