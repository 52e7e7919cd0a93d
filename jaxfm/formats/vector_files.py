"""Vectors in files of numpy or parquet: as f32, or in a quarter or a thirty-second of that (int8, one bit a number).

The smaller forms are those of sentence-transformers' `quantize_embeddings` (6.2.0, util/quantization.py), so that what
searches those searches these.
"""

# N vectors, n those of a portion, D numbers of a vector

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError

FORMS = ("float32", "int8", "binary")
ENDINGS = (".npy", ".parquet")
_PORTION = 4096  # vectors in memory
_BITS = 8

Portion = tuple[np.ndarray, Sequence[dict[str, Any]]]
"""Vectors f32 [n, D], and of each the fields that parquet keeps beside it ("id", "text")."""


def check_output(output: pathlib.Path, form: str, dimension: int) -> None:
    """Raises UserError where vectors of that dimension cannot be written to a file in that form."""
    assert form in FORMS
    if output.suffix == ".npy" and files.is_stream(output):
        raise UserError(f"--output={output}: the number of vectors is written last, at the start: name a file.")
    if form == "binary" and dimension % _BITS:
        raise UserError(
            f"--vectors=binary: needs a multiple of 8 numbers a vector, but there are {dimension}: take int8."
        )


def ranges_file(output: pathlib.Path) -> pathlib.Path:
    """Returns the file beside int8 vectors that holds the range of each number."""
    return output.with_name(f"{output.name}.ranges.npy")


def to_int8(vectors: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Returns int8 [n, D]: the 256 parts of each number's range, counted from -128.

    Args:
      vectors: f32 [n, D].
      ranges: f32 [2, D], the least and the greatest value of each number.
    """
    steps = (ranges[1] - ranges[0]) / 255
    steps = np.where(steps == 0, 1, steps)
    return (np.clip(np.floor((vectors - ranges[0]) / steps), 0, 255) - 128).astype(np.int8)


def to_binary(vectors: np.ndarray) -> np.ndarray:
    """Returns int8 [n, D / 8]: a bit a number, 1 where it is above 0, of eight the first one highest; 128 less."""
    return (np.packbits(vectors > 0, axis=-1) - 128).astype(np.int8)


def write_vectors(output: pathlib.Path, portions: Iterable[Portion], dimension: int, form: str) -> int:
    """Writes vectors to a file, whole or not at all, with a few thousand in memory; returns their number.

    int8 needs the ranges of all vectors before it can write the first: they are kept beside the output meanwhile, in a
    file without a name, and the ranges stay (`ranges_file`).

    Args:
      output: .npy (an array [N, D], or [N, D / 8] of bits) or .parquet (a column "vector", and fields).
      portions: in order.
      dimension: D.
      form: one of FORMS.

    Raises:
      UserError: as `check_output`.
    """
    check_output(output, form, dimension)
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if form == "int8":
            stored = stack.enter_context(tempfile.TemporaryFile(dir=output.resolve().parent))
            ranges = _store(stored, portions, dimension)
            with files.atomic_write(ranges_file(output), binary=True) as file:
                np.save(file, ranges)
            portions = _restored(stored, dimension)
            return _write(output, portions, dimension, np.dtype(np.int8), lambda found: to_int8(found, ranges))
        if form == "binary":
            return _write(output, portions, dimension // _BITS, np.dtype(np.int8), to_binary)
        return _write(output, portions, dimension, np.dtype(np.float32), lambda found: found.astype(np.float32))


def _store(file: IO[bytes], portions: Iterable[Portion], dimension: int) -> np.ndarray:
    """Writes vectors and their fields one after the other; returns the range of each number, f32 [2, D]."""
    least, greatest = np.full(dimension, np.inf, np.float32), np.full(dimension, -np.inf, np.float32)
    for vectors, fields in portions:
        least, greatest = np.minimum(least, vectors.min(axis=0)), np.maximum(greatest, vectors.max(axis=0))
        text = json.dumps(list(fields)).encode()
        file.write(np.asarray([len(vectors), len(text)], "<i8").tobytes() + text)
        file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
    return np.where(np.isfinite(greatest), np.stack([least, greatest]), 0).astype(np.float32)


def _restored(file: IO[bytes], dimension: int) -> Iterator[Portion]:
    file.seek(0)
    while head := file.read(16):
        count, size = np.frombuffer(head, "<i8").tolist()
        fields = json.loads(file.read(size))
        yield np.frombuffer(file.read(4 * count * dimension), "<f4").reshape(count, dimension), fields


def _write(
    output: pathlib.Path,
    portions: Iterable[Portion],
    width: int,
    dtype: np.dtype[Any],
    convert: Callable[[np.ndarray], np.ndarray],
) -> int:
    write = _write_npy if output.suffix == ".npy" else _write_parquet
    with files.atomic_write(output, binary=True) as file:
        return write(file, ((convert(vectors), fields) for vectors, fields in portions), width, dtype)


def _write_npy(file: IO[bytes], portions: Iterable[Portion], width: int, dtype: np.dtype[Any]) -> int:
    """Writes an array whose length is known at the end: numpy's headers leave room for it."""
    count = 0
    _npy_header(file, count, width, dtype)
    start = file.tell()
    for vectors, _ in portions:
        file.write(np.ascontiguousarray(vectors, dtype).tobytes())
        count += len(vectors)
    file.seek(0)
    _npy_header(file, count, width, dtype)
    assert file.tell() == start, "the header grew"
    file.seek(0, 2)
    return count


def _npy_header(file: IO[bytes], count: int, width: int, dtype: np.dtype[Any]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, described)


def _write_parquet(file: IO[bytes], portions: Iterable[Portion], width: int, dtype: np.dtype[Any]) -> int:
    """Writes a column of lists of one length, and columns of the fields, text each."""
    import pyarrow as pa  # half a second
    import pyarrow.parquet as pq

    kind = pa.list_(pa.from_numpy_dtype(dtype), width)
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("vector", kind)])
    count = 0
    with pq.ParquetWriter(file, schema) as writer:
        for vectors, fields in portions:
            flat = pa.array(np.ascontiguousarray(vectors, dtype).reshape(-1))
            columns = [pa.array([_text(each.get(name)) for each in fields], pa.string()) for name in ("id", "text")]
            writer.write_batch(pa.record_batch([*columns, pa.FixedSizeListArray.from_arrays(flat, width)], schema))
            count += len(vectors)
    return count


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
