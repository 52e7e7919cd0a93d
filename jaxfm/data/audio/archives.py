"""`npz:FILE`: clips of an archive of NumPy, all samples of a split end to end.

audio_SPLIT      samples of all clips, int16, int32 or real numbers from -1 to 1
offsets_SPLIT    integers: clip i is audio_SPLIT[offsets_SPLIT[i] : offsets_SPLIT[i + 1]]
sample_rate      samples a second
NAME_SPLIT       of each clip, such as its class: a column NAME
NAME_names       optional: names of the numbers 0, 1, 2 ... of that column
"""

import functools
import pathlib
import zipfile
from typing import Any

import numpy as np

from jaxfm.data.audio.stored import StoredClip
from jaxfm.data.records.source_files import nearest_folder
from jaxfm.data.records.splits import canonical_split
from jaxfm.data.records.table import Table, Tables, listed, memory_table
from jaxfm.errors import UserError
from jaxfm.files import expanded

FORM = "npz:FILE"
_AUDIO, _OFFSETS = "audio_", "offsets_"


def open_archive(rest: str, *, texts: bool = False) -> Tables:
    """Returns the splits of an archive as tables: audio, and a column for each array that has a value a clip.

    With `texts` whole numbers are read as texts: as their names where they have some, else in digits.

    Raises UserError: no such file, one that is damaged or holds Python objects, arrays that are missing or do not fit
    together.
    """
    if not rest:
        raise UserError("npz: needs a file after the colon.")
    path = expanded(rest)
    if not path.is_file():
        raise UserError(f"npz:{rest}: no such file; {nearest_folder(path)}.")
    arrays = _read(path)
    splits = {}
    for name in arrays:
        split = canonical_split(name.removeprefix(_AUDIO)) if name.startswith(_AUDIO) else None
        if split is None:
            continue
        if split in splits:
            raise UserError(f"{path}: two arrays {_AUDIO}... could be the split {split!r}.")
        splits[split] = functools.partial(_open, path, arrays, name.removeprefix(_AUDIO), texts=texts)
    if not splits:
        raise UserError(f"{path}: no array {_AUDIO}train, valid or test; it has {listed(sorted(arrays))}.")
    return Tables(splits, f"arrays {listed(sorted(arrays))}")


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is not an archive of plain arrays (.npz), or it is damaged: {error}.") from None


def _open(path: pathlib.Path, arrays: dict[str, np.ndarray], split: str, *, texts: bool) -> Table:
    audio, offsets = arrays[_AUDIO + split], arrays.get(_OFFSETS + split)
    rate = arrays.get("sample_rate")
    if rate is None or rate.size != 1 or not np.issubdtype(rate.dtype, np.integer):
        raise UserError(f"{path}: needs sample_rate, one integer: samples a second.")
    if offsets is None or offsets.ndim != 1 or not np.issubdtype(offsets.dtype, np.integer) or len(offsets) < 2:
        raise UserError(
            f"{path}: needs {_OFFSETS}{split}, integers [clips + 1]: where the clips of {_AUDIO}{split} begin."
        )
    if offsets[0] < 0 or offsets[-1] > len(audio) or (np.diff(offsets) <= 0).any():
        raise UserError(
            f"{path}: {_OFFSETS}{split} must rise, from 0 to at most the {len(audio):,} samples of {_AUDIO}{split}."
        )
    count, columns = len(offsets) - 1, {}
    for name, array in arrays.items():
        own = name.removesuffix(f"_{split}")
        if own == name or name in (_AUDIO + split, _OFFSETS + split):
            continue
        if array.ndim != 1 or len(array) != count:
            raise UserError(f"{path}: {name} has the shape {array.shape}, but {split} has {count:,} clips.")
        columns[own] = _as_texts(path, arrays, name, own) if texts and array.dtype.kind in "iu" else array.tolist()
    rows: list[tuple[str, list[Any]]] = []
    for number in range(count):
        origin = f"{path}:{split}[{number}]"
        clip = StoredClip(origin, array=audio[offsets[number] : offsets[number + 1]], rate=int(rate.reshape(())))
        rows.append((origin, [clip, *(values[number] for values in columns.values())]))
    table = memory_table(f"{path}:{split}", ("audio", *columns), rows)
    named = {own: arrays[f"{own}_names"].tolist() for own in columns if f"{own}_names" in arrays and not texts}
    return Table(table.source, table.declared, table.read, named, table.size)


def _as_texts(path: pathlib.Path, arrays: dict[str, np.ndarray], name: str, column: str) -> list[str]:
    """Returns whole numbers as their names, or in digits."""
    numbers, names = arrays[name].tolist(), arrays.get(f"{column}_names")
    if names is None:
        return list(map(str, numbers))
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(names):
        raise UserError(f"{path}: {name} has the numbers {min(numbers)} to {max(numbers)}, but {len(names)} names.")
    return [str(names[number]) for number in numbers]
