"""`parquet:` files, with the names of classes that the package `datasets` writes into them."""

import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxfm.data.records.source_files import file_names, files_size
from jaxfm.data.records.table import FileFormat, Row, Table, require_columns
from jaxfm.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

_CHUNK = 1000  # rows in memory


def open_parquet(paths: Sequence[pathlib.Path], by_number: bool = False) -> Table:
    """Returns parquet files as one table. Raises UserError for a first file that is not parquet."""
    del by_number  # the files name their columns
    with _parquet_file(paths[0]) as file:
        schema = file.schema_arrow
        columns, class_names = tuple(schema.names), _hub_class_names(schema.metadata or {}, paths[0])
    return Table(
        file_names(paths),
        columns,
        functools.partial(_read, paths, columns),
        class_names,
        size=files_size(paths),
        folder=paths[0].parent,
    )


def _read(paths: Sequence[pathlib.Path], columns: Sequence[str], asked: Sequence[str] | None) -> Iterator[Row]:
    wanted = list(columns if asked is None else asked)
    for path in paths:
        with _parquet_file(path) as file:
            require_columns(file.schema_arrow.names, wanted, str(path))
            index = 0
            for columns_read in _batches(file, path, wanted):
                for values in zip(*columns_read, strict=True):
                    yield Row(f"{path}[{index}]", dict(zip(wanted, values, strict=True)))
                    index += 1


def _parquet_file(path: pathlib.Path) -> "pyarrow.parquet.ParquetFile":
    import pyarrow.parquet  # half a second

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a parquet file that can be read: {error}") from None


def _batches(
    file: "pyarrow.parquet.ParquetFile", path: pathlib.Path, columns: Sequence[str]
) -> Iterator[list[list[Any]]]:
    """Yields the values of each column, of some rows at a time. Raises UserError where they are damaged."""
    import pyarrow

    try:
        for batch in file.iter_batches(_CHUNK, columns=list(columns)):
            yield [batch.column(name).to_pylist() for name in columns]
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: the parquet data is damaged: {error}") from None


def _hub_class_names(metadata: Mapping[bytes, bytes], path: pathlib.Path) -> dict[str, list[str]]:
    """The names of class numbers, which the package `datasets` keeps in the metadata of the files that it writes.

    Raises UserError naming the file where they are not what that package writes.
    """
    try:
        told = json.loads(metadata.get(b"huggingface", b"{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: what its metadata say under 'huggingface' is not JSON: {error}.") from None
    info = told.get("info") if isinstance(told, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    names = {}
    for column, feature in (features if isinstance(features, dict) else {}).items():
        # A list is written as [feature] by older versions and as {"feature": ...} by newer ones.
        inner = feature[0] if isinstance(feature, list) and feature else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else inner
        if isinstance(inner, dict) and "names" in inner:
            found = inner["names"]
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise UserError(
                    f"{path}: the names of the classes of {column!r} in its metadata are not a list of texts."
                )
            names[column] = found
    return names


FORMAT = FileFormat("parquet", (".parquet",), open_parquet, gzip=False)
