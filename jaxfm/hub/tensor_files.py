"""The tensors of a directory's safetensors files: names, types and shapes at once, numbers when they are asked for.

Files are read, not mapped into memory: pages of a map count as the process' own as long as the system keeps them.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import IO, Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import safetensors

from jaxfm.errors import UserError
from jaxfm.hub.directory import json_object, listing

INDEX_FILE, SINGLE_FILE = "model.safetensors.index.json", "model.safetensors"
# Bytes that are read at once where a tensor need not be held whole.
CHUNK_BYTES = 8 * 2**20
_MOST_SHARDS = 10_000
_MOST_AXES = 32
_MOST_HEADER = 100_000_000  # bytes, as safetensors itself has it
# Names of types in the header, for numpy. Types that it does not have (8-bit floats of several kinds) are refused.
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "BOOL": np.bool_,
}
_CONVERT = (
    "convert it once where torch is installed (AutoModelForMaskedLM, or the class of its head, .from_pretrained(NAME)"
    ".save_pretrained(NEW_DIR)) and take dir:NEW_DIR."
)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
      path: of the file.
      dtype: of the numbers in it.
      shape: sizes of its axes.
      offset: of its first byte in the file.
      stamp: of the file when its header was read (`_stamp`).
    """

    path: pathlib.Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    stamp: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the scalars number `start` to `stop` - 1 of the flat tensor; UserError where the file changed."""
        values = np.empty(stop - start, self.dtype)
        self._fill(values, start)
        return values

    def rows_f32(self, start: int, stop: int) -> np.ndarray:
        """Returns rows of the first axis in f32; of another type no more than a chunk is held beside the result."""
        width = math.prod(self.shape[1:])
        values = np.empty((stop - start) * width, np.float32)
        if self.dtype == np.float32:
            self._fill(values, start * width)
        else:
            for first, last in _chunks(len(values), self.dtype.itemsize):
                values[first:last] = self.read(start * width + first, start * width + last)
        return values.reshape(stop - start, *self.shape[1:])

    def chunks(self) -> Iterator[np.ndarray]:
        """Yields the flat tensor in pieces of at most CHUNK_BYTES."""
        for first, last in _chunks(self.size, self.dtype.itemsize):
            yield self.read(first, last)

    def _fill(self, values: np.ndarray, start: int) -> None:
        view = values.view(np.uint8).data
        try:
            with self.path.open("rb", buffering=0) as file:
                if _stamp(file) != self.stamp:
                    raise UserError(f"{self.path}: was changed or replaced after its header was read. Start again.")
                file.seek(self.offset + start * self.dtype.itemsize)
                while view and (count := file.readinto(view)):
                    view = view[count:]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error}).") from error
        assert not view, "the header says that these bytes are there, and the file is as it was"


def _stamp(file: IO[bytes]) -> tuple[int, ...]:
    """Returns what changes when a file is written or replaced."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _chunks(size: int, itemsize: int) -> Iterator[tuple[int, int]]:
    step = CHUNK_BYTES // itemsize
    for first in range(0, size, step):
        yield first, min(first + step, size)


def open_tensors(
    directory: pathlib.Path, old_names: Mapping[str, str] = MappingProxyType({})
) -> dict[str, StoredTensor]:
    """Returns all tensors of a directory, under the names of today; only headers are read.

    Args:
      directory: with one or many safetensors files.
      old_names: part of a name in older files -> that part today (`Family.renamed`).

    Raises:
      UserError: no safetensors (a .bin is refused: it is a pickle), a file that is damaged, a tensor stored twice.
    """
    found: dict[str, StoredTensor] = {}
    for path in _safetensors_files(directory):
        for name, tensor in _tensors_of(path).items():
            own = renamed(name, old_names)
            if own in found:
                both = " and ".join(dict.fromkeys((found[own].path.name, path.name)))
                raise UserError(f"{directory}: the tensor {own!r} is there twice, in {both}. Fetch it again.")
            found[own] = tensor
    return found


def equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors hold the same numbers."""
    if one.shape != other.shape:
        return False
    if one.dtype != other.dtype:  # chunks would be of different lengths
        return np.array_equal(one.read(0, one.size), other.read(0, other.size))
    return all(np.array_equal(a, b) for a, b in zip(one.chunks(), other.chunks(), strict=True))


def check_floating(name: str, dtype: np.dtype[Any], where: str) -> None:
    """Raises UserError where weights are not floating-point numbers."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"{where}: {name!r} holds {dtype} numbers. Weights are read as floating-point numbers; quantised "
            "ones must be converted first."
        )


def check_finite(name: str, parts: Iterable[np.ndarray], where: str) -> None:
    """Raises UserError where weights, given in parts, are NaN or infinite (in f32)."""
    wrong = size = 0
    for part in parts:
        size += part.size
        with np.errstate(all="ignore"):
            values = part.astype(np.float32, copy=False)
            if not np.isfinite(values.sum()):  # one pass; a sum of finite numbers may overflow
                wrong += values.size - np.count_nonzero(np.isfinite(values))
    if wrong:
        raise UserError(
            f"{where}: {wrong:,} of the {size:,} numbers of {name!r} are NaN or infinite: these weights were damaged, "
            "or saved after a training that diverged. Take an earlier checkpoint."
        )


def _tensors_of(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Reads the header of one file, which safetensors itself checks: sizes, offsets, that nothing is missing."""
    try:
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        if length > min(_MOST_HEADER, size - 8):
            raise UserError(
                f"{path}: says that its header has {length:,} bytes, but the file has {size:,} and a header at most "
                f"{_MOST_HEADER:,}: it is cut, or no safetensors file. Fetch it again."
            )
        with safetensors.safe_open(path, framework="numpy"), path.open("rb") as file:
            stamp = _stamp(file)
            file.seek(8)
            header = json.loads(file.read(length))
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not a whole safetensors file ({error}). Fetch it again.") from error
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise UserError(f"{path}: {name!r} holds a type of numbers that is not read here ({entry['dtype']}).")
        shape = tuple(entry["shape"])
        # Of a tensor without numbers the other axes may claim anything.
        if len(shape) > _MOST_AXES or math.prod(axis or 1 for axis in shape) >= 2**60:
            raise UserError(
                f"{path}: {name!r:.80} has the shape {list(shape)!r:.80}, which no tensor has. Fetch it again."
            )
        dtype, offset = np.dtype(_DTYPES[entry["dtype"]]), 8 + length + entry["data_offsets"][0]
        tensors[name] = StoredTensor(path, dtype, shape, offset, stamp)
    return tensors


def _safetensors_files(directory: pathlib.Path) -> list[pathlib.Path]:
    single, index = directory / SINGLE_FILE, directory / INDEX_FILE
    if single.is_file():
        return [single]
    if index.is_file():
        names = _shards(index)
        outside = [name for name in names if pathlib.PurePath(name).name != name or "\0" in name]
        if outside:
            raise UserError(f"{index}: names files outside its directory: {outside[:8]}.")
        if len(names) > _MOST_SHARDS:
            raise UserError(f"{index}: names {len(names):,} files; no checkpoint has more than {_MOST_SHARDS:,}.")
        missing = [name for name in names if not os.path.isfile(directory / name)]  # also one too long for a name
        if missing:
            raise UserError(f"{directory}: {', '.join(missing)} listed in {index.name} but not there.")
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.h5") for path in directory.glob(pattern))
    if pickles:
        raise UserError(
            f"{directory}: has {pickles[0]} but no model.safetensors. jaxfm reads safetensors only (a .bin is a pickle "
            f"and can run code): {_CONVERT}"
        )
    hint = " Pickles of a hub repository (pytorch_model.bin) are not fetched: if it has nothing else, " + _CONVERT
    raise UserError(
        f"{directory}: has no model.safetensors (found: {listing(directory)})."
        f"{hint if directory.parent.name == 'snapshots' else ''}"
    )


def _shards(index: pathlib.Path) -> list[str]:
    """Names of the files that an index says hold the tensors."""
    table = json_object(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{index}: has no 'weight_map' from tensors to files. Fetch it again.")
    return sorted(set(table.values()))


def renamed(name: str, old_names: Mapping[str, str]) -> str:
    """Returns the name of today of a tensor.

    The first BERT checkpoints carry TensorFlow's names of layer-norm parameters; transformers renames them too.
    """
    for old, new in {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias", **old_names}.items():
        name = name.replace(old, new)
    return name
