"""What a config field is: default, unit, range and reason; building, checking and comparing. It knows no key.

A key that is not in the schema is an error that names the nearest one; a value out of range is an error that names the
key and the rule.
"""

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from ml_collections import config_dict

from jaxfm.errors import UserError, did_you_mean, has_password

NO_KEYS: Mapping[str, str] = types.MappingProxyType({})
NO_GROUPS: Mapping[str, type] = types.MappingProxyType({})
NO_CHOICES: Mapping[str, Sequence[type]] = types.MappingProxyType({})


def field(default: Any, doc: str, **rules: Any) -> Any:
    """A schema field: `choices`, `at_least`, `at_most`, `above`, `below` are checked by `from_config_dict`.

    `words` is word -> the value that it stands for. `open` is the value of a task's key that leaves it to the task: the
    run's config.json then has what `Task.chosen` says. `adjustable`: the number may change in the middle of a run, as
    neither what a checkpoint holds, nor the data, nor the number of updates depends on it: "always"; while it is
    "above 0", as 0 switches a part of the state off; or "unless KEY", a key of the same group, is true.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, **rules})


def build(
    cls: type,
    values: Mapping[str, Any],
    prefix: str = "",
    *,
    root: str = "config.",
    groups: Mapping[str, type] = NO_GROUPS,
    moved: Mapping[str, str] = NO_KEYS,
) -> Any:
    """Returns a checked `cls` of the nested `values`; keys left out take their defaults.

    Args:
      cls: a dataclass.
      values: nested mappings.
      prefix: the group that `values` are, with a dot at its end.
      root: what a key begins with in messages.
      groups: dotted name -> dataclass, of groups whose class the dataclass leaves open.
      moved: key or group of an older schema -> where it is now, or a sentence that says so.

    Raises:
      UserError: an unknown key (with the nearest one, or where it is now), a value of a wrong type, out of range or not
        among the choices.
    """
    fields = {each.name: each for each in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            inside = values[key] if isinstance(values[key], Mapping) else {}
            raise UserError(unknown_key(f"{prefix}{key}", next(iter(inside), ""), fields, root=root, moved=moved))
    built = {}
    for key, value in values.items():
        rule = fields[key]
        group = groups.get(f"{prefix}{key}") or (rule.type if dataclasses.is_dataclass(rule.type) else None)
        if group is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"{root}{prefix}{key}: is {value!r}, but must be a group of keys.")
            built[key] = build(
                typing.cast(type, group), value, f"{prefix}{key}.", root=root, groups=groups, moved=moved
            )
        else:
            built[key] = _checked(rule, value, f"{root}{prefix}{key}")
    return cls(**built)


@dataclasses.dataclass(frozen=True)
class Key:
    """A key as a person reads about it.

    Attributes:
      name: dotted.
      value: that a config gives it, in the config's word for it where there is one.
      default: of the schema, likewise.
      allowed: type and range in words.
      doc: unit and reason.
    """

    name: str
    value: Any
    default: Any
    allowed: str
    doc: str


def describe(node: Any, prefix: str = "") -> Iterator[Key]:
    """Yields every key of a config, a dataclass, in the order of its fields."""
    for each in dataclasses.fields(node):
        value = getattr(node, each.name)
        if dataclasses.is_dataclass(value):
            yield from describe(value, f"{prefix}{each.name}.")
        else:
            shown, default = _in_words(each, value), _in_words(each, each.default)
            yield Key(f"{prefix}{each.name}", shown, default, _allowed(each), each.metadata["doc"])


def _in_words(field: dataclasses.Field[Any], value: Any) -> Any:
    """Returns the word that stands for a value, or the value where none does."""
    return next((word for word, meant in field.metadata.get("words", {}).items() if meant == value), value)


def _allowed(field: dataclasses.Field[Any]) -> str:
    rules = field.metadata
    if "choices" in rules:
        return ", ".join(map(repr, rules["choices"]))
    if typing.get_origin(field.type) is tuple:
        return f"tuple of {_PLURALS[typing.get_args(field.type)[0]]}"
    kinds: tuple[Any, ...] = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    text = " or ".join("None" if kind is types.NoneType else kind.__name__ for kind in kinds)
    names = (("at_least", "at least"), ("above", "above"), ("at_most", "at most"), ("below", "below"))
    bounds = [f"{word} {rules[rule]}" for rule, word in names if rule in rules]
    return ", ".join([text, *bounds, *(f"or {word!r}" for word in rules.get("words", ()))])


def unknown_key(
    key: str,
    inside: str,
    known: Iterable[str],
    *,
    root: str = "config.",
    moved: Mapping[str, str] = NO_KEYS,
) -> str:
    """Returns the message about a key that the schema lacks: where it is now, or the nearest of the `known` ones.

    `inside` is a key of the group that `key` may name, for a message that is as exact as can be.
    """
    for name in dict.fromkeys((f"{key}.{inside}" if inside else key, key)):
        old, rest = name, ""
        while old:
            if old in moved:
                target = moved[old]
                where = f"is {root}{target}{rest} now" if " " not in target else target
                return f"{root}{name}: {where}{'' if where.endswith('.') else '.'}"
            old, _, last = old.rpartition(".")
            rest = f".{last}{rest}"
    return f"{root}{key}: there is no such key. {did_you_mean(key.rpartition('.')[2], known)}"


def check_key(
    cls: type, key: str, *, groups: Mapping[str, Sequence[type]] = NO_CHOICES, moved: Mapping[str, str] = NO_KEYS
) -> None:
    """Raises UserError, naming the nearest one, unless `key` ("optim.learning_rate") is a key of `cls`.

    `groups` gives the classes that a group may be of where the dataclass leaves it open; `moved` is as for `build`.
    """
    nodes: Sequence[Any] = (cls,)
    seen: list[str] = []
    for name in key.split("."):
        fields: dict[str, list[Any]] = {}
        for node in nodes:
            for each in dataclasses.fields(node) if dataclasses.is_dataclass(node) else ():
                fields.setdefault(each.name, []).append(each.type)
        seen.append(name)
        dotted = ".".join(seen)
        if name not in fields:
            rest = key[len(dotted) + 1 :]
            raise UserError(unknown_key(dotted, rest, fields, moved=moved))
        nodes = groups.get(dotted, fields[name])


def rules_of(node: Any, key: str) -> Mapping[str, Any]:
    """Returns the rules of the field of a dataclass that a dotted key ("optim.learning_rate") names."""
    *groups, name = key.split(".")
    for group in groups:
        node = getattr(node, group)
    return next(each.metadata for each in dataclasses.fields(node) if each.name == name)


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


def replaced(node: Any, values: Mapping[str, Any]) -> Any:
    """Returns a dataclass with other values of some dotted keys ("train.batch_size"); they are not checked."""
    for key, value in values.items():
        name, _, rest = key.partition(".")
        node = dataclasses.replace(node, **{name: replaced(getattr(node, name), {rest: value}) if rest else value})
    return node


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


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns one dict of dotted keys as nested groups: what `flatten` undoes.

    Raises UserError where a key is a value and a group at once, which no result of `flatten` has.
    """
    result: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        node = result
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise UserError(f"config.{key}: {group!r} is a value and a group of keys at once.")
        node[name] = value
    return result


_PLURALS = {str: "strings", float: "numbers", int: "whole numbers"}


def _is_of(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _checked(field: dataclasses.Field[Any], value: Any, key: str) -> Any:
    """Returns `value` in the field's type, or says which rule it breaks."""
    kinds: tuple[Any, ...] = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    if value is None and types.NoneType in kinds:
        return None
    rules = field.metadata
    words: Mapping[str, Any] = rules.get("words", {})
    if isinstance(value, str) and value in words:
        return words[value]
    if type(value) in kinds and value in words.values():
        return value
    if typing.get_origin(field.type) is tuple:
        item_kind = typing.get_args(field.type)[0]
        if not isinstance(value, list | tuple) or not all(_is_of(item, item_kind) for item in value):
            raise UserError(f"{key}: is {value!r}, but must be a tuple of {_PLURALS[item_kind]}.")
        if large := [item for item in value if not isinstance(item, str) and not abs(item) < 2**63]:
            raise UserError(f"{key}: has {large[0]!r:.40}, which is not finite, or more than 64 bits hold.")
        return tuple(map(item_kind, value))
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= sys.float_info.max else math.inf
    if not any(type(value) is kind for kind in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not types.NoneType)
        wanted = " or ".join([wanted, *map(repr, words)])
        raise UserError(f"{key}: is {value!r} ({type(value).__name__}), but must be {wanted}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}: is {value!r}, but must be a finite number.")
    if type(value) is int and abs(value) >= 2**63:
        raise UserError(f"{key}: is {value!r:.40}, more than 64 bits hold.")
    if isinstance(value, str) and has_password(value):
        raise UserError(
            f"{key}: is {value!r}, a URL with a name or token before the @, which config.json, logs and model cards "
            "would keep. Leave it out, and give the token by the environment (HF_TOKEN)."
        )
    if "choices" in rules and value not in rules["choices"]:
        raise UserError(f"{key}: is {value!r}. {did_you_mean(str(value), rules['choices'])}")
    for rule, word, holds in (
        ("at_least", "at least", lambda bound: value >= bound),
        ("at_most", "at most", lambda bound: value <= bound),
        ("above", "above", lambda bound: value > bound),
        ("below", "below", lambda bound: value < bound),
    ):
        if rule in rules and not holds(rules[rule]):
            raise UserError(f"{key}: is {value!r}, but must be {word} {rules[rule]} ({rules['doc']}).")
    return value
