"""The formats by the scheme of their sources: every module of `jaxfm/data/records/formats/` is one."""

import functools
import importlib
import pathlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jaxfm.data.records import formats
from jaxfm.data.records.source_files import files_size, find_corpus_files, find_table_files
from jaxfm.data.records.table import FileFormat, SetFormat, Table, Tables
from jaxfm.errors import UserError, did_you_mean
from jaxfm.files import expanded


@functools.cache
def find_formats() -> Mapping[str, FileFormat | SetFormat]:
    """Returns scheme -> format: those of files, then libraries of data sets, each in the order of their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(formats.__path__))
    found = [importlib.import_module(f"{formats.__name__}.{name}").FORMAT for name in names]
    return {form.scheme: form for form in sorted(found, key=lambda form: isinstance(form, SetFormat))}


def source_forms(own: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns what a person writes for a source: `quickstart`, a reader's own forms, and one of each format."""
    return ("quickstart", *own, *(form.form for form in find_formats().values() if form.form))


def file_forms(own: Sequence[str] = ()) -> str:
    """Returns the forms of sources of files in words, a reader's own ones first."""
    forms = [*own, *(form.form for form in find_formats().values() if isinstance(form, FileFormat))]
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def parse_source(source: str, own: Sequence[str] = ()) -> tuple[str, str]:
    """Returns the scheme of a source and what follows its colon, nothing for `quickstart`.

    `own` are forms that a reader knows beside `source_forms()`, such as "conll:DIR".
    Raises UserError for a scheme that is unknown.
    """
    forms = source_forms(own)
    schemes = [*(form.partition(":")[0] for form in forms), *find_formats()]
    scheme, colon, rest = source.partition(":")
    if scheme == "quickstart" and colon:
        raise UserError(f"{source}: quickstart takes nothing after it.")
    if scheme in schemes and (colon or scheme == "quickstart"):
        return scheme, rest
    hint = did_you_mean(scheme, schemes)
    if expanded(source).exists():
        hint = f"For files write {' or '.join(form[:-3] + source for form in forms if form.endswith(':DIR'))}."
    listed = f"{', '.join(forms[:-1])} or {forms[-1]}"
    raise UserError(f"unknown data source {source!r}: a source is {listed}. {hint}")


def are_numbers(columns: Iterable[str]) -> bool:
    """Whether a user named two or more columns, all by number: such a file has no line that names its columns."""
    numbers = [name for name in columns if name]
    return len(numbers) > 1 and all(re.fullmatch("[0-9]+", name) for name in numbers)


def open_tables(
    scheme: str, rest: str, *, by_number: bool = False, names: Mapping[str, str] | None = None, own: Sequence[str] = ()
) -> Tables:
    """Returns the splits of a source as tables.

    Args:
      scheme: of `find_formats()`.
      rest: what follows the colon; of files see `find_table_files`.
      by_number: whether the user named columns by number.
      names: which splits of a data set are train, valid and test; None or empty: those with a usual name.
      own: forms of files that the reader knows beside the formats, for messages.

    Raises:
      UserError: no such files or data set, two for one split, a data set that cannot be downloaded.
    """
    form = find_formats()[scheme]
    if isinstance(form, SetFormat):
        return form.open_set(rest, names or {}, file_forms(own))
    files, found = find_table_files(rest, scheme, form.suffixes)
    return Tables(
        {split: functools.partial(form.open_files, paths, by_number) for split, paths in files.items()}, found
    )


class TableParts(NamedTuple):
    """What opens each table of a split in turn, and their size in words."""

    openers: Sequence[Callable[[], Table]]
    size: str


def open_corpus_tables(scheme: str, rest: str, *, own: Sequence[str] = ()) -> dict[str, TableParts]:
    """Returns the splits of a source of which a split may be in any number of files, each a table.

    Files without a split's name are of train; see `find_corpus_files`. Raises UserError as `open_tables`.
    """
    form = find_formats()[scheme]
    if isinstance(form, SetFormat):
        opened = {split: opener() for split, opener in form.open_set(rest, {}, file_forms(own)).splits.items()}
        return {split: TableParts([lambda table=table: table], table.size) for split, table in opened.items()}
    return {
        split: TableParts([functools.partial(form.open_files, [path], False) for path in paths], files_size(paths))
        for split, paths in find_corpus_files(rest, scheme, form.suffixes).items()
    }


def open_file(path: pathlib.Path, *, by_number: bool = False) -> Table:
    """Returns one file as a table; the ending of its name, which must be one of `file_formats`, says its format."""
    suffix = pathlib.PurePath(path.name.lower().removesuffix(".gz")).suffix
    return file_formats()[suffix].open_files([path], by_number)


def file_formats() -> dict[str, FileFormat]:
    """Returns suffix -> format."""
    return {
        suffix: form for form in find_formats().values() if isinstance(form, FileFormat) for suffix in form.suffixes
    }
