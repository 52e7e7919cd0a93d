"""A config as a Python file that trains as it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.config import Config
from jaxfm.schema import flatten, to_dict
from jaxfm.tasks import registry


def config_source(config: Config, doc: str) -> str:
    """Returns a config file that sets what differs from the defaults of the config's task; `doc` is its docstring."""
    head = [f'"""{doc}"""', "", "import ml_collections", "", "from jaxfm.tasks.registry import default_config"]
    return "\n".join([*head, "", "", *_function(config, "get_config"), ""])


def changing_source(config: Config, doc: str, changes: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
    """Returns a program that trains a run whose values change on the way; its one argument is the run directory.

    Args:
      config: from the beginning.
      doc: its docstring.
      changes: (updates done, key -> value from there on).
    """
    return "\n".join(
        [
            f'"""{doc}"""',
            "",
            "import sys",
            "",
            "import ml_collections",
            "",
            "from jaxfm.programs.repeat import train_with_changes",
            "from jaxfm.tasks.registry import default_config",
            "",
            "# (updates done, values from there on)",
            "CHANGES = [",
            *(f"    ({step}, {dict(values)!r})," for step, values in changes),
            "]",
            "",
            "",
            *_function(config, "first_config"),
            "",
            "",
            'if __name__ == "__main__":',
            "    train_with_changes(first_config(), CHANGES, sys.argv[1])",
            "",
        ]
    )


def _function(config: Config, name: str) -> list[str]:
    task = config.task.name
    defaults = flatten(to_dict(registry.from_config_dict({"task": {"name": task}})))
    lines = [
        f"    config.{key} = {_literal(value)!r}"
        for key, value in flatten(to_dict(config)).items()
        if value != defaults[key] and key != "task.name"
    ]
    return [
        f"def {name}() -> ml_collections.ConfigDict:",
        '    """Returns the config."""',
        f"    config = default_config({task!r})",
        *lines,
        "    return config",
    ]


def _literal(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
