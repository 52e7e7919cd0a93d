"""What a trained model is asked about: files, folders and tables of the command line, objects of Python."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm.data.media.examples import stored_media
from jaxfm.data.media.folders import media_files
from jaxfm.data.media.medium import Medium, noun
from jaxfm.data.records.registry import file_formats, open_file
from jaxfm.data.records.table import choose_column
from jaxfm.errors import UserError

_ID = "id"


def input_records(medium: Medium, path: pathlib.Path, argument: str, column: str = "") -> list[dict[str, Any]]:
    """Returns records, by the medium's name, with "id" where a table has one.

    Args:
      medium: what the model reads.
      path: a file of it, a folder of these, or a table (csv, tsv, jsonl, parquet) with a column of paths or bytes.
      argument: what messages call it.
      column: of the table; "": the one with a usual name.

    Raises:
      UserError: no such file, a folder without files of the medium, no such column, a path that is absent or leads out
        of the table's folder.
    """
    if path.is_dir():
        found = media_files(medium, path)
        if not found:
            raise UserError(f"{argument}: holds no {noun(medium)}.")
        return [{medium.name: medium.of_path(str(each), each)} for each in found]
    if not path.is_file():
        raise UserError(f"{argument}: there is no such file or folder.")
    if pathlib.PurePath(path.name.lower().removesuffix(".gz")).suffix not in file_formats():
        return [{medium.name: medium.of_path(str(path), path)}]
    table = open_file(path)
    usual = medium.sure_columns if set(medium.sure_columns) & set(table.columns) else medium.columns
    name = choose_column(table.columns, column, usual, medium.name, table.source, f"--{medium.name}_column")
    records = []
    for origin, (value, *named) in table.values([name, *([_ID] if _ID in table.columns else [])]):
        record = {medium.name: stored_media(medium, value, name, origin, path.parent)}
        records.append({_ID: named[0], **record} if named else record)
    return records


def media_record(medium: Medium, value: Any, origin: str) -> dict[str, Any]:
    """Returns the record of what a person may give: a path, what the medium may be, or {its name: one of these}.

    Raises UserError for anything else.
    """
    if isinstance(value, Mapping) and medium.name in value:
        named = {_ID: value[_ID]} if _ID in value else {}
        return named | media_record(medium, value[medium.name], origin)
    if isinstance(value, str | os.PathLike):
        path = pathlib.Path(value)
        if not path.is_file():
            raise UserError(f"{origin}: {str(path)!r} is not a file.")
        return {medium.name: medium.of_path(str(path), path)}
    return {medium.name: stored_media(medium, value, medium.name, origin, None)}
