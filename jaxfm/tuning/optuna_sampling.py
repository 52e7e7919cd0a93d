"""The values of a trial, drawn by a sampler of Optuna that is made anew for each trial.

Its seed is made of the search's seed and the trial's number, and what it sees are the trials numbered below. So a trial
has the same values wherever the search was stopped before it. Optuna's own loop keeps one generator over all trials,
which a restart loses (optuna PR 4927).
"""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from jaxfm.errors import UserError, install_hint
from jaxfm.tuning.space import Dimension, grid
from jaxfm.tuning.trials import Trial

SAMPLERS = ("tpe", "cmaes", "random", "grid")
LONGEST_CURVE = 1000
"""Steps that a curve is stretched to for the sampler: runs of other batch sizes have other numbers of updates."""


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a sampler gives for a trial: key -> value as a storage keeps it, and what later trials need of it."""

    params: Mapping[str, Any]
    attributes: Mapping[str, Any]


def import_optuna() -> Any:
    """Returns the package optuna, which logs nothing of its own; UserError that says how to install it."""
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"jaxfm.search needs the package optuna: {install_hint('search')}.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def check_sampler(sampler: str, space: Sequence[Dimension], objectives: int) -> None:
    """Raises UserError where the sampler cannot search the space, for so many objectives."""
    if sampler == "grid":
        grid(space)
    if sampler != "cmaes":
        return
    if objectives > 1:
        raise UserError("--sampler=cmaes: has one objective; take tpe, random or grid for several.")
    if all(each.choices for each in space):
        raise UserError("--sampler=cmaes: needs keys with ranges; the space has choices only. Take tpe.")
    try:
        import cmaes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"--sampler=cmaes: needs the package cmaes: {install_hint('search')}.") from None


def draw(
    sampler: str,
    space: Sequence[Dimension],
    seed: int,
    number: int,
    history: Sequence[Trial],
    more_is_better: Sequence[bool],
    attempt: int = 0,
) -> Drawn:
    """Returns the values of trial `number`.

    Args:
      sampler: one of `SAMPLERS`.
      space: that is searched.
      seed: of the search.
      number: of the trial.
      history: trials that are known; those numbered below are used.
      more_is_better: of each objective.
      attempt: number of draws before that were refused; a grid has one draw.
    """
    if sampler == "grid":  # in an order drawn once, so that a search that is cut short has seen all of the space
        cells = grid(space)
        order = np.random.default_rng(seed).permutation(len(cells))
        return Drawn(cells[order[number % len(cells)]], {})
    before = sorted((each for each in history if each.number < number and each.params), key=lambda each: each.number)
    study = study_of(space, before, more_is_better)
    entropy = [seed, number, *([attempt] if attempt else [])]
    own_seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31)
    with quiet():
        study.sampler = _make(sampler, own_seed)
        trial = study.ask(fixed_distributions=distributions(space))
        frozen = study.get_trials(deepcopy=False)[-1]
    return Drawn(dict(trial.params), dict(frozen.system_attrs))


def study_of(space: Sequence[Dimension], trials: Sequence[Trial], more_is_better: Sequence[bool]) -> Any:
    """Returns a study in memory that holds these trials; those without values count as running."""
    optuna = import_optuna()
    with quiet():
        study = optuna.create_study(directions=directions(more_is_better))
    states = optuna.trial.TrialState
    for each in trials:
        if not each.params:
            continue
        curve = {}
        for step, score in each.curve if len(more_is_better) == 1 else ():
            curve[round(LONGEST_CURVE * step / max(each.total_steps, 1))] = score
        if each.state == "finished":
            state, values = states.COMPLETE, list(each.values)
        elif each.state == "failed":
            state, values = states.FAIL, None
        elif curve and each.state != "running":  # it stands at a rung, or was stopped
            state, values = states.PRUNED, None
        else:
            state, values = states.RUNNING, None
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                params=dict(each.params),
                distributions=distributions(space),
                intermediate_values=curve,
                system_attrs=dict(each.attributes),
            )
        )
    return study


def distributions(space: Sequence[Dimension]) -> dict[str, Any]:
    """Returns the space in Optuna's terms."""
    kinds = import_optuna().distributions
    found = {}
    for each in space:
        if each.choices:
            found[each.key] = kinds.CategoricalDistribution(each.labels())
        elif each.is_integer:
            low, high, step = int(each.low), int(each.high), int(each.step or 1)
            found[each.key] = kinds.IntDistribution(low, low + (high - low) // step * step, log=each.log, step=step)
        else:
            values = each.cells() if each.step else None
            high = values[-1] if values else each.high  # Optuna warns of a range that its steps do not end at
            found[each.key] = kinds.FloatDistribution(each.low, high, log=each.log, step=each.step)
    return found


def directions(more_is_better: Sequence[bool]) -> list[str]:
    """Returns the directions of objectives in Optuna's words."""
    return ["maximize" if more else "minimize" for more in more_is_better]


def importances(space: Sequence[Dimension], trials: Sequence[Trial], more_is_better: bool) -> dict[str, float]:
    """Returns how much each key mattered: key -> share of the sum, by PED-ANOVA (arXiv 2304.10255), the largest first.

    It asks how far values of the best tenth of trials lie together, compared with those of all. Empty for fewer than
    four finished trials, of which it says nothing.
    """
    optuna = import_optuna()
    finished = [each for each in trials if each.state == "finished"]
    if len(finished) < 4:
        return {}
    first = [dataclasses.replace(each, values=each.values[:1]) for each in finished]
    study = study_of(space, first, [more_is_better])
    with quiet():
        try:
            found = optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError):  # all scores are equal, say
            return {}
    return {key: float(value) for key, value in found.items() if np.isfinite(value)}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back what Optuna warns of: options that may change in later versions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _make(sampler: str, seed: int) -> Any:
    samplers = import_optuna().samplers
    if sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if sampler == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return samplers.TPESampler(seed=seed, multivariate=True)
