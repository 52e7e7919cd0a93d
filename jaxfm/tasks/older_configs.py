"""Configs of runs that an older jaxfm made, in today's keys."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfm.config import Config
from jaxfm.schema import flatten, nested, to_dict


def upgraded(values: Mapping[str, Any], config_class: type, moved: Mapping[str, str]) -> dict[str, Any]:
    """Returns a config of version 1 of config.json in today's keys.

    Args:
      values: the old config: nested groups, "task" the name of the task.
      config_class: of the task's keys today, whose defaults stand where the old config says nothing.
      moved: old key or group -> new one, or a sentence (which moves nothing).

    Keys of other tasks, which every old config had, are left out. Keys that came later have their default in
    `jaxfm/config.py`, which is always what runs did before, and not that of the task.
    """
    known = {each.name for each in dataclasses.fields(config_class)}
    trainer = flatten(to_dict(Config()))
    task = to_dict(config_class())
    result = {key: value for key, value in trainer.items() if key != "task"}
    for key, value in flatten({name: value for name, value in values.items() if name != "task"}).items():
        old, rest = key, ""
        while old and old not in moved:
            old, _, last = old.rpartition(".")
            rest = f".{last}{rest}"
        target = f"{moved[old]}{rest}" if old else key
        if target.startswith("task."):
            if target.split(".")[1] in known:
                task = nested(flatten(task) | {target.removeprefix("task."): value})
        elif key in trainer:
            result[target] = value
    return nested(result) | {"task": task}
