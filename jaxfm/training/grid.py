"""The runs that one config asks for: `train.seeds`, `train.learning_rates` and `train.weight_decays`."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax

from jaxfm.config import AUTO, Config, TrainConfig
from jaxfm.errors import UserError
from jaxfm.schema import replaced
from jaxfm.training.supernet import is_asked_for

_KEYS = ("seeds", "learning_rates", "weight_decays")


@dataclasses.dataclass(frozen=True)
class GridRun:
    """One run of several.

    Attributes:
      name: of its folder in the run directory: seed0, or seed0_rate3e-05_decay0.01.
      setting: the part of the name without the seed; "" where rates and decays are not varied.
      config: as that of a run that is trained alone.
    """

    name: str
    setting: str
    config: Config


def asks_for_several(config: Config) -> bool:
    """Whether a config asks for several runs at once."""
    return config.train.seeds > 1 or bool(config.train.learning_rates) or bool(config.train.weight_decays)


def runs_of(config: Config) -> tuple[GridRun, ...]:
    """Returns the runs of a config, those of a setting one after the other; of an ordinary one the run itself.

    Raises:
      UserError: values that are out of range or given twice, or keys that several runs at once cannot have.
    """
    if not asks_for_several(config):
        return (GridRun("", "", config),)
    _check(config)
    train = config.train
    alone = dataclasses.replace(train, **{name: getattr(TrainConfig(), name) for name in _KEYS})
    rates: Sequence[Any] = config.train.learning_rates or (None,)
    decays: Sequence[Any] = config.train.weight_decays or (None,)
    found = []
    for rate, decay in itertools.product(rates, decays):
        values = {"optim.learning_rate": rate, "optim.weight_decay": decay}
        parts = [f"{word}{value:g}" for word, value in (("rate", rate), ("decay", decay)) if value is not None]
        for seed in range(config.seed, config.seed + config.train.seeds):
            own = {"train": alone, "seed": seed} | {key: value for key, value in values.items() if value is not None}
            found.append(GridRun("_".join([f"seed{seed}", *parts]), "_".join(parts), replaced(config, own)))
    return tuple(found)


def _check(config: Config) -> None:
    train = config.train
    for key, values, least in (
        ("learning_rates", train.learning_rates, 0),
        ("weight_decays", train.weight_decays, None),
    ):
        names = [f"{value:g}" for value in values]
        if any(value < 0 or value == least for value in values):
            raise UserError(
                f"config.train.{key}: is {values!r}, but each must be {'above' if least == 0 else 'at least'} 0."
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(
                f"config.train.{key}: is {values!r}, in which {twice} is given twice (six digits tell two apart). Give "
                "each once."
            )
    asked = f"config.train.{next(key for key in _KEYS if getattr(train, key) != getattr(TrainConfig(), key))}"
    processes = jax.process_count()
    rules = (
        (
            processes > 1,
            f"{processes} processes of a run",
            "Start one process, or train one after the other: jaxfm.seeds",
        ),
        (
            train.verify_every_steps > 0,
            f"config.train.verify_every_steps={train.verify_every_steps}",
            "Set it to 0, or train one after the other: jaxfm.seeds",
        ),
        (is_asked_for(config.supernet), "subnets (config.supernet)", "Train one after the other: jaxfm.seeds"),
        (train.batch_size == AUTO, "config.train.batch_size=auto", "Give the rows of a batch of one run"),
        (bool(config.profile.steps), f"config.profile.steps={config.profile.steps}", "Record a run that is alone"),
        (
            bool(config.checkpoint.mirror),
            f"config.checkpoint.mirror={config.checkpoint.mirror}",
            "Leave it empty, or train one after the other, each with a mirror of its own",
        ),
        (
            bool(config.log.tracker),
            f"config.log.tracker={config.log.tracker}",
            "Leave it empty: each run has its own metrics.jsonl and TensorBoard file",
        ),
        (
            config.checkpoint.keep_last < 2,
            f"config.checkpoint.keep_last={config.checkpoint.keep_last}",
            "Keep 2: a program that is killed between the saves of two runs goes on from the step before",
        ),
    )
    for holds, what, choice in rules:
        if holds:
            raise UserError(f"{asked}: several runs in one program cannot have {what}. {choice}.")
