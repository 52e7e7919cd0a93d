"""The stream of jaxfm.continual: a TOML file of stages, each with a name and the keys of the config that it sets."""

import dataclasses
import pathlib
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files, schema
from jaxfm.config import Config
from jaxfm.core.few_labels import PlansFit
from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks import registry
from jaxfm.training import grid, supernet
from jaxfm.tuning.space import with_params

GivenStream = str | pathlib.Path | Sequence[Mapping[str, Any]]
"""A file, or its stages: [{"name": "first", "data.source": "conll:DIR"}, ...]."""
_STAGE, _NAME = "stage", "name"
_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Keys, and groups of keys, that no stage may set -> why.
_NOT_OF_A_STAGE: Mapping[str, str] = types.MappingProxyType(
    {
        "task.name": "a stream is of one task",
        "eval.metric": "scores of other metrics cannot be compared",
        "seed": "--seeds says which seeds there are",
        "model": "the method says from which weights a stage starts",
        "distil": "the method says what a stage learns from",
        "consolidate": "the method says what a stage is held to",
        "train.seeds": "a stage is one run",
        "train.learning_rates": "a stage is one run",
        "train.weight_decays": "a stage is one run",
        "grow": "a stage is one run",
        "supernet": "a stage is one model",
        "exits": "all stages are of one model",
        "checkpoint.mirror": "it is the place of one run, and a stream has many",
    }
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a stream.

    Attributes:
      name: of it, and in the names of its folders.
      changes: dotted key -> value, what it sets of the config.
      config: with them.
    """

    name: str
    changes: Mapping[str, Any]
    config: Config


def read_stream(given: GivenStream, config: Config) -> tuple[Stage, ...]:
    """Reads and checks a stream.

    Args:
      given: a TOML file with a table [[stage]] each, or the stages themselves: "name", and keys of the config.
      config: of all stages, but for what each of them sets.

    Raises:
      UserError: no such file, no TOML, fewer than two stages, a name that is missing, given twice or no file name, an
        unknown key (with the nearest one), one that no stage may set, a value of a wrong type or out of range. It names
        file, stage, key and value.
    """
    if isinstance(given, str | pathlib.Path):
        path = files.user_path(given, "--stream")
        tables, where = _tables(path), f"--stream={path}"
    else:
        tables, where = list(given), "stream"
    if len(tables) < 2:
        raise UserError(f"{where}: has {len(tables)} stage{'' if len(tables) == 1 else 's'}; a stream has two or more.")
    stages: list[Stage] = []
    for number, values in enumerate(tables, start=1):
        stages.append(_stage(values, f"{where}: stage {number}", config))
        if [each.name for each in stages].count(stages[-1].name) > 1:
            raise UserError(f"{where}: stage {number}: another stage has the name {stages[-1].name!r} too.")
    return tuple(stages)


def check_config(config: Config) -> None:
    """Raises UserError for a config of which no stage can be made."""
    if grid.asks_for_several(config):
        raise UserError("config.train.seeds, learning_rates, weight_decays: a stage is one run. Take --seeds.")
    if config.grow.layers:
        raise UserError("config.grow.layers: a stage is one run, and a model that grows is several. Leave it empty.")
    if supernet.is_asked_for(config.supernet):
        raise UserError("config.supernet: stages are of one model. Leave it empty.")
    if config.privacy.clip_norm:
        raise UserError(
            "config.privacy.clip_norm: what methods keep of a stage (examples, importance) is not private. Set it to 0."
        )
    if config.checkpoint.mirror:
        raise UserError("config.checkpoint.mirror: is the place of one run, and a stream has many. Leave it empty.")
    for group, value in (("distil.teacher", config.distil.teacher), ("consolidate", _held(config))):
        if value:
            raise UserError(f"config.{group}: is {value!r}, but methods of a stream set it. Leave it empty.")
    definition = registry.definition(config.task.name)
    plan = definition.fit_plan(config) if isinstance(definition, PlansFit) else None
    if plan is not None:
        raise UserError(f"{plan.key}: stages are trained by gradients. Leave it out.")


def _held(config: Config) -> str:
    return config.consolidate.importance or config.consolidate.orthogonal_to


def _tables(path: pathlib.Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise UserError(f"--stream={path}: there is no such file.")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"--stream={path}: is not TOML: {error}.") from None
    tables = found.get(_STAGE)
    if not isinstance(tables, list) or set(found) != {_STAGE}:
        other = next((name for name in found if name != _STAGE), "")
        hint = f" {other!r} does not belong here." if other else ""
        raise UserError(f"--stream={path}: holds stages as tables [[{_STAGE}]] and nothing else.{hint}")
    return tables


def _stage(values: Mapping[str, Any], where: str, config: Config) -> Stage:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: is {values!r}, but must be a table of keys.")
    name = values.get(_NAME)
    if not isinstance(name, str) or not _NAMES.fullmatch(name):
        shown = "is missing" if _NAME not in values else f"is {name!r}"
        raise UserError(f"{where}: name {shown}; it must be letters, digits, '_', '-' and '.', and goes into folders.")
    changes = schema.flatten({key: value for key, value in values.items() if key != _NAME})
    known = schema.flatten(schema.to_dict(config))
    for key, value in changes.items():
        for group, why in _NOT_OF_A_STAGE.items():
            if key == group or key.startswith(f"{group}."):
                raise UserError(f"{where} ({name}): {key}: cannot be set by a stage: {why}.")
        try:
            registry.check_key(key)
        except UserError as error:
            raise UserError(f"{where} ({name}): {error}") from None
        if key not in known:
            inside = [each for each in known if each.startswith(f"{key}.")]
            hint = f"is a group of keys. Name one of them: {', '.join(inside)}" if inside else "is of another task"
            raise UserError(f"{where} ({name}): {key}: is {value!r}, but {hint}.")
    return Stage(name, changes, with_params(config, changes, f"{where} ({name})"))


def check_methods(names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Returns the methods asked for; UserError for an unknown one, with the nearest, one given twice, or none."""
    listed = ",".join(names)
    for name in names:
        if name not in known:
            raise UserError(f"--method={listed}: {name!r} is no method. {did_you_mean(name, known)}")
        if list(names).count(name) > 1:
            raise UserError(f"--method={listed}: {name!r} is given twice.")
    if not names:
        raise UserError(f"--method: is empty; give one or more of {', '.join(known)}.")
    return tuple(names)
