"""Safetensors files written tensor by tensor, and files of more than a size cut into several with an index."""

import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.hub.tensor_files import INDEX_FILE, SINGLE_FILE, StoredTensor, open_tensors

# As transformers' save_pretrained since version 5.
SHARD_SIZE = "50GB"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_F32_BYTES = 4
# transformers reads from the metadata how the file was laid out.
_METADATA = {"format": "pt"}


def parse_size(option: str, text: str) -> int:
    """Returns the bytes of a size as transformers writes it ("5GB"); UserError, which names the option, for another."""
    number, unit = text.strip()[:-2].strip(), text.strip()[-2:].upper()
    try:
        size = int(float(number) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise UserError(f"{option}={text}: must be a number with a unit, {', '.join(_UNITS)}: 5GB.") from error
    if size < 1:
        raise UserError(f"{option}={text}: must be at least one byte.")
    return size


def write_f32(
    path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]], parts: Callable[[str], Iterable[np.ndarray]]
) -> None:
    """Writes f32 tensors to one file, whole or not at all; one part of a tensor is in memory at a time.

    The bytes are those that safetensors itself writes.

    Args:
      path: of the file.
      shapes: name -> shape.
      parts: name -> the tensor's scalars in order, in one or more arrays.
    """
    names, end = sorted(shapes), 0
    header: dict[str, Any] = {"__metadata__": _METADATA}
    for name in names:
        start, end = end, end + _F32_BYTES * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with files.atomic_write(path, binary=True) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            written = 0
            for part in parts(name):
                values = np.ascontiguousarray(part, np.dtype("<f4"))
                file.write(values.reshape(-1).view(np.uint8).data)
                written += values.size
            assert written == math.prod(shapes[name]), f"{name}: {written} scalars for the shape {shapes[name]}"


def split(folder: pathlib.Path, size: int) -> None:
    """Cuts the model.safetensors of a folder into files of at most `size` bytes of tensors; a smaller one stays.

    Tensors are taken in order of their names; one that is larger than `size` has a file for itself.
    """
    tensors = open_tensors(folder)
    total = sum(_bytes(tensor) for tensor in tensors.values())
    if total <= size:
        return
    shards = _shards(tensors, size)
    if len(shards) == 1:
        return
    table: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        table |= dict.fromkeys(names, file)
        shapes = {name: tensors[name].shape for name in names}
        write_f32(folder / file, shapes, lambda name: tensors[name].chunks())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
    files.write_json(folder / INDEX_FILE, index)
    (folder / SINGLE_FILE).unlink()


def _shards(tensors: Mapping[str, StoredTensor], size: int) -> list[list[str]]:
    """Divides the tensors as transformers does: one that is larger than `size` does not end the file being filled."""
    shards: list[list[str]] = []
    current: list[str] = []
    filled = 0
    for name in sorted(tensors):
        count = _bytes(tensors[name])
        if count > size:
            shards.append([name])
            continue
        if filled + count > size:
            shards.append(current)
            current, filled = [], 0
        current.append(name)
        filled += count
    return [*shards, current] if current else shards


def _bytes(tensor: StoredTensor) -> int:
    assert tensor.dtype == np.float32, "as write_f32 writes"
    return _F32_BYTES * tensor.size
