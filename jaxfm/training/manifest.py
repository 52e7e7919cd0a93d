"""The list of a checkpoint's files and their sizes: written last, so that what has it was written whole.

It tells a checkpoint that was copied in part, or whose file was cut, without reading the file. What is in the files is
told by the hashes of the arrays (`jaxfm.training.checkpoint.array_hashes`), wherever a checkpoint is read.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError

MANIFEST_FILE = "manifest.json"
_VERSION = 1
# Orbax writes times into it after everything else, and reads nothing from it here.
_CHANGED_LATER = "_CHECKPOINT_METADATA"


def write(folder: pathlib.Path) -> None:
    """Writes the manifest of a checkpoint's folder, in one step; OSError where the disk refuses it."""
    sizes = {name: size for name, size in _sizes(folder).items() if pathlib.Path(name).name != _CHANGED_LATER}
    files.write_json(folder / MANIFEST_FILE, {"version": _VERSION, "files": sizes})


def check(folder: pathlib.Path, parts: Sequence[str]) -> None:
    """Raises UserError, which names the file, unless the folders `parts` of a checkpoint have all files in full.

    Files that the manifest does not name are of no account, and checkpoints of before there were manifests have none.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return
    for name, size in read(path).items():
        if pathlib.PurePosixPath(name).parts[0] not in parts:
            continue
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file}: no such file, but {MANIFEST_FILE} has it with {size:,} bytes.")
        if (found := file.stat().st_size) != size:
            raise UserError(f"{file}: has {found:,} bytes, not the {size:,} of {MANIFEST_FILE}.")


def read(path: pathlib.Path) -> Mapping[str, int]:
    """Returns file -> bytes of a manifest; UserError for what is none."""
    listed: Any = files.read_versioned(path, _VERSION).get("files")
    if not isinstance(listed, dict) or not all(type(size) is int and name for name, size in listed.items()):
        raise UserError(f'{path}: its "files" are not a list of files and sizes.')
    return listed


def _sizes(folder: pathlib.Path) -> dict[str, int]:
    """Returns file -> bytes of all files under a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
