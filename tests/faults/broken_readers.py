"""Readers with faults of every kind, which the fuzz must find."""

import os
import pathlib
import time
import warnings

from jaxfm.errors import UserError
from profiles.faults.readers import BYTES, EscapedError, Reader, require_inside, texts

_HELD: list[bytes] = []


def _content(folder: pathlib.Path) -> bytes:
    return (folder / "file").read_bytes()


def _raises(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        raise KeyError("x")


def _says_no_place(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        raise UserError("there is no x.")


def _warns(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        warnings.warn("no x", stacklevel=1)


def _takes_memory(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        _HELD[:] = [b"1" * (400 << 20)]
        _HELD.clear()


def _works_long(folder: pathlib.Path) -> None:
    begun, lacks = time.process_time(), b"x" not in _content(folder)
    while lacks and time.process_time() - begun < 60:
        pass


def _ends(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        os._exit(7)


def _escapes(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        require_inside(folder, [folder / ".." / "other"])


def _is_right(folder: pathlib.Path) -> None:
    if b"x" not in _content(folder):
        raise UserError(f"{folder / 'file'}:1: there is no x.")


FAULTS = {
    "raises": (_raises, "KeyError at broken_readers.py"),
    "says_no_place": (_says_no_place, "a message without its place: there is no x."),
    "warns": (_warns, "UserWarning at broken_readers.py"),
    "takes_memory": (_takes_memory, "memory"),
    "works_long": (_works_long, "TooSlowError at broken_readers.py"),
    "escapes": (_escapes, f"{EscapedError.__name__} at readers.py"),
}
READERS = tuple(
    Reader(name, "file", texts("axb\n"), read, BYTES)
    for name, read in {**{name: read for name, (read, _) in FAULTS.items()}, "ends": _ends, "right": _is_right}.items()
)
