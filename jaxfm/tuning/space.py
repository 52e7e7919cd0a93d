"""The space of a search: which keys of a config are varied, over which values. Read from a JSON file and checked."""

import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm import files, schema
from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks import registry

# Keys that no search may vary -> why.
_NOT_SEARCHED = {
    "task.name": "a search compares runs of one task",
    "eval.metric": "scores of other metrics cannot be compared",
    "data.source": "scores on other data cannot be compared",
    "train.seeds": "a trial is one run",
    "train.learning_rates": "a trial is one run; search over optim.learning_rate",
    "train.weight_decays": "a trial is one run; search over optim.weight_decay",
}
_OF_RANGE, _OF_CHOICES = ("low", "high", "step", "log"), ("choices",)
_MOST_CELLS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Dimension:
    """The values that a search may give one key.

    Attributes:
      key: dotted, as "optim.learning_rate".
      choices: the values, where they are listed; empty for a range.
      low: smallest value of a range.
      high: largest value of a range.
      step: distance of neighbouring values from `low` on; None: any value between.
      log: the range is divided evenly in the logarithm.
      is_integer: values of the range are whole numbers.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    is_integer: bool = False

    def labels(self) -> list[str | int | float | bool | None]:
        """Returns the choices as single values, which alone a storage keeps: lists as their JSON text."""
        return [json.dumps(value) if isinstance(value, list | dict) else value for value in self.choices]

    def value_of(self, label: Any) -> Any:
        """Returns the value of the key for what a storage keeps of it."""
        return self.choices[self.labels().index(label)] if self.choices else label

    def cells(self) -> list[Any] | None:
        """Returns all values, as `labels` gives them; None for a range without a step."""
        if self.choices:
            return list(self.labels())
        step = self.step or (1 if self.is_integer and not self.log else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = (self.low + index * step for index in range(min(count, _MOST_CELLS)))
        return [int(value) if self.is_integer else value for value in values]


Space = tuple[Dimension, ...]


def read_space(path: pathlib.Path, config: Config) -> tuple[Space, dict[str, Any]]:
    """Reads the file of a space; returns its dimensions and its content.

    Args:
      path: a JSON object of dotted key -> {"low", "high"}, with "step" or "log": true if wanted, or {"choices": [...]}.
      config: that all trials start from; its schema says which values a key may have.

    Raises:
      UserError: no such file, an unknown key (with the nearest one), a key that cannot be searched, a value outside of
        the key's range or type, low above high, no choices. The message names file, key, value and rule.
    """
    if not path.is_file():
        raise UserError(f"--space={path}: there is no such file.")
    content = files.read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(
            f'{path}: must be an object of keys, as {{"optim.learning_rate": {{"low": 1e-5, "high": 1e-3}}}}.'
        )
    return parse_space(content, config, str(path)), content


def parse_space(content: Mapping[str, Any], config: Config, where: str) -> Space:
    """Returns the dimensions of a space; `where` is what messages call its source. Raises UserError as `read_space`."""
    flat = schema.flatten(schema.to_dict(config))
    found = []
    for key, rule in sorted(content.items()):  # samplers draw in this order, whatever that of the file is
        try:
            registry.check_key(key)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if reason := _NOT_SEARCHED.get(key):
            raise UserError(f"{where}: {key}: cannot be searched: {reason}.")
        if key not in flat:
            what = (
                "a group of keys; name one of them"
                if any(each.startswith(f"{key}.") for each in flat)
                else (f"a key of another task than {config.task.name!r}")
            )
            raise UserError(f"{where}: {key}: is {what}.")
        if not isinstance(rule, dict):
            raise UserError(
                f'{where}: {key}: is {rule!r}, but must be {{"low": ..., "high": ...}} or {{"choices": [...]}}.'
            )
        allowed = _OF_CHOICES if "choices" in rule else _OF_RANGE
        for name in rule:
            if name not in allowed:
                raise UserError(f"{where}: {key}: {name!r} does not belong here. {did_you_mean(name, allowed)}")
        make = _choices if "choices" in rule else _range
        found.append(make(key, rule, config, where))
    return tuple(found)


def with_params(config: Config, params: Mapping[str, Any], where: str = "") -> Config:
    """Returns the checked config with other values of some dotted keys; UserError, after `where`, for a wrong value."""
    values = schema.flatten(schema.to_dict(config)) | dict(params)
    try:
        return registry.from_config_dict(schema.nested(values))
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def grid(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Returns every combination of values, the last key varying fastest.

    Raises UserError for a range that has no step, and for more than a million combinations.
    """
    cells = {each.key: each.cells() for each in space}
    if endless := [key for key, values in cells.items() if values is None]:
        raise UserError(f'--sampler=grid: {endless[0]} is a range without a "step"; give one, or "choices".')
    count = math.prod(len(values or ()) for values in cells.values())
    if count > _MOST_CELLS:
        raise UserError(f"--sampler=grid: the space has {count:,} combinations; take another sampler.")
    return [dict(zip(cells, values, strict=True)) for values in itertools.product(*_listed(cells.values()))]


def _listed(cells: Any) -> Iterator[list[Any]]:
    return (list(values) for values in cells)


def _choices(key: str, rule: Mapping[str, Any], config: Config, where: str) -> Dimension:
    choices = rule["choices"]
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{where}: {key}: choices is {choices!r}, but must be a list of at least one value.")
    for value in choices:
        with_params(config, {key: value}, where)
    made = Dimension(key, choices=tuple(choices))
    texts = [json.dumps(value) for value in choices]
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise UserError(f"{where}: {key}: {twice[0]} is among the choices twice.")
    return made


def _range(key: str, rule: Mapping[str, Any], config: Config, where: str) -> Dimension:
    for name in ("low", "high"):
        if name not in rule:
            raise UserError(f"{where}: {key}: {name!r} is missing.")
    low, high, step, log = rule["low"], rule["high"], rule.get("step"), rule.get("log", False)
    for name, value in (("low", low), ("high", high), *([("step", step)] if "step" in rule else [])):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"{where}: {key}: {name} is {value!r}, but must be a number.")
    if type(log) is not bool:
        raise UserError(f"{where}: {key}: log is {log!r}, but must be true or false.")
    if low > high:
        raise UserError(f"{where}: {key}: low is {low!r}, above high, {high!r}.")
    if step is not None and step <= 0:
        raise UserError(f"{where}: {key}: step is {step!r}, but must be above 0.")
    if step is not None and log:
        raise UserError(f"{where}: {key}: has a step and log; a logarithmic range has no step.")
    if log and low <= 0:
        raise UserError(f"{where}: {key}: low is {low!r}, but a logarithmic range begins above 0.")
    kinds = set()
    for value in (low, high):
        checked = with_params(config, {key: value}, where)
        kinds.add(type(_value(checked, key)))
    if not kinds <= {int, float}:
        raise UserError(f'{where}: {key}: is not a number; give {{"choices": [...]}}.')
    is_integer = kinds == {int}
    if is_integer and step is not None and type(step) is not int:
        raise UserError(f"{where}: {key}: step is {step!r}, but must be a whole number.")
    return Dimension(key, low=low, high=high, step=step, log=log, is_integer=is_integer)


def _value(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
