"""The learning rate of each update: a table of shapes, each as the optimizer computes it and as the host does."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxfm.errors import UserError
from jaxfm.optim_config import OptimConfig

Schedule = Callable[[Any], Any]

# The rate that a one-cycle schedule begins with, as a share of the peak (torch's OneCycleLR: div_factor=25).
_ONE_CYCLE_START = 1 / 25


@dataclasses.dataclass(frozen=True)
class _Span:
    """What a shape is computed from.

    Attributes:
      peak: rate at the end of the warm-up.
      final_fraction: rate at the end of the run, as a share of the peak.
      final: that rate.
      warmup: updates of the warm-up.
      rest: updates after it, at least 1.
      falls: of these, the last ones, in which a wsd schedule falls.
      power: of a polynomial.
    """

    peak: float
    final_fraction: float
    final: float
    warmup: int
    rest: int
    falls: int
    power: float


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape of the rate after the warm-up.

    Attributes:
      device: span -> the schedule of updates after the warm-up, counted from 0, as a program of the devices.
      host: (span, update after the warm-up) -> the same number, computed on the host.
      keys: keys of `config.optim` that this shape alone reads.
      cosine_warmup: the warm-up is half a cosine from `_ONE_CYCLE_START`, not a straight line.
    """

    device: Callable[[_Span], Schedule]
    host: Callable[[_Span, int], float]
    keys: tuple[str, ...] = ()
    cosine_warmup: bool = False


def _cosine(span: _Span, time: float) -> float:
    return span.final + (span.peak - span.final) * 0.5 * (1 + math.cos(math.pi * min(time, 1.0)))


def _inverse_sqrt(span: _Span) -> Schedule:
    timescale = max(span.warmup, 1)

    def schedule(step: Any) -> Any:
        done = jnp.maximum(step, 0)  # join_schedules asks for the warm-up's updates too, and takes none of them
        return jnp.maximum(span.peak * jnp.sqrt(timescale / (timescale + done)), span.final)

    return schedule


def _inverse_sqrt_on_host(span: _Span, step: int) -> float:
    timescale = max(span.warmup, 1)
    return max(span.peak * math.sqrt(timescale / (timescale + step)), span.final)


def _polynomial_on_host(span: _Span, step: int) -> float:
    return span.final + (span.peak - span.final) * (1 - min(step / span.rest, 1.0)) ** span.power


_COSINE = Shape(
    lambda span: optax.cosine_decay_schedule(span.peak, span.rest, alpha=span.final_fraction),
    lambda span, step: _cosine(span, step / span.rest),
)
SHAPES = {
    "linear": Shape(
        lambda span: optax.linear_schedule(span.peak, span.final, span.rest),
        lambda span, step: span.peak + (span.final - span.peak) * min(step / span.rest, 1.0),
    ),
    "cosine": _COSINE,
    "constant": Shape(lambda span: optax.constant_schedule(span.peak), lambda span, step: span.peak),
    "wsd": Shape(
        lambda span: optax.linear_schedule(span.peak, span.final, span.falls, transition_begin=span.rest - span.falls),
        lambda span, step: (
            span.peak + (span.final - span.peak) * min(max(step - (span.rest - span.falls), 0) / span.falls, 1.0)
        ),
        ("decay_fraction",),
    ),
    "inverse_sqrt": Shape(_inverse_sqrt, _inverse_sqrt_on_host),
    "polynomial": Shape(
        lambda span: optax.polynomial_schedule(span.peak, span.final, span.power, span.rest),
        _polynomial_on_host,
        ("decay_power",),
    ),
    "one_cycle": dataclasses.replace(_COSINE, cosine_warmup=True),
}


def make_schedule(config: OptimConfig, total_steps: int) -> Schedule:
    """Returns step (0-based count of updates done) -> learning rate of the next update.

    A warm-up over warmup_fraction of the steps, then the shape that config.schedule names. The warm-up is linear, that
    of one_cycle half a cosine. With no warm-up the linear schedule is that of transformers' Trainer: rate * (1 - step /
    total_steps).

    Raises:
      UserError: wsd whose warm-up and decay overlap; a key that the chosen shape does not read.
    """
    _check(config, total_steps)
    span = _span(config, total_steps)
    after = SHAPES[config.schedule].device(span)
    if span.warmup == 0:
        return after
    return optax.join_schedules([_warmup(config, span), after], [span.warmup])


def learning_rate_at(config: OptimConfig, total_steps: int, step: int) -> float:
    """Returns what `make_schedule(config, total_steps)(step)` gives, computed on the host.

    An optax schedule is a program of the devices, whose result is there when they have done all that was asked before.
    """
    span = _span(config, total_steps)
    if step >= span.warmup:
        return SHAPES[config.schedule].host(span, step - span.warmup)
    if SHAPES[config.schedule].cosine_warmup:
        return span.peak - span.peak * (1 - _ONE_CYCLE_START) * 0.5 * (1 + math.cos(math.pi * step / span.warmup))
    return span.peak / span.warmup + (span.peak - span.peak / span.warmup) * min(step / max(span.warmup - 1, 1), 1.0)


def _span(config: OptimConfig, total_steps: int) -> _Span:
    warmup = round(config.warmup_fraction * total_steps)
    return _Span(
        peak=config.learning_rate,
        final_fraction=config.final_fraction,
        final=config.learning_rate * config.final_fraction,
        warmup=warmup,
        rest=max(total_steps - warmup, 1),
        falls=max(round(config.decay_fraction * total_steps), 1),
        power=config.decay_power,
    )


def _warmup(config: OptimConfig, span: _Span) -> Schedule:
    if SHAPES[config.schedule].cosine_warmup:
        start = span.peak * _ONE_CYCLE_START
        return lambda step: span.peak - (span.peak - start) * 0.5 * (1 + jnp.cos(jnp.pi * step / span.warmup))
    # The first update already moves: rate peak / warmup, not 0.
    return optax.linear_schedule(span.peak / span.warmup, span.peak, max(span.warmup - 1, 1))


def _check(config: OptimConfig, total_steps: int) -> None:
    span = _span(config, total_steps)
    if config.schedule == "wsd" and span.warmup + span.falls > total_steps:
        raise UserError(
            f"config.optim.decay_fraction: {config.decay_fraction} and warmup_fraction {config.warmup_fraction} "
            f"overlap: {span.warmup} + {span.falls} steps of {total_steps}. Together they must not exceed 1."
        )
    defaults = OptimConfig()
    for name, shape in SHAPES.items():
        for key in shape.keys:
            value, default = getattr(config, key), getattr(defaults, key)
            if name != config.schedule and value != default:
                raise UserError(
                    f"config.optim.{key}: {value!r} is read by schedule={name!r} alone, and config.optim.schedule is "
                    f"{config.schedule!r}. Leave it at {default!r}, or take that schedule."
                )
