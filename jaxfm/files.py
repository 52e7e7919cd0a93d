"""Files that are whole or not there: everything jaxfm writes beside checkpoints goes through here."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from jaxfm.errors import UserError


def user_cache() -> pathlib.Path:
    """Returns jaxfm's folder where the user's caches lie (XDG_CACHE_HOME, else ~/.cache)."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxfm"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, binary: bool = False) -> Iterator[IO[Any]]:
    """Yields a file that takes the place of `path` only once it is written, flushed and closed.

    Parent directories are made. On any exception the part-written file is removed and `path` stays as it was.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb" if binary else "w", encoding=None if binary else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result should be as readable as any other file of the user.
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields an empty directory that takes the place of `path` (absent or empty) only when the block ends well."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o777 & ~_umask())
        os.replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def alone_with(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lets one process at a time into the block, by a lock on the directory of `path`; the others wait.

    The system gives the lock free when its process ends, however it ends.
    """
    folder = pathlib.Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def check_room(path: str | os.PathLike[str], size: int, what: str) -> None:
    """Raises UserError when the disk that `path` (which need not exist yet) lies on has not `size` bytes free."""
    folder = pathlib.Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{path}: the disk is too full: {what} needs {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free. "
            "Make room, or name a directory on another disk."
        )


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` (UTF-8) to `path` in one step."""
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON to `path` in one step; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file written by `write_json`."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
