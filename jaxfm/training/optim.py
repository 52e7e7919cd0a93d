"""AdamW, its schedules and its decay mask by parameter path."""

import fnmatch
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxfm.config import OptimConfig
from jaxfm.errors import UserError, did_you_mean

Schedule = Callable[[Any], Any]


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a key path of jax.tree_util as "encoder/layers/ffn/up/kernel"."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


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


def match_paths(params: Any, patterns: tuple[str, ...], key: str) -> Any:
    """Returns a tree of bools like `params`: does the parameter's path match one of the fnmatch patterns?

    Raises:
      UserError: a pattern that matches no parameter (a silent typo would change the run).
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            raise UserError(f"{key}: pattern {pattern!r} matches no parameter. {did_you_mean(pattern, paths)}")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(fnmatch.fnmatchcase(path_name(path), pattern) for pattern in patterns), params
    )


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


def make_optimizer(config: OptimConfig, schedule: Schedule, params: Any) -> optax.GradientTransformation:
    """Returns AdamW: clip by global norm, Adam, decoupled decay where no pattern of no_decay matches, rate.

    `params` may be abstract; only its paths are read. `update` takes the gradients' global norm as `norm`.
    """
    undecayed = match_paths(params, config.no_decay, "config.optim.no_decay")
    parts: list[optax.GradientTransformation] = [clip_by_known_norm(config.clip_norm)] if config.clip_norm else []
    parts += [
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=jax.tree.map(lambda skip: not skip, undecayed)),
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*parts)
