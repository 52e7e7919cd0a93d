"""Files of a Hugging Face directory that jaxfm did not write."""

import pathlib
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError

_LISTED = 12


def json_object(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object in a JSON file; UserError for what is not one."""
    try:
        values = files.read_json(path)
    except (ValueError, RecursionError) as error:  # ValueError: a number of too many digits, too
        raise UserError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: is JSON, but not an object of keys and values.")
    return values


def listing(directory: pathlib.Path) -> str:
    """Returns the names of the first files of a directory, for messages."""
    return ", ".join(sorted(path.name for path in directory.iterdir())[:_LISTED]) or "nothing"
