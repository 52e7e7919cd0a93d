"""Settings of decoding that a person asks for by name (--decoding=NAME=VALUE), whatever the task."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from jaxfm import schema
from jaxfm.errors import UserError, did_you_mean

Settings = TypeVar("Settings")
ROOT = "--decoding="


def with_asked(settings: Settings, asked: Mapping[str, str]) -> Settings:
    """Returns a dataclass of settings with the values asked for.

    Raises:
      UserError: an unknown name, or a value that it cannot have.
    """
    assert dataclasses.is_dataclass(settings) and not isinstance(settings, type)
    values = dataclasses.asdict(settings)
    for name, value in asked.items():
        if name not in values:
            raise UserError(f"{ROOT}{name}: there is no such setting. {did_you_mean(name, values)}")
        kind = type(values[name])
        try:
            values[name] = kind(value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UserError(f"{ROOT}{name}={value}: must be {what}.") from None
    return schema.build(type(settings), values, root=ROOT)
