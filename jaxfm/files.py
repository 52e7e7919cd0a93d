"""Files that are whole or absent, and who may write them: what jaxfm writes beside checkpoints goes through here."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import IO, Any

from jaxfm.errors import UserError, without_secrets

logger = logging.getLogger(__name__)

MOST_JSON_BYTES = 1 << 28
"""Of a JSON file that is read whole; the largest that are known, vocabularies, have a tenth of it."""
_KINDS: Mapping[type, str] = {
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    int: "a whole number, not below 0",
    float: "a number",
}
EXIT_TERMINATED = 143  # 128 + SIGTERM, as shells say it
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_OPEN_FILES = 65_536  # as many as anything here could want
# What a file system without locks says of one.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class Terminated(SystemExit):
    """SIGTERM came while a file was half-written; what was written of it is removed on the way out."""

    def __init__(self) -> None:
        """The exit code is that of a process that SIGTERM ended."""
        super().__init__(EXIT_TERMINATED)


def user_path(value: str | os.PathLike[str], option: str) -> pathlib.Path:
    """Returns a path that a user gave, with ~ expanded.

    Raises:
      UserError: a URL such as gs://bucket/run, naming `option` ("--workdir"); or an empty path.
    """
    text = os.fspath(value)
    if not text:
        raise UserError(f"{option}: is empty; name a path.")
    if _URL.match(text):
        raise UserError(
            f"{option}={text}: is a URL, but jaxfm reads and writes paths of mounted file systems only. Mount the "
            "bucket (gcsfuse, mountpoint-s3), or use a local path and copy the result afterwards (gcloud storage cp, "
            "aws s3 cp)."
        )
    return expanded(text)


def expanded(path: str) -> pathlib.Path:
    """Returns a path with ~ expanded; ~NAME of nobody stays as it is (pathlib's own would raise)."""
    return pathlib.Path(os.path.expanduser(path))


def output_file(value: str | os.PathLike[str], option: str) -> pathlib.Path:
    """Returns the path of a file that a user wants written, "-" is the standard output; UserError where none can be."""
    path = pathlib.Path("/dev/stdout") if os.fspath(value) == "-" else user_path(value, option)
    if path.is_dir():
        raise UserError(f"{option}={path}: is a directory; name a file in it.")
    check_parents(path, option)
    return path


def output_directory(value: str | os.PathLike[str], option: str) -> pathlib.Path:
    """Returns the path of a directory that a user wants made; UserError unless it is absent or empty."""
    path = user_path(value, option)
    check_parents(path, option)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{option}={path}: is there already. Name a new directory.")
    return path


def relative_path(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Returns a path as seen from a folder, with / between its parts and .. where it lies outside."""
    return pathlib.Path(os.path.relpath(path, folder)).as_posix()


def check_parents(path: pathlib.Path, option: str) -> None:
    """Raises UserError naming `option` where a path leads through a file."""
    for parent in path.parents:
        if parent.is_dir():
            return
        if parent.exists():
            raise UserError(f"{option}={path}: {parent} is a file, not a directory; name another place.")


def is_stream(path: pathlib.Path) -> bool:
    """Returns whether a path is a device or a pipe (/dev/stdout), which is written to and never replaced.

    /dev/stdout is one too where a shell leads it into a file.
    """
    parts = pathlib.Path(os.path.abspath(path)).parts[1:]
    if parts[:1] == ("proc",) or (parts[:1] == ("dev",) and parts[1:2] != ("shm",)):
        return path.exists()
    return path.exists() and not path.is_file() and not path.is_dir()


def user_cache() -> pathlib.Path:
    """Returns jaxfm's folder where the user's caches lie (XDG_CACHE_HOME, else ~/.cache)."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxfm"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, binary: bool = False) -> Iterator[IO[Any]]:
    """Yields a file that takes the place of `path` only once it is written, flushed and closed.

    Parent directories are made. On any exception, and on SIGTERM, the part-written file is removed and `path` stays as
    it was. A device or a pipe (/dev/stdout) is written to as it is, after what is there. Of a symbolic link the file
    that it leads to is replaced, not the link.
    """
    target = pathlib.Path(path)
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    if is_stream(target):
        with open(target, mode.replace("w", "a"), encoding=encoding) as file:
            yield file
        return
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _sigterm_raises():
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, mode, encoding=encoding) as file:
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
    with _sigterm_raises():
        folder = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        try:
            yield folder
            folder.chmod(0o777 & ~_umask())
            os.replace(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM an exception, so that what is half-written is removed; a handler that is there stays."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def held(lock: str | os.PathLike[str], what: str, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock file `lock` for this process; the file says who that is, and is removed in the end.

    The system gives a lock free when its process ends, however it ends: a file that a killed process left is taken
    over. On a file system without locks (some network ones) the file alone speaks: a holder that is alive on this
    machine (the process of that number, started when the file says) keeps others out, and a warning says that other
    machines are not kept out.

    Args:
      lock: the file; its directory is made if need be.
      what: what is held, for the message: "--workdir=runs/ner".
      wait: for its holder instead of raising.

    Raises:
      UserError: another process holds it; the message says which, where and since when.
    """
    path = pathlib.Path(lock)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path, what, wait)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        holder |= {"started": started} if (started := _started(os.getpid())) else {}
        os.ftruncate(handle, 0)
        command = without_secrets(" ".join(sys.argv))[:500]
        os.pwrite(handle, json.dumps(holder | {"command": command}).encode("utf-8", "replace"), 0)
        yield
    finally:
        # While it is still held: whoever opened it before finds in `_acquire` that it is no longer the file there.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def lock_beside(path: pathlib.Path) -> pathlib.Path:
    """Returns the lock file of something that will take the place of `path` in one step."""
    return path.parent / f".{path.name}.lock"


def holder_of(lock: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns what a lock file says of the process that holds it ("pid", "host", "since"); None where nobody does.

    Looks without locking. Of a process on another machine only the file speaks, so it counts as alive.
    """
    try:
        found = json.loads(pathlib.Path(lock).read_bytes()[:10_000])
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (found.get("host") == socket.gethostname() and not _is_alive(found)):
        return None
    return found


def _acquire(path: pathlib.Path, what: str, wait: bool) -> int:
    """Returns the handle of the file of that name, locked."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
            os.close(handle)
        except FileNotFoundError:  # its holder has just removed it
            os.close(handle)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise _is_held(what, holder) from None
        except OSError as error:
            holder = _holder(handle)
            if error.errno not in _NO_LOCKS or _is_alive(holder):
                os.close(handle)
                if error.errno in _NO_LOCKS:
                    raise _is_held(what, holder) from None
                raise
            logger.warning(
                "%s: this file system has no locks (%s): processes on other machines are not kept from writing there.",
                what,
                error.strerror,
            )
            return handle


def _is_held(what: str, holder: dict[str, Any]) -> UserError:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
    return UserError(f"{what}: {who} is writing there. Wait for it to end, or name another place.")


def _holder(handle: int) -> dict[str, Any]:
    """Returns what a lock file says of its holder; empty where that is not written yet."""
    try:
        found = json.loads(os.pread(handle, 10_000, 0))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(holder: dict[str, Any]) -> bool:
    """Returns whether a holder is a process of this machine that still runs.

    A process that only has its number by now, as numbers are used again, has started at another time than the file says
    (those of older versions say nothing of it).
    """
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's: it runs
    started = _started(pid)
    return not started or holder.get("started", started) == started


def _started(pid: int) -> str:
    """Returns when a process of this machine started, the same text as long as it runs; empty where that is not known.

    By Linux' /proc: the machine's boot, and the clock ticks since then.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # The second field is the program's name in brackets, which may have spaces and brackets in it.
        fields = pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot} {int(fields[19])}"
    except (OSError, ValueError, IndexError):
        return ""


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


def allow_open_files(least: int = 64) -> None:
    """Lets this process open as many files as the system allows it to.

    Raises UserError where these are fewer than `least`: libraries end in the middle of things then.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, most = (_OPEN_FILES if each == resource.RLIM_INFINITY else min(each, _OPEN_FILES) for each in limits)
    if soft < most:
        with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
            soft = most
    if soft < least:
        raise UserError(f"only {soft} files may be open at once, but {least} are needed. Allow more: ulimit -n 1024.")


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
    """Reads a JSON file written by `write_json`; UserError for one that is cut, too large, or was never JSON."""
    check_size(path)
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}): it was cut or changed after it was written.") from error


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the object in a JSON file; UserError as `read_json`, and for any other JSON value."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: is a JSON {type(values).__name__}, not an object written by jaxfm.")
    return values


def json_digest(value: Any) -> str:
    """Returns the sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_size(path: str | os.PathLike[str], most: int = MOST_JSON_BYTES) -> None:
    """Raises UserError for a file of more than `most` bytes that is to be read whole."""
    size = os.stat(path).st_size
    if size > most:
        raise UserError(f"{path}: has {size:,} bytes, but files of its kind have at most {most >> 20:,} MiB.")


def check_values(values: Any, kinds: Mapping[str, type], where: str) -> None:
    """Raises UserError naming `where` and the key unless an object has a value of the right kind for each key.

    Args:
      values: as JSON has it.
      kinds: key -> str, bool, dict, list; int: a whole number from 0 to what 64 bits hold; float: a finite number.
      where: the file, and what in it.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: is a JSON {type(values).__name__}, but must be an object.")
    for key, kind in kinds.items():
        if key not in values:
            raise UserError(f"{where}: has no {key!r}: it was changed, or is of another jaxfm.")
        value = values[key]
        fits = type(value) is kind or (kind is float and type(value) is int)
        if kind in (int, float) and fits:
            fits = abs(value) < 2**63 if type(value) is int else math.isfinite(value)
            fits = fits and (kind is float or value >= 0)
        if not fits:
            raise UserError(
                f"{where}: {key} is {value!r:.80}, but must be {_KINDS[kind]}: it was changed after it was written."
            )


def read_versioned(path: pathlib.Path, newest: int) -> dict[str, Any]:
    """Returns the object in a JSON file without its "version"; one without is of the time before there were versions.

    Raises UserError for what is no object, and for a version above `newest`, the greatest that this jaxfm knows.
    """
    values = read_object(path)
    version = values.pop("version", 0)
    if type(version) is not int or version < 0:
        raise UserError(f"{path}: version is {version!r}, but must be a number: it was changed after it was written.")
    if version > newest:
        raise UserError(
            f"{path}: has version {version}, but this jaxfm reads versions up to {newest}: update jaxfm to the one "
            "that wrote it, or a later one."
        )
    return values


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
