"""A config as a Python file that trains as it is."""

from typing import Any

from jaxfm.config import Config
from jaxfm.schema import flatten, to_dict
from jaxfm.tasks import registry


def config_source(config: Config, doc: str) -> str:
    """Returns a config file that sets what differs from the defaults of the config's task; `doc` is its docstring."""
    task = config.task.name
    defaults = flatten(to_dict(registry.from_config_dict({"task": {"name": task}})))
    lines = [
        f"    config.{key} = {_literal(value)!r}"
        for key, value in flatten(to_dict(config)).items()
        if value != defaults[key] and key != "task.name"
    ]
    return "\n".join(
        [
            f'"""{doc}"""',
            "",
            "import ml_collections",
            "",
            "from jaxfm.tasks.registry import default_config",
            "",
            "",
            "def get_config() -> ml_collections.ConfigDict:",
            '    """Returns the config."""',
            f"    config = default_config({task!r})",
            *lines,
            "    return config",
            "",
        ]
    )


def _literal(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
