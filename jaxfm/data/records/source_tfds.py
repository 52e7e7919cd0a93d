"""`tfds:NAME[:CONFIG]` or `tfds:NAME/CONFIG`: tensorflow-datasets without TensorFlow, from ArrayRecord files."""

import functools
import importlib
import os
import pathlib
import re
import reprlib
import socket
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.records.source_records import (
    TAGS_FIELDS,
    WORDS_FIELDS,
    Columns,
    RawSplit,
    SplitBuilder,
    Splits,
    choose_document_field,
    choose_field,
    name_tags,
    named_splits,
)
from jaxfm.data.records.source_table import Record, Table, Tables
from jaxfm.errors import UserError, did_you_mean

_NAME = re.compile(r"([a-z][a-z0-9_]*)(?:[:/]([\w.-]+))?")
_CHUNK = 1000  # records decoded at a time


def find_tfds(rest: str, columns: Columns) -> Splits:
    """Returns the splits of a data set, which is downloaded and prepared first where it is not yet (TFDS_DATA_DIR).

    Raises UserError: no such name or configuration, not prepared and no way to get it, prepared in another file format.
    """
    builder = open_tfds(rest, "conll:DIR, jsonl:DIR, brat:DIR, csv:DIR or parquet:DIR")
    names = named_splits(builder.info.splits, f"tfds:{rest}")
    readers = {split: functools.partial(_read, builder, name, rest, columns) for split, name in names.items()}
    return Splits(readers, f"its own splits: {', '.join(builder.info.splits)}")


def find_tfds_tables(rest: str, names: Mapping[str, str]) -> Tables:
    """Returns the splits of a data set as tables, prepared first where it is not yet; raises as `open_tfds`.

    `names` says which of its splits are train, valid and test; empty: the usual ones.
    """
    builder = open_tfds(rest, "csv:DIR, tsv:DIR, jsonl:DIR or parquet:DIR")
    names = names or named_splits(builder.info.splits, f"tfds:{rest}")
    openers = {split: functools.partial(_open_table, builder, name, rest) for split, name in names.items()}
    return Tables(openers, f"its own splits: {', '.join(builder.info.splits)}")


def open_tfds(rest: str, files: str = "text:DIR or jsonl:DIR") -> Any:
    """Returns the builder of a data set that is prepared, by this call if need be. Raises UserError as `find_tfds`.

    `files` are the sources of files that the task can use instead, for the message.
    """
    match = _NAME.fullmatch(rest)
    if not match:
        raise UserError(f"tfds:{rest}: write tfds:NAME or tfds:NAME/CONFIG, such as tfds:glue/sst2.")
    builder = _builder(match[1], match[2] or "")
    if not builder.is_prepared():
        _prepare(builder, rest, files)
    return builder


def open_split(builder: Any, name: str, source: str) -> Any:
    """Returns the records of a prepared split by index. Raises UserError when its file format has no random access."""
    try:
        return builder.as_data_source(split=name)
    except NotImplementedError:
        raise UserError(
            f"{source}: prepared in {builder.data_path} in a file format without random access. Prepare it again: "
            f"{_prepare_code(builder)}, with TFDS_DATA_DIR at another folder."
        ) from None


def read_records(data: Any, places: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yields the records of `open_split` at `places`, in that order, holding a thousand at a time."""
    for start in range(0, len(places), _CHUNK):
        yield from data.__getitems__(places[start : start + _CHUNK])


def decode_text(value: Any, field: str, origin: str) -> str:
    """Returns text that tfds holds as bytes. Raises UserError naming `origin` for what is not UTF-8, or no text."""
    if not isinstance(value, bytes):
        raise UserError(f"{origin}: {reprlib.repr(value)} in {field!r} is not text.")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{origin}: {reprlib.repr(value)} in {field!r} is not UTF-8 ({error.reason}).") from None


def original_order(count: int, split: str) -> list[int]:
    """Returns the place in a prepared split of each of `count` examples that the builder keyed 0, 1, 2 ...

    tfds sorts a split by the md5 of split name and key (`tensorflow_datasets.core.hashing`, kept the same between its
    versions) and does not store the key, so this is how the order of the original file is found again.
    """
    from tensorflow_datasets.core import hashing

    places = [0] * count
    for place, key in enumerate(sorted(range(count), key=hashing.Hasher(split).hash_key)):
        places[key] = place
    return places


def _read(builder: Any, name: str, rest: str, columns: Columns) -> RawSplit:
    import tensorflow_datasets as tfds

    features, source = builder.info.features, f"tfds:{rest}"
    there = list(features)
    words_field = choose_field(there, columns.words_column, WORDS_FIELDS, "words", source)
    tags_field = choose_field(there, columns.tags_column, TAGS_FIELDS, "tags", source)
    document_field = choose_document_field(there, columns.document_column, source)
    tag_names = getattr(getattr(features[tags_field], "feature", None), "names", None)  # of Sequence(ClassLabel)
    data = open_split(builder, name, source)
    # The CoNLL builders key the sentences of the file 0, 1, 2 ... and leave out its -DOCSTART- lines, so sentences can
    # be put back in order, but where documents start is lost. In all other sets the order is not known.
    stream = isinstance(builder, tfds.dataset_builders.ConllDatasetBuilder)
    shuffled = stream and not builder.info.disable_shuffling
    places = original_order(len(data), name) if shuffled else list(range(len(data)))
    split = SplitBuilder(f"{source}/{name}")
    for index, record in enumerate(read_records(data, places)):
        origin = f"{source}/{name}[{index}]"
        words = [sys.intern(decode_text(word, words_field, origin)) for word in record[words_field]]
        values = [decode_text(tag, tags_field, origin) if isinstance(tag, bytes) else tag for tag in record[tags_field]]
        document = record[document_field] if document_field else None
        split.add(words, name_tags(values, tag_names, origin), origin, document)
    return split.finish("marked" if document_field else "stream" if stream else "none")


def _open_table(builder: Any, name: str, rest: str) -> Table:
    features, place = builder.info.features, f"tfds:{rest}/{name}"
    class_names = {}
    for field in features:
        for feature in (features[field], getattr(features[field], "feature", None)):  # a ClassLabel, or a list of them
            if names := getattr(feature, "names", None):
                class_names[field] = names
    data = open_split(builder, name, f"tfds:{rest}")
    return Table(place, tuple(features), class_names, functools.partial(_read_table, data, place), strict=False)


def _read_table(data: Any, place: str, fields: Sequence[str]) -> Iterator[Record]:
    for index, record in enumerate(read_records(data, range(len(data)))):
        origin = f"{place}[{index}]"
        yield origin, tuple(_plain(record[field], field, origin) for field in fields)


def _plain(value: Any, field: str, origin: str) -> Any:
    """A value of tfds as Python has it."""
    if isinstance(value, bytes):
        return decode_text(value, field, origin)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list):
        return [_plain(item, field, origin) for item in value]
    return value


def _data_dir() -> str | None:
    # tfds reads the variable once, when it is imported.
    return os.environ.get("TFDS_DATA_DIR")


def _builder(name: str, config: str) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    # The text sets of the old style are not found until their module is imported.
    for module in (f"tensorflow_datasets.text.{name}.{name}", f"tensorflow_datasets.text.{name}"):
        try:
            importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name is None or not (module + ".").startswith(error.name + "."):
                raise UserError(f"tfds:{name}: the package {error.name} is needed for it: pip install it.") from None
    full = f"{name}/{config}" if config else name
    try:
        configs = tfds.builder_cls(name).builder_configs
    except DatasetNotFoundError:
        configs = {}
    if config and configs and config not in configs:
        raise UserError(f"tfds:{name}:{config}: no such configuration. {did_you_mean(config, configs)}")
    try:
        return tfds.builder(full, data_dir=_data_dir())
    except DatasetNotFoundError:
        text = pathlib.Path(str(tfds.__file__)).parent / "text"
        names = {path.stem for path in text.iterdir() if not path.stem.startswith("_") and "_test" not in path.stem}
        folder = pathlib.Path(_data_dir() or constants.DATA_DIR)
        names |= {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
        raise UserError(
            f"tfds:{name}: tensorflow-datasets has no such data set, nor is it in {folder}. {did_you_mean(name, names)}"
        ) from None


def _prepare(builder: Any, rest: str, files: str) -> None:
    """Downloads and prepares a data set; UserError with the other ways to get it when that fails."""
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    # Without a network tfds would retry in silence for minutes; it asks this host first in any case.
    if not {"http", "https", "all"} & set(urllib.request.getproxies()):
        try:
            socket.getaddrinfo("storage.googleapis.com", 443)
        except OSError as error:
            raise _not_there(builder, rest, f"no network: {error}", files) from None
    failures = (
        OSError,  # requests' errors too
        AssertionError,  # tfds asserts that files to be fetched by hand are there
        ImportError,
        DownloadError,
        NonMatchingChecksumError,
    )
    try:
        builder.download_and_prepare(file_format="array_record")
    except failures as error:
        raise _not_there(builder, rest, f"{type(error).__name__}: {error}", files) from None


def _prepare_code(builder: Any) -> str:
    name = builder.name + (f"/{builder.builder_config.name}" if builder.builder_config else "")
    module = type(builder).__module__
    prepare = f"tfds.builder({name!r}).download_and_prepare(file_format='array_record')"
    return f"`import {module}, tensorflow_datasets as tfds; {prepare}`"


def _not_there(builder: Any, rest: str, reason: str, files: str) -> UserError:
    return UserError(
        f"tfds:{rest}: not prepared in {builder.data_path}, and it could not be downloaded ({reason}). Ways to get it: "
        f"run this once with a network, or on a machine that has one: {_prepare_code(builder)}; copy that machine's "
        f"~/tensorflow_datasets here, or point TFDS_DATA_DIR at it; or use the files themselves: {files}."
    )
