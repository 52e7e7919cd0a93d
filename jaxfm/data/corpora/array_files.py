"""Arrays in .npy files that jaxfm wrote: their headers are compared with what must be there, and never evaluated.

NumPy's own reader runs the header through Python's parser and takes memory for whatever shape it claims.
"""

import math
import os
import pathlib
import re

import numpy as np

from jaxfm.errors import UserError

_MAGIC = b"\x93NUMPY\x01\x00"  # of format 1.0, which NumPy writes unless a header has more than 65,535 bytes
_MOST_HEADER = 1024
_HEADER = re.compile(
    rb"\{'descr': '([<|][fiu][1248])', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n"
)


def map_array(path: pathlib.Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array in a file, [N, *shape] of any N, mapped into memory for reading.

    Raises UserError: it is absent, of another type or shape, or has fewer bytes than its header says.
    """
    try:
        with open(path, "rb") as file:
            found_dtype, found_shape, offset = _header(file.read(_MOST_HEADER), path)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if found_dtype != dtype or found_shape[1:] != shape or not found_shape:
        raise UserError(
            f"{path}: holds {found_dtype} of shape {list(found_shape)}, but must hold {dtype} of shape "
            f"{['N', *shape]}: it was changed after it was written."
        )
    bytes_wanted = math.prod(found_shape) * dtype.itemsize  # exact, of Python's integers
    if size < offset + bytes_wanted:
        raise UserError(
            f"{path}: has {size:,} bytes of the {offset + bytes_wanted:,} that its header says: it was cut."
        )
    if not bytes_wanted:  # nothing can be mapped
        return np.zeros(found_shape, dtype)
    return np.memmap(path, dtype, "r", offset, found_shape)


def _header(start: bytes, path: pathlib.Path) -> tuple[np.dtype, tuple[int, ...], int]:
    """Returns type and shape of an array, and where its numbers begin, from the first bytes of its file."""
    end = 10 + int.from_bytes(start[8:10], "little")
    match = _HEADER.fullmatch(start[10:end])
    if not start.startswith(_MAGIC) or match is None:
        raise UserError(f"{path}: does not begin as an array of numbers does: it was changed after it was written.")
    shape = tuple(int(axis) for axis in match[2].split(b",") if axis.strip())
    return np.dtype(match[1].decode()), shape, end
