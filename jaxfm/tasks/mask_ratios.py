"""The share of tokens that are masked, as a schedule over a run's progress."""

import itertools
from collections.abc import Sequence
from typing import Protocol

import jax
import jax.numpy as jnp

from jaxfm.errors import UserError

MOST = 0.9
"""Largest share of the tokens that can be masked."""


class HasRatios(Protocol):
    """What has a schedule of masks."""

    @property
    def ratios(self) -> tuple[float, ...]:
        """Shares of the tokens: of the first and the last step, or of each stage."""
        ...

    @property
    def ratio_starts(self) -> tuple[float, ...]:
        """Progress at which each stage but the first one starts; (): the share changes linearly from first to last."""
        ...


def ratio_at(schedule: HasRatios, progress: jax.Array | float) -> jax.Array | float:
    """Returns the share of the tokens to mask at `progress` (0 to 1) of a run."""
    if schedule.ratio_starts:
        stage = (jnp.asarray(progress) >= jnp.asarray(schedule.ratio_starts)).sum()
        return jnp.asarray(schedule.ratios, jnp.float32)[stage]
    first, last = schedule.ratios
    return first + (last - first) * progress


def mean_ratio(schedule: HasRatios) -> float:
    """Returns the share of the tokens that are masked, on average over a run."""
    if not schedule.ratio_starts:
        return sum(schedule.ratios) / len(schedule.ratios)
    edges = itertools.pairwise((0.0, *schedule.ratio_starts, 1.0))
    return sum(ratio * (end - start) for ratio, (start, end) in zip(schedule.ratios, edges, strict=True))


def starts_of(later_ratios: Sequence[float], later_at: Sequence[float]) -> tuple[float, ...]:
    """Returns where the stages but the first one start; at equal intervals where nothing is said of it."""
    count = len(later_ratios)
    return tuple(later_at) or tuple((number + 1) / (count + 1) for number in range(count))


def check_stages(later_ratios: Sequence[float], later_at: Sequence[float], final_ratio: float | None) -> None:
    """Raises UserError for `config.task.later_ratios` and `later_at` of which no schedule can be made."""
    if not later_ratios:
        if later_at:
            raise UserError(
                f"config.task.later_at: is {tuple(later_at)}, but config.task.later_ratios is empty. Give one share of "
                "masked tokens for each, or leave both empty."
            )
        return
    if final_ratio is not None:
        raise UserError(
            f"config.task.final_ratio: is {final_ratio}, but later_ratios {tuple(later_ratios)} are steps. Leave one "
            "of both empty: the share of masked tokens falls either linearly or in steps."
        )
    for ratio in later_ratios:
        if not 0 < ratio <= MOST:
            raise UserError(f"config.task.later_ratios: {ratio} must be above 0 and at most {MOST}.")
    if later_at and len(later_at) != len(later_ratios):
        raise UserError(
            f"config.task.later_at: has {len(later_at)} numbers, but later_ratios {len(later_ratios)}. Give one for "
            "each, or none: then they start at equal intervals."
        )
    if any(start >= end for start, end in itertools.pairwise((0.0, *later_at, 1.0))):
        raise UserError(
            f"config.task.later_at: {tuple(later_at)} must be ascending shares of the run, above 0 and below 1."
        )
