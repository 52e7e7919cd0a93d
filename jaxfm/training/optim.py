"""The optimizer of a run, and what of it differs by parameter path: decay, rates, when a parameter is first trained."""

# G groups by depth, see jaxfm.training.adaptation

import types
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfm.models.adapters import is_input_range
from jaxfm.optim_config import OptimConfig
from jaxfm.training import optimizers
from jaxfm.training.adaptation import EVERYTHING, Adaptation
from jaxfm.training.paths import match_paths, path_name
from jaxfm.training.rate_schedules import Schedule

_RANGE_RATE = 100.0
# Every parameter has the same rate.
NO_FACTORS: Mapping[str, float] = types.MappingProxyType({})


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


def scale_by_path(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of the parameters that `factors` names by path; all others stay as they are."""

    def scaled(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        factor = factors.get(path_name(path), 1.0)
        return update if factor == 1.0 else update * factor

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scaled, updates))


def range_rates(params: Any) -> dict[str, float]:
    """Returns path -> factor of the rate of each learned range of inputs among (abstract) parameters.

    It is a logarithm, which has to move by hundredths where weights move by ten-thousandths (Jain et al. 2020, "Trained
    quantization thresholds", section 5.2: a rate of 1e-2 for it).
    """
    names = (path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    return {name: _RANGE_RATE for name in names if is_input_range(name)}


def make_optimizer(
    config: OptimConfig,
    schedule: Schedule,
    params: Any,
    adaptation: Adaptation = EVERYTHING,
    rates: Mapping[str, float] = NO_FACTORS,
) -> optax.GradientTransformation:
    """Returns the optimizer of the trained part: clip by global norm, and what `optimizers.TABLE` has for its name.

    Decay is for what no pattern of no_decay matches and is not a range of inputs, and a rate of its own for each group
    of `adaptation`. `params` are all of them, and may be abstract; only their paths are read. `rates` has a factor of
    Adam's direction by path, which decay does not have (`training/mup.py`). `update` takes the trained part of
    gradients and parameters, the gradients' global norm as `norm` and, where groups wake up, the run's step as `step`.

    Raises:
      UserError: a pattern that matches nothing. (What is wrong with the settings, `optimizers.check` says.)
    """
    undecayed = match_paths(params, config.no_decay, "config.optim.no_decay", OptimConfig.no_decay)
    decayed = jax.tree_util.tree_map_with_path(
        lambda path, skip: not (skip or is_input_range(path_name(path))), adaptation.partition.select(undecayed)
    )
    settings: dict[str, Any] = {"b1": config.b1, "b2": config.b2, "eps": config.eps}
    wakes = bool(adaptation.unfreeze_steps)
    parts = optimizers.Parts(
        optim=config,
        adam=scale_by_adam_per_group(**settings, adaptation=adaptation) if wakes else optax.scale_by_adam(**settings),
        decay=(
            *([scale_by_path(rates)] if rates else []),
            optax.add_decayed_weights(config.weight_decay, mask=decayed),
        ),
        decayed=decayed,
        rate=(
            *([scale_by_group(adaptation)] if adaptation.rates or wakes else []),
            optax.scale_by_learning_rate(schedule),
        ),
        schedule=schedule,
    )
    clip = [clip_by_known_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(*clip, *optimizers.TABLE[config.name].make(parts))
