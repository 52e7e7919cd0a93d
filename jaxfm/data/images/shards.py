"""`webdataset:DIR`: tar files whose members are grouped by name: a.jpg and a.cls, a.txt or a.json are one record.

A shard is read where it lies: nothing is unpacked, so no name of a member ever becomes a path. An image stays in its
shard until it is decoded.
"""

import functools
import json
import pathlib
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

from jaxfm.data.images.stored import StoredImage
from jaxfm.data.images.suffixes import SUFFIXES
from jaxfm.data.records.source_files import file_names, files_size, find_corpus_files
from jaxfm.data.records.table import Row, Table, Tables
from jaxfm.errors import UserError

FORM = "webdataset:DIR"
_MOST_META = 1 << 20  # bytes of a label, a caption or a JSON object


def open_shards(rest: str) -> Tables:
    """Returns the splits of tar files as tables.

    `rest` is a folder, a glob, a file or `train=PATH,valid=PATH,test=PATH`; files without the name of a split are of
    train. A record has the column image, the members `cls` and `txt` by these names, and the fields of a `json` member.
    Raises UserError: no such files.
    """
    files = find_corpus_files(rest, "webdataset", (".tar",))
    openers = {split: functools.partial(_open, paths) for split, paths in files.items()}
    return Tables(openers, "; ".join(f"{split}: {files_size(paths)}" for split, paths in files.items()))


def _open(paths: Sequence[pathlib.Path]) -> Table:
    return Table(file_names(paths), None, functools.partial(_read, paths), size=files_size(paths))


def _read(paths: Sequence[pathlib.Path], asked: Sequence[str] | None) -> Iterator[Row]:
    for path in paths:
        for origin, values in _records(path):
            yield Row(origin, values if asked is None else {name: values[name] for name in asked if name in values})


def _records(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (shard/key, values) of neighbouring members with one key. Raises UserError naming the shard."""
    size = path.stat().st_size
    origin, values = "", {}
    done: set[str] = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is cut")
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not stem or not suffix:
                    continue
                here = f"{path}/{f'{folder}/' if folder else ''}{stem}"
                if here != origin:
                    if origin:
                        yield origin, values
                    done.add(origin)
                    if here in done:
                        raise UserError(
                            f"{here}: its members lie apart from each other in the shard; those of one record must be "
                            "neighbours (tar --sort=name)."
                        )
                    origin, values = here, {}
                _add(values, archive, member, suffix.lower(), path, origin)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{path}: the tar file is damaged, cut or compressed: {error}. A shard is a plain .tar; copy it again."
        ) from None
    if origin:
        yield origin, values


def _add(
    values: dict[str, Any],
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    suffix: str,
    path: pathlib.Path,
    origin: str,
) -> None:
    """Adds what a member holds to the values of its record."""
    if f".{suffix}" in SUFFIXES:
        if "image" in values:
            raise UserError(f"{origin}: has two images, {values['image'].origin.rpartition('/')[2]} and {member.name}.")
        values["image"] = StoredImage(f"{path}/{member.name}", path=path, offset=member.offset_data, size=member.size)
        return
    if suffix not in ("cls", "txt", "json"):
        return
    if member.size > _MOST_META:
        raise UserError(f"{origin}.{suffix}: is {member.size:,} bytes; a label, caption or object has at most 1 MiB.")
    file = archive.extractfile(member)
    assert file is not None, "it is a file"
    try:
        text = file.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{origin}.{suffix}: not UTF-8 ({error.reason}).") from None
    if suffix != "json":
        values[suffix] = text
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}.json: not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{origin}.json: a {type(found).__name__}, but it must be one object.")
    values |= {name: value for name, value in found.items() if name != "image"}
