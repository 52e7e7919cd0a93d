"""What a reader is to the fuzz, and the table of all of them."""

import dataclasses
import functools
import importlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from profiles.faults import mutations

MODULES = tuple(f"profiles.faults.{name}_readers" for name in ("record", "hub", "run", "state"))
Seeds = Callable[[], Sequence[bytes]]

BYTES = (mutations.of_bytes,)
TEXT = (mutations.of_bytes, mutations.of_lines, mutations.of_lines)
JSON = (mutations.of_bytes, mutations.of_json, mutations.of_json, mutations.of_json)
JSON_LINES = (mutations.of_bytes, mutations.of_lines, mutations.of_json_lines, mutations.of_json_lines)


class EscapedError(Exception):
    """A reader gave something that lies outside the folder it was to read."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A way in which programs read a file that somebody else may have written.

    Attributes:
      name: of the reader, and of the folder with its finds.
      file: name of the file that is fuzzed, in a folder of its own.
      seeds: returns valid inputs.
      read: reads the folder as programs do, all of it. Raises UserError for what is wrong with the file; anything else
        is a find.
      mutations: which make hostile inputs of valid ones.
      prepare: writes what lies beside the file, once for each folder.
      share: of every 10,000 inputs.
      mebibytes: memory that one input may take.
      places: what an error may name in place of the folder.
    """

    name: str
    file: str
    seeds: Seeds
    read: Callable[[pathlib.Path], Any]
    mutations: Sequence[mutations.Mutation]
    prepare: Callable[[pathlib.Path], None] = lambda folder: None
    share: int = 100
    mebibytes: int = 300
    places: tuple[str, ...] = ()


def texts(*seeds: str) -> Seeds:
    """Returns seeds of texts."""
    return lambda: [seed.encode() for seed in seeds]


def exhaust(values: Iterable[Any]) -> int:
    """Takes all values, one at a time; returns their number."""
    return sum(1 for _ in values)


def require_inside(folder: pathlib.Path, paths: Iterable[pathlib.Path | None]) -> None:
    """Raises EscapedError for a path that leads out of the folder, if only by a link."""
    root = folder.resolve()
    for path in paths:
        if path is not None and not path.resolve().is_relative_to(root):
            raise EscapedError(f"{path} was read from {folder}")


@functools.cache
def table(modules: tuple[str, ...] = MODULES) -> Mapping[str, Reader]:
    """Returns name -> reader of modules with READERS."""
    found: Iterator[Reader] = (reader for name in modules for reader in importlib.import_module(name).READERS)
    return {reader.name: reader for reader in found}
