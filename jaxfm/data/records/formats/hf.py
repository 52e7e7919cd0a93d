"""`hf:OWNER/NAME[:CONFIG]`: data files of the Hugging Face hub, through the package `datasets`; never its scripts."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.splits import named_splits
from jaxfm.data.records.table import Row, SetFormat, Table, Tables
from jaxfm.errors import UserError, install_hint

_NAME = re.compile(r"((?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)(?::([\w.-]+))?")
_OLDEST = 4  # datasets 4.0 removed scripts: from there on a data set is files alone
_IS_SCRIPT = "scripts are no longer supported"  # what datasets >= 4 says
_STORED = ("Image", "Audio")  # features that are read as they are kept
_CHUNK = 1000  # rows in memory


def open_hf(rest: str, names: Mapping[str, str], files: str) -> Tables:
    """Returns the splits of a hub data set, downloaded first where it is not in the cache; see `SetFormat`.

    Raises UserError: package absent or too old, no such name, no network (naming the sources `files`), a data set that
    is a script.
    """
    match = _NAME.fullmatch(rest)
    if not match:
        raise UserError(f"hf:{rest}: write hf:OWNER/NAME or hf:OWNER/NAME:CONFIG.")
    data = _load(match[1], match[2], rest, files)
    names = names or named_splits(data, f"hf:{rest}")
    openers = {split: functools.partial(_open_split, data[name], f"hf:{rest}/{name}") for split, name in names.items()}
    return Tables(openers, f"its own splits: {', '.join(data)}")


def _open_split(data: Any, source: str) -> Table:
    from datasets import config

    # Images that the set names by path are in the cache of downloads.
    cache = pathlib.Path(config.HF_CACHE_HOME)
    table = open_dataset(data, source, lambda index: f"{source}[{index}]")
    return dataclasses.replace(table, published=True, folder=cache)


def open_dataset(data: Any, source: str, origin: Callable[[int], str]) -> Table:
    """Returns a `datasets.Dataset` as a table. Images and sound are as stored, {"bytes", "path"}.

    Columns of other things that would have to be decoded (video) are left out.

    Args:
      data: the data set.
      source: its name, for messages.
      origin: number of a row, from 0 -> what messages call it.
    """
    class_names = {}
    for column, feature in data.features.items():
        if names := getattr(feature, "names", None) or _class_names(feature):
            class_names[column] = names
    plain = data.with_format(None)
    for name, feature in data.features.items():
        if type(feature).__name__ in _STORED:
            plain = plain.cast_column(name, type(feature)(decode=False))
    columns = tuple(
        name
        for name, feature in data.features.items()
        if type(feature).__name__ in _STORED or not hasattr(feature, "decode_example")
    )
    return Table(
        source, columns, functools.partial(_read, plain, columns, origin), class_names, size=f"{len(data):,} records"
    )


def _read(
    data: Any, columns: Sequence[str], origin: Callable[[int], str], asked: Sequence[str] | None
) -> Iterator[Row]:
    wanted = list(columns if asked is None else asked)
    index = 0
    for chunk in data.select_columns(wanted).iter(_CHUNK):
        for values in zip(*(chunk[name] for name in wanted), strict=True):
            yield Row(origin(index), dict(zip(wanted, values, strict=True)))
            index += 1


def _load(name: str, config: str | None, rest: str, files: str) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ModuleNotFoundError:
        raise UserError(f"hf:{rest}: the package datasets is needed: {install_hint('hf')}.") from None
    if int(datasets.__version__.split(".")[0]) < _OLDEST:
        raise UserError(
            f"hf:{rest}: datasets {datasets.__version__} may run code from the hub: pip install 'datasets>={_OLDEST}'."
        )
    try:
        try:
            return datasets.load_dataset(name, config)
        except RuntimeError as error:
            if _IS_SCRIPT not in str(error):
                raise
            # The hub keeps its own conversion of most such sets to parquet files, made without us running the script.
            return datasets.load_dataset(name, config, revision="refs/convert/parquet")
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise UserError(
            f"hf:{rest}: {type(error).__name__}: {error}. If there is no network: on a machine that has one, "
            f"run `import datasets; datasets.load_dataset({name!r}, {config!r})` and copy its cache here "
            f"(~/.cache/huggingface, or HF_HOME); or use files: {files}. Scripts are never run."
        ) from None


def _class_names(feature: Any) -> Sequence[str] | None:
    """The names of class numbers in a list of them; `datasets` writes such a list in several ways."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return getattr(inner, "names", None)


FORMAT = SetFormat("hf", "hf:OWNER/NAME", open_hf)
