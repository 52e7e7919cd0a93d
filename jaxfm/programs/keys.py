"""The keys of a config as lines for a person."""

from collections.abc import Iterator

from jaxfm.config import Config
from jaxfm.schema import describe


def explain(config: Config) -> Iterator[str]:
    """Yields lines for a person: each key with its value, where that differs its default, its range and its reason."""
    group = ""
    for key in describe(config):
        first = key.name.rpartition(".")[0]
        if first != group:
            group = first
            yield f"\n[{group}]"
        default = "" if key.value == key.default else f"; default {key.default!r}"
        yield f"config.{key.name} = {key.value!r}  ({key.allowed}{default})"
        yield f"    {key.doc}"
