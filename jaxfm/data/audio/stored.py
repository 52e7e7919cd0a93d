"""Where a clip is kept: a file, bytes of a table, or samples in memory."""

import dataclasses
import hashlib
import pathlib

import numpy as np

from jaxfm.errors import UserError


class BadSoundError(UserError):
    """A clip that cannot be decoded: where it was read, and why."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StoredClip:
    """One clip that is not decoded yet. Exactly one of `path`, `data` and `array` is given.

    Attributes:
        origin: what messages call it: "clips/yes/1.wav" or "dir/train.parquet[7]".
        path: its file.
        data: the bytes of such a file.
        array: samples [N] or [N, channels]: real numbers from -1 to 1, or integers of 16 or 32 bits.
        rate: of an array: samples a second.
    """

    origin: str
    path: pathlib.Path | None = None
    data: bytes | None = None
    array: np.ndarray | None = None
    rate: int = 0

    def __post_init__(self) -> None:
        assert sum(each is not None for each in (self.path, self.data, self.array)) == 1, "one place for a recording"
        assert (self.array is None) == (self.rate == 0), "samples have a rate, files know theirs"

    def content(self) -> bytes:
        """Returns the bytes of the file; of an array those of its samples.

        Raises BadSoundError for a file that cannot be read.
        """
        if self.data is not None:
            return self.data
        if self.array is not None:
            return np.ascontiguousarray(self.array).tobytes()
        assert self.path is not None
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise BadSoundError(f"{self.origin}: cannot be read: {error.strerror or error}.") from None

    def digest(self, content: bytes | None = None) -> str:
        """Returns the sha256 of the content (read unless given) and, of an array, of its type, shape and rate."""
        described = f"{self.array.dtype.str} {self.array.shape} {self.rate} " if self.array is not None else ""
        return hashlib.sha256(described.encode() + (self.content() if content is None else content)).hexdigest()
