"""The keys of a config as lines for a person."""

from collections.abc import Iterator

from jaxfm.config import Config
from jaxfm.schema import describe
from jaxfm.tasks import registry


def explain(config: Config) -> Iterator[str]:
    """Yields lines for a person: each key with its value, where that differs the default of its task, range and reason.

    The default is that of `registry.default_config(TASK)`, where every config file of the task starts.
    """
    group = ""
    own = registry.from_config_dict({"task": {"name": config.task.name}})
    defaults = {key.name: key.value for key in describe(own)}
    for key in describe(config):
        first = key.name.rpartition(".")[0]
        if first != group:
            group = first
            yield f"\n[{group}]"
        usual = defaults[key.name]
        default = "" if key.value == usual else f"; default {usual!r}"
        yield f"config.{key.name} = {key.value!r}  ({key.allowed}{default})"
        yield f"    {key.doc}"
