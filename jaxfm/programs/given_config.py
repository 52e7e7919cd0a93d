"""The config that a Python program gives: a name, a file, a ConfigDict or a Config, with some keys set."""

import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxfm import schema
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.programs import shipped
from jaxfm.tasks import registry

GivenConfig = str | pathlib.Path | Config | ml_collections.ConfigDict
"""A name ("ner:files"), a config file ("my.py:variant"), what such a file returns, or a checked Config."""


def resolve_config(config: GivenConfig, overrides: Mapping[str, Any] | None = None) -> Config:
    """Returns the checked config, with the keys of `overrides` ("train.epochs": 3) set.

    Raises:
      UserError: no such config or variant; an unknown key (with the nearest one), a group in place of a key, a value of
        a wrong type or out of range.
    """
    if isinstance(config, str | pathlib.Path):
        config = _named(str(config))
    if isinstance(config, Config) and not overrides:
        return config
    values = schema.to_dict(config) if isinstance(config, Config) else config.to_dict()
    flat = schema.flatten(values)
    for key, value in (overrides or {}).items():
        registry.check_key(key)
        if key not in flat:
            inside = [name for name in flat if name.startswith(f"{key}.")]
            if not inside:
                raise UserError(f"config.{key}: is a key of another task than {flat.get('task.name')!r}.")
            raise UserError(f"config.{key}: is a group of keys. Name one of them: {', '.join(inside)}.")
        flat[key] = value
    return registry.from_config_dict(schema.nested(flat))


def _named(text: str) -> ml_collections.ConfigDict:
    """Returns what the config file of a name or path gives, for the variant after the colon."""
    name, colon, variant = shipped.config_file(text, given_as="config ").partition(":")
    module = shipped.config_module(pathlib.Path(name))
    if not hasattr(module, "get_config"):
        raise UserError(f"{name}: has no function get_config, so it is not a config file.")
    return module.get_config(variant) if colon else module.get_config()
