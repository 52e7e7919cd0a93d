"""What a reader of files must know of a medium: its words, its files, its sources, what a value of a table may be."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxfm.data.records.table import Tables


class Stored(Protocol):
    """Something that is not decoded yet: a file, bytes, an array."""

    @property
    def origin(self) -> str:
        """What messages call it."""
        ...

    def digest(self, content: bytes | None = None) -> str:
        """Returns the sha256 of its content."""
        ...


@dataclasses.dataclass(frozen=True)
class Medium:
    """Images, or sound.

    Attributes:
        name: of its usual column and of the config's key for it: "image" of `data.image_column`.
        one: in words, with its article: "an image".
        many: "images".
        scheme: of folders of its files: "images" of `images:DIR`.
        suffixes: endings of its files' names.
        sure_columns: names of columns that are taken before all others.
        columns: further usual names.
        forms: sources that its reader knows beside the formats of tables.
        open_own: scheme -> what opens a source of it, of what follows the colon, "none", "single" or "multi", and
            whether texts are asked for.
        of_path: what a file is, by what messages call it.
        of_value: what a value of a table is, read at an origin: bytes, an array ...; None where it is none of these.
        values: what a value may be beside a path, in words.
    """

    name: str
    one: str
    many: str
    scheme: str
    suffixes: tuple[str, ...]
    sure_columns: tuple[str, ...]
    columns: tuple[str, ...]
    forms: tuple[str, ...]
    open_own: Mapping[str, Callable[[str, str, bool], Tables]]
    of_path: Callable[[str, pathlib.Path], Any]
    of_value: Callable[[Any, str], Any]
    values: str


def noun(medium: Medium) -> str:
    """Returns the word for one, without its article."""
    return medium.one.partition(" ")[2]
