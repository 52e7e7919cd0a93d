"""Where an image is kept: a file, a part of one (a member of a tar), bytes of a table, or an array in memory."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from jaxfm.errors import UserError


class BadImageError(UserError):
    """An image that cannot be decoded: where it was read, and why."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """One image that is not decoded yet. Exactly one of `path`, `data` and `array` is given.

    Attributes:
        origin: what messages call it: "photos/cat/1.png" or "dir/train.parquet[7]".
        path: its file, or the file that it is a part of.
        data: the bytes of such a file.
        array: pixels [H, W] or [H, W, C] with 1 to 4 channels, uint8, uint16 (scaled to 8 bits) or bool. Two and four
            channels have transparency last.
        offset: of a part of a file: where its bytes begin.
        size: of a part of a file: how many bytes; -1: the whole file.
    """

    origin: str
    path: pathlib.Path | None = None
    data: bytes | None = None
    array: np.ndarray | None = None
    offset: int = 0
    size: int = -1

    def __post_init__(self) -> None:
        assert sum(each is not None for each in (self.path, self.data, self.array)) == 1, "one place for an image"

    def content(self) -> bytes:
        """Returns the bytes of the file; of an array those of its pixels.

        Raises BadImageError for a file that cannot be read.
        """
        if self.data is not None:
            return self.data
        if self.array is not None:
            return np.ascontiguousarray(self.array).tobytes()
        assert self.path is not None
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise BadImageError(f"{self.origin}: cannot be read: {error.strerror or error}.") from None

    def digest(self, content: bytes | None = None) -> str:
        """Returns the sha256 of the content (read unless given) and, of an array, of its type and shape."""
        described = f"{self.array.dtype.str} {self.array.shape} " if self.array is not None else ""
        return hashlib.sha256(described.encode() + (self.content() if content is None else content)).hexdigest()
