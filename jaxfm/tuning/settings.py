"""What makes two searches the same one: settings.json in the folder of a search, written once."""

import contextlib
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from jaxfm import files
from jaxfm.config import FREE_ON_RESUME
from jaxfm.errors import UserError
from jaxfm.schema import differences
from jaxfm.training.workdir import CONFIG_FILE

SETTINGS_FILE, DATABASE_FILE = "settings.json", "search.db"
_VERSION = 1
_LOCK = ".settings.lock"


def read_settings(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the settings of the search in a folder, with its name in the storage ("study"); None where none is.

    Raises UserError for a folder of something else, and for a file that is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={folder}: is a file; name a directory.")
    files.check_parents(folder, "--workdir")
    path = folder / SETTINGS_FILE
    if path.is_file():
        found = files.read_versioned(path, _VERSION)
        files.check_values(found, {"study": str, "search": dict, "chosen": dict}, str(path))
        return found
    if (folder / CONFIG_FILE).is_file():
        raise UserError(f"--workdir={folder}: holds a run itself. Name a folder for the search.")
    # What a search that was killed at its beginning may have left.
    begun = (*folder.glob(".*"), *folder.glob(f"{DATABASE_FILE}*"))
    others = [each for each in folder.glob("*") if each not in begun] if folder.is_dir() else []
    if others:
        raise UserError(f"--workdir={folder}: is not empty and holds no search of jaxfm. Name a new directory.")
    return None


def check_same(folder: pathlib.Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises UserError, naming what differs, unless the search in a folder is the one that is asked for."""
    free = tuple(f"config.{key}" for key in FREE_ON_RESUME)
    if changed := differences(found["search"], asked, ignore=free):
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise UserError(
            f"--workdir={folder}: holds another search ({shown}). Give the same command to go on with it (--trials may "
            "be more), or another --workdir for a new one."
        )


def known_choice(folder: pathlib.Path, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns what the search in a folder found in the data ("chosen"); None where there is none yet.

    Raises UserError as `read_settings` and `check_same`.
    """
    found = read_settings(folder)
    if found is None:
        return None
    check_same(folder, found, asked)
    return found["chosen"]


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[None]:
    """Lets one worker of a search at a time into the block, in which settings and storage are made."""
    with files.held(folder / _LOCK, f"--workdir={folder}", wait=True):
        yield


def write_settings(folder: pathlib.Path, search: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the settings of a new search and returns them; of several workers the first one's count, see `alone`.

    Args:
      folder: of the search; made if need be.
      search: what the command says.
      chosen: what was found in the data: "metric", "objectives", "more_is_better".
    """
    found = read_settings(folder)
    if found is None:
        study = f"jaxfm-{secrets.token_hex(6)}"  # a shared storage has many searches
        found = {"version": _VERSION, "study": study, "search": dict(search), "chosen": dict(chosen)}
        files.write_json(folder / SETTINGS_FILE, found)
    check_same(folder, found, search)
    return found
