"""`tfds:NAME[:CONFIG]` or `tfds:NAME/CONFIG`: tensorflow-datasets without TensorFlow, from ArrayRecord files."""

import functools
import importlib
import os
import pathlib
import re
import reprlib
import socket
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.records.splits import named_splits
from jaxfm.data.records.table import Row, SetFormat, Table, Tables
from jaxfm.errors import UserError, did_you_mean

_NAME = re.compile(r"([a-z][a-z0-9_]*)(?:[:/]([\w.-]+))?")
_CHUNK = 1000  # records decoded at a time


def open_tfds(rest: str, names: Mapping[str, str], files: str) -> Tables:
    """Returns the splits of a data set, downloaded and prepared first where it is not yet; see `SetFormat`.

    TFDS_DATA_DIR says where. Raises UserError: no such name or configuration, not prepared and not downloadable
    (naming the sources `files`), prepared in another file format.
    """
    match = _NAME.fullmatch(rest)
    if not match:
        raise UserError(f"tfds:{rest}: write tfds:NAME or tfds:NAME/CONFIG, such as tfds:glue/sst2.")
    try:
        builder = _builder(match[1], match[2] or "")
        prepared = builder.is_prepared()
    except ModuleNotFoundError as error:
        # Features of sound and video are made by TensorFlow, and tfds raises this anew without the package's name.
        name = error.name or "tensorflow"
        raise UserError(f"tfds:{rest}: the package {name} is needed for it: pip install it.") from None
    if not prepared:
        _prepare(builder, rest, files)
    names = names or named_splits(builder.info.splits, f"tfds:{rest}")
    openers = {split: functools.partial(_open_split, builder, name, rest) for split, name in names.items()}
    return Tables(openers, f"its own splits: {', '.join(builder.info.splits)}")


def _open_split(builder: Any, name: str, rest: str) -> Table:
    import tensorflow_datasets as tfds

    features, source = builder.info.features, f"tfds:{rest}/{name}"
    class_names = {}
    for column in features:
        for feature in (features[column], getattr(features[column], "feature", None)):  # a ClassLabel, or a list of it
            if names := getattr(feature, "names", None):
                class_names[column] = names
    images = [column for column in features if isinstance(features[column], tfds.features.Image)]
    rates = {
        column: int(features[column].sample_rate or 0)
        for column in features
        if isinstance(features[column], tfds.features.Audio)
    }
    try:
        data = builder.as_data_source(split=name, decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()) or None)
    except NotImplementedError:
        raise UserError(
            f"tfds:{rest}: prepared in {builder.data_path} in a file format without random access. Prepare it again: "
            f"{_prepare_code(builder)}, with TFDS_DATA_DIR at another folder."
        ) from None
    # The CoNLL builders key the sentences of the file 0, 1, 2 ... and leave out its -DOCSTART- lines, so sentences can
    # be put back in order, but where documents start is lost. In all other sets the order is not known.
    running_text = isinstance(builder, tfds.dataset_builders.ConllDatasetBuilder)
    shuffled = running_text and not builder.info.disable_shuffling
    order = original_order(len(data), name) if shuffled else range(len(data))
    return Table(
        source,
        tuple(features),
        functools.partial(read_rows, data, source, tuple(features), frozenset(images), rates, order),
        class_names,
        size=f"{len(data):,} records",
        published=True,
        running_text=running_text,
    )


def read_rows(
    data: Any,
    source: str,
    columns: Sequence[str],
    images: frozenset[str],
    rates: Mapping[str, int],
    order: Sequence[int],
    asked: Sequence[str] | None,
) -> Iterator[Row]:
    """Yields the rows; the columns `images` hold the bytes of image files, those of `rates` samples of sound."""
    wanted = columns if asked is None else asked

    def value_of(name: str, value: Any, origin: str) -> Any:
        if name in rates:
            return {"array": _samples(value), "sampling_rate": rates[name]}
        return value if name in images else _plain(value, name, origin)

    index = 0
    for start in range(0, len(order), _CHUNK):
        for record in data.__getitems__(order[start : start + _CHUNK]):
            origin = f"{source}[{index}]"
            yield Row(origin, {name: value_of(name, record[name], origin) for name in wanted})
            index += 1


def _samples(values: Any) -> np.ndarray:
    """Returns samples in the integers that files have: tfds keeps those of 16 bits in 64."""
    samples = np.asarray(values)
    if samples.dtype.kind == "f":
        return samples
    narrow = np.iinfo(np.int16)
    fits = not samples.size or (samples.min() >= narrow.min and samples.max() <= narrow.max)
    return samples.astype(np.int16 if fits else np.int32)


def _plain(value: Any, column: str, origin: str) -> Any:
    """A value of tfds as Python has it. Raises UserError naming `origin` for bytes that are not UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{origin}: {reprlib.repr(value)} in {column!r} is not UTF-8 ({error.reason}).") from None
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | list):
        return [_plain(item, column, origin) for item in value]
    return value


def original_order(count: int, split: str) -> list[int]:
    """Returns the index in a prepared split of each of `count` examples that the builder keyed 0, 1, 2 ...

    tfds sorts a split by the md5 of split name and key (`tensorflow_datasets.core.hashing`, kept the same between its
    versions) and does not store the key, so this is how the order of the original file is found again.
    """
    from tensorflow_datasets.core import hashing

    indices = [0] * count
    for index, key in enumerate(sorted(range(count), key=hashing.Hasher(split).hash_key)):
        indices[key] = index
    return indices


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
            raise _unavailable(builder, rest, f"no network: {error}", files) from None
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
        raise _unavailable(builder, rest, f"{type(error).__name__}: {error}", files) from None


def _prepare_code(builder: Any) -> str:
    name = builder.name + (f"/{builder.builder_config.name}" if builder.builder_config else "")
    module = type(builder).__module__
    prepare = f"tfds.builder({name!r}).download_and_prepare(file_format='array_record')"
    return f"`import {module}, tensorflow_datasets as tfds; {prepare}`"


def _unavailable(builder: Any, rest: str, reason: str, files: str) -> UserError:
    return UserError(
        f"tfds:{rest}: not prepared in {builder.data_path}, and it could not be downloaded ({reason}). Ways to get it: "
        f"run this once with a network, or on a machine that has one: {_prepare_code(builder)}; copy that machine's "
        f"~/tensorflow_datasets here, or point TFDS_DATA_DIR at it; or use the files themselves: {files}."
    )


FORMAT = SetFormat("tfds", "tfds:NAME", open_tfds)
