"""All files of a split decoded once before training: which are broken, what they hold, whether they stay in memory."""

import concurrent.futures
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxfm.data.text.packing import pack, shuffled
from jaxfm.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY_BYTES = 256 << 20
"""Bytes of a split's decoded files up to which they stay in memory; a larger split is decoded anew in every epoch."""
BROKEN = ("stop", "skip")
_AT_ONCE = 1024  # files in the threads that look at all of them
_THREADS = min(os.cpu_count() or 1, 16)
_NAMED = 5  # broken files that a note names


class Decoded(NamedTuple):
    """One file: the sha256 of its content, its array, and what else is to be known of it."""

    digest: str
    array: np.ndarray
    more: Any


class Looked(NamedTuple):
    """What decoding all files once has found: numbers and `more` of those that are whole, errors of the others."""

    kept: list[int]
    more: list[Any]
    content: str
    decoded: list[np.ndarray] | None
    broken: list[UserError]


def look(items: Sequence[Item], one: Callable[[Item], Decoded], bad: type[UserError], memory_bytes: int) -> Looked:
    """Decodes all `items` by `one`, which raises `bad` for a broken one; what is decoded is kept up to a size."""

    def tried(item: Item) -> Decoded | UserError:
        try:
            return one(item)
        except bad as error:
            return error

    kept: list[int] = []
    more: list[Any] = []
    broken: list[UserError] = []
    decoded: list[np.ndarray] | None = []
    digest, size = hashlib.sha256(), 0
    for number, found in enumerate(in_threads(tried, items)):
        if isinstance(found, UserError):
            broken.append(found)
            continue
        digest.update(found.digest.encode())
        kept.append(number)
        more.append(found.more)
        size += found.array.nbytes
        if decoded is not None:
            decoded.append(found.array)
        if size > memory_bytes:
            decoded = None
    return Looked(kept, more, digest.hexdigest(), decoded, broken)


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yields function(item) of each item, in order; a limited number of results is waiting at any time."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(items), _AT_ONCE):
            yield from threads.map(function, items[start : start + _AT_ONCE])


def stopped_message(broken: Sequence[UserError], count: int, many: str, option: str) -> str:
    """Returns the message of the first broken file, and of how many there are; `option` is the key that skips them."""
    more = f" And {len(broken) - 1:,} more of {count:,} {many} cannot be decoded." if len(broken) > 1 else ""
    skip = f", or set {option}=skip to leave such {many} out" if option else ""
    return f"{broken[0]}{more} Repair or remove what is broken{skip}."


def broken_notes(broken: Sequence[UserError], count: int, many: str) -> list[str]:
    """Returns what the log says of broken files that are left out."""
    if not broken:
        return []
    named = " ".join(map(str, broken[:_NAMED]))
    rest = f" and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return [f"{len(broken):,} of {count:,} {many} are broken and left out: {named}{rest}"]


def row_members(
    lengths: np.ndarray, row_length: int, packed: bool, seed: int | None, max_segments: int | None
) -> Sequence[np.ndarray]:
    """Returns of each row the numbers of what lies in it: one each, or `packed` as many as fit.

    With a seed they are shuffled first (training); without, the largest go first, which wastes least.
    """
    if not packed:
        return list(np.arange(len(lengths))[:, None])
    order = np.argsort(-lengths, kind="stable") if seed is None else shuffled(len(lengths), seed)
    return [order[members] for members in pack(lengths[order], row_length, max_segments)]
