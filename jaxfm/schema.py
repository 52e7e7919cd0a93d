"""What a config field is: default, unit, range and reason; building, checking and comparing. It knows no key.

A key that is not in the schema is an error that names the nearest one; a value out of range is an error that names the
key and the rule.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from jaxfm.errors import UserError, did_you_mean


def field(default: Any, doc: str, **rules: Any) -> Any:
    """A schema field: `choices`, `at_least`, `at_most`, `above` are checked by `from_config_dict`.

    `words` is word -> the value that it stands for.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **rules})


def build(cls: type, values: Mapping[str, Any], prefix: str = "", *, root: str = "config.") -> Any:
    """Returns a checked `cls` of the nested `values`; keys left out take their defaults.

    `root` is what a key begins with in messages.

    Raises:
      UserError: an unknown key (with the nearest one), a value of a wrong type, out of range or not among the choices.
    """
    fields = {each.name: each for each in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise UserError(f"{root}{prefix}{key}: there is no such key. {did_you_mean(key, fields)}")
    built = {}
    for key, value in values.items():
        rule = fields[key]
        if dataclasses.is_dataclass(rule.type):
            if not isinstance(value, Mapping):
                raise UserError(f"{root}{prefix}{key}: is {value!r}, but must be a group of keys.")
            built[key] = build(typing.cast(type, rule.type), value, prefix=f"{prefix}{key}.", root=root)
        else:
            built[key] = _checked(rule, value, f"{root}{prefix}{key}")
    return cls(**built)


def check_key(cls: type, key: str) -> None:
    """Raises UserError, naming the nearest one, unless `key` ("optim.learning_rate") is a key of `cls`."""
    node, seen = cls, []
    for name in key.split("."):
        fields = {each.name: each for each in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
        seen.append(name)
        if name not in fields:
            raise UserError(f"config.{'.'.join(seen)}: there is no such key. {did_you_mean(name, fields)}")
        node = typing.cast(Any, fields[name].type)


def to_config_dict(node: Any) -> ml_collections.ConfigDict:
    """Returns a dataclass as a locked ConfigDict with the same keys."""
    result = ml_collections.ConfigDict()
    for each in dataclasses.fields(node):
        value = getattr(node, each.name)
        if dataclasses.is_dataclass(value):
            result[each.name] = to_config_dict(value)
        elif value is None:
            kind = next(kind for kind in typing.get_args(each.type) if kind is not types.NoneType)
            result[each.name] = config_dict.placeholder(kind)
        elif "words" in each.metadata:
            result[each.name] = config_dict.FieldReference(value, field_type=object)  # else the words are refused
        else:
            result[each.name] = value
    return result.lock()


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a dataclass as nested dicts of JSON values (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], *, ignore: tuple[str, ...] = ()) -> list[str]:
    """Returns `key: old -> new` for each leaf that differs between two results of `to_dict`, in order of keys."""
    flat_old, flat_new = flatten(old), flatten(new)
    keys = [key for key in sorted(flat_old | flat_new) if not is_under(key, ignore)]
    absent = "(not set)"
    return [
        f"{key}: {flat_old.get(key, absent)!r} -> {flat_new.get(key, absent)!r}"
        for key in keys
        if flat_old.get(key, absent) != flat_new.get(key, absent)
    ]


def is_under(key: str, groups: tuple[str, ...]) -> bool:
    """Is a dotted key one of `groups`, or inside one?"""
    return any(f"{key}.".startswith(f"{group}.") for group in groups)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested groups as one dict of dotted keys ("optim.learning_rate")."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _checked(field: dataclasses.Field[Any], value: Any, key: str) -> Any:
    """Returns `value` in the field's type, or says which rule it breaks."""
    kinds: tuple[Any, ...] = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    if value is None and types.NoneType in kinds:
        return None
    rules = field.metadata
    words: Mapping[str, Any] = rules.get("words", {})
    if isinstance(value, str) and value in words:
        return words[value]
    if typing.get_origin(field.type) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{key}: is {value!r}, but must be a tuple of strings.")
        return tuple(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not any(type(value) is kind for kind in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not types.NoneType)
        wanted = " or ".join([wanted, *map(repr, words)])
        raise UserError(f"{key}: is {value!r} ({type(value).__name__}), but must be {wanted}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}: is {value!r}, but must be a finite number.")
    if "choices" in rules and value not in rules["choices"]:
        raise UserError(f"{key}: is {value!r}. {did_you_mean(str(value), rules['choices'])}")
    for rule, word, holds in (
        ("at_least", "at least", lambda bound: value >= bound),
        ("at_most", "at most", lambda bound: value <= bound),
        ("above", "above", lambda bound: value > bound),
    ):
        if rule in rules and not holds(rules[rule]):
            raise UserError(f"{key}: is {value!r}, but must be {word} {rules[rule]} ({rules['doc']}).")
    return value
