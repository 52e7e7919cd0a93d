"""`hf:OWNER/NAME[:CONFIG]`: data files of the Hugging Face hub, through the package `datasets`; never its scripts."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.source_records import named_splits
from jaxfm.data.records.source_table import Record, Table, Tables
from jaxfm.errors import UserError

_NAME = re.compile(r"((?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)(?::([\w.-]+))?")
_OLDEST = 4  # datasets 4.0 removed scripts: from there on a data set is files alone
_IS_SCRIPT = "scripts are no longer supported"  # what datasets >= 4 says
_CHUNK = 1000
_FILES = "csv:DIR, tsv:DIR, jsonl:DIR or parquet:DIR"


def find_hf_tables(rest: str, names: Mapping[str, str], files: str = _FILES) -> Tables:
    """Returns the splits of a hub data set as tables, downloaded first where need be; raises as `open_hf`.

    `names` says which of its splits are train, valid and test; empty: the usual ones. `files` are the sources of files
    that the task can use instead, for error messages.
    """
    data = open_hf(rest, files)
    names = names or named_splits(data, f"hf:{rest}")
    openers = {split: functools.partial(_open_table, data[name], name, rest) for split, name in names.items()}
    return Tables(openers, f"its own splits: {', '.join(data)}")


def open_hf(rest: str, files: str = "text:DIR or jsonl:DIR") -> Any:
    """Returns a hub data set, split name -> records, downloaded first where it is not in the cache.

    Raises UserError: package absent or too old, no such name, no network (naming the sources `files` that the task can
    use instead), a data set that is a script.
    """
    match = _NAME.fullmatch(rest)
    if not match:
        raise UserError(f"hf:{rest}: write hf:OWNER/NAME or hf:OWNER/NAME:CONFIG.")
    return _load(match[1], match[2], rest, files)


def read_columns(data: Any, fields: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Yields the columns `fields` of a split, a thousand records at a time."""
    return data.select_columns(list(fields)).iter(_CHUNK)


def _open_table(data: Any, name: str, rest: str) -> Table:
    place = f"hf:{rest}/{name}"
    class_names = {}
    for field, feature in data.features.items():
        if names := getattr(feature, "names", None) or _class_names(feature):
            class_names[field] = names
    return Table(place, tuple(data.features), class_names, functools.partial(_read_table, data, place), strict=False)


def _read_table(data: Any, place: str, fields: Sequence[str]) -> Iterator[Record]:
    index = 0
    for chunk in read_columns(data, fields):
        for values in zip(*(chunk[field] for field in fields), strict=True):
            yield f"{place}[{index}]", values
            index += 1


def _load(name: str, config: str | None, rest: str, files: str) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ModuleNotFoundError:
        raise UserError(f"hf:{rest}: the package datasets is needed: pip install 'jaxfm[hf]'.") from None
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
