"""A copy of a run directory on an object store (gs://, s3://, ...), from which a lost machine's run goes on elsewhere.

URL/objects/SHA256 are files by their content, URL/manifests/NUMBER.json say which of them a run directory was made of,
the number counting up. A manifest is written after all it names and is never changed, so whatever the moment at which a
machine is lost, the newest manifest that can be read is a whole run directory, and what did not change is not sent
again. The file systems are those of fsspec; gs:// needs gcsfs, s3:// needs s3fs (extra `remote`), which take their
credentials from the environment as the stores' own tools do.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec

from jaxfm import files
from jaxfm.config import FREE_ON_RESUME, Config
from jaxfm.errors import UserError, install_hint
from jaxfm.parallel import distributed
from jaxfm.schema import differences, to_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import DAMAGED_DIR, UNFINISHED
from jaxfm.training.workdir import AVERAGED_DIR, CHECKPOINTS_DIR, CONFIG_FILE, LOCK_FILE

KEY = "config.checkpoint.mirror"
_VERSION = 1
_OBJECTS, _MANIFESTS = "objects", "manifests"
_KEPT = 2  # manifests: one that is read by somebody is not taken from under them by the next one
_LARGE = 64 * 2**20  # bytes; smaller files are read at once, as they may change while they are sent
_TRIES, _PAUSE = 3, 2.0  # of the last copy, and seconds between
_SNAPSHOT, _SNAPSHOT_TRIES = ".mirror-", 10
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
# What a run goes on without: locks, what is being written, traces (large, and of this machine), what was damaged.
_LEFT_OUT = re.compile(rf"(^|/)(\.|{DAMAGED_DIR}/|profile/)|\.part$|{re.escape(UNFINISHED)}|^{re.escape(LOCK_FILE)}$")
_log = logging.getLogger(__name__)


def check_url(url: str) -> None:
    """Raises UserError for what is no URL, or needs a package that is not installed."""
    protocol, separator, rest = url.partition("://")
    if not separator or not rest:
        raise UserError(f"{KEY}={url}: must be a URL, as gs://BUCKET/FOLDER or s3://BUCKET/FOLDER.")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        package = _PACKAGES.get(protocol, protocol)
        raise UserError(f"{KEY}={url}: needs the package {package}: {install_hint('remote')}.") from error
    except ValueError as error:
        raise UserError(f"{KEY}={url}: {protocol}:// is no store that fsspec knows. Use gs:// or s3://.") from error


class Store:
    """The objects and manifests under a URL."""

    def __init__(self, url: str) -> None:
        """Opens the store; nothing is read. UserError as `check_url`."""
        check_url(url)
        self.url = url.rstrip("/")
        self._files, self._root = fsspec.core.url_to_fs(self.url)
        self._there: set[str] = set()  # objects that were sent or seen

    def manifests(self) -> list[int]:
        """Returns the numbers of the manifests there are, newest first; whatever the store raises is passed on."""
        folder = f"{self._root}/{_MANIFESTS}"
        self._files.invalidate_cache()
        if not self._files.exists(folder):
            return []
        names = [str(name).rpartition("/")[2] for name in self._files.ls(folder, detail=False)]
        return sorted((int(name[:-5]) for name in names if re.fullmatch(r"\d+\.json", name)), reverse=True)

    def read(self, number: int) -> dict[str, Any]:
        """Returns a manifest; ValueError for one that was not written whole."""
        values = json.loads(self._files.cat_file(self._manifest(number)))
        if not isinstance(values, dict) or values.pop("sha256", "") != files.json_digest(values):
            raise ValueError("its bytes are not those that were written")
        if values["version"] != _VERSION:
            raise ValueError(f"has version {values['version']}; this jaxfm reads {_VERSION}")
        for name in values["files"]:
            parts = pathlib.PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
                raise ValueError(f"names a file outside of the run directory: {name!r}")
        return values

    def push(self, workdir: pathlib.Path) -> int:
        """Copies a run directory as it is now, though training goes on; returns the bytes sent.

        Raises whatever the store raises.
        """
        sent, listed = 0, {}
        with _snapshot(workdir) as held:
            for name, path in _files_of(held):
                size, digest, content = _read(path)
                listed[name] = [size, digest]
                sent += self._put(path, size, digest, content)
        numbers = self.manifests()
        values = {"version": _VERSION, "time": time.time(), "files": listed}
        values["sha256"] = files.json_digest(values)
        self._files.makedirs(f"{self._root}/{_MANIFESTS}", exist_ok=True)
        self._files.pipe_file(self._manifest(max(numbers, default=0) + 1), json.dumps(values).encode())
        self._thin_out(numbers[: _KEPT - 1], numbers[_KEPT - 1 :], listed)
        return sent

    def pull(self, workdir: pathlib.Path) -> str:
        """Makes `workdir`, absent or empty, of the newest whole copy; returns a line for the log, "" without a copy.

        Raises UserError where there are copies, but none is whole.
        """
        numbers, wrong = self.manifests(), ""
        for number in numbers:
            try:
                values = self.read(number)
                with files.atomic_directory(workdir) as folder:
                    for name in values["files"]:
                        self.get(values, name, folder)
                made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(values["time"]))
                total = sum(size for size, _ in values["files"].values())
                return f"fetched the run of {self.url}, as of {made} ({total / 2**20:,.0f} MiB){wrong}"
            except (ValueError, KeyError, TypeError, OSError) as error:
                wrong = f"; copy {number} is not whole ({error})"
                _log.warning("%s: copy %d is not whole (%s); the one before is tried", self.url, number, error)
        if numbers:
            raise UserError(f"{KEY}={self.url}: none of its copies of a run is whole{wrong}.")
        return ""

    def get(self, values: Mapping[str, Any], name: str, folder: pathlib.Path) -> None:
        """Writes a file that a manifest names into a folder; ValueError where its bytes are others."""
        size, digest = values["files"][name]
        self._get(folder / name, size, digest)

    def _manifest(self, number: int) -> str:
        return f"{self._root}/{_MANIFESTS}/{number:08d}.json"

    def _object(self, digest: str) -> str:
        return f"{self._root}/{_OBJECTS}/{digest}"

    def _put(self, path: pathlib.Path, size: int, digest: str, content: bytes | None) -> int:
        """Sends a file unless it is there; returns the bytes sent."""
        target = self._object(digest)
        if digest in self._there or (self._files.exists(target) and self._files.size(target) == size):
            self._there.add(digest)
            return 0
        self._files.makedirs(f"{self._root}/{_OBJECTS}", exist_ok=True)
        if content is None:
            self._files.put_file(str(path), target)
        else:
            self._files.pipe_file(target, content)
        self._there.add(digest)
        return size

    def _get(self, path: pathlib.Path, size: int, digest: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files.get_file(self._object(digest), str(path))
        found = _read(path)[:2]
        if found != (size, digest):
            raise ValueError(f"{path.name}: its bytes are not those that were sent")

    def _thin_out(self, kept: list[int], surplus: list[int], listed: Mapping[str, Any]) -> None:
        """Removes older manifests, and the objects that none of the others names."""
        if not surplus:
            return
        named = {digest for _, digest in listed.values()}
        for number in kept:
            named |= {digest for _, digest in self.read(number)["files"].values()}
        for number in surplus:
            self._files.rm_file(self._manifest(number))
        for name in self._files.ls(f"{self._root}/{_OBJECTS}", detail=False):
            digest = str(name).rpartition("/")[2]
            if digest not in named:
                self._there.discard(digest)
                self._files.rm_file(self._object(digest))


class Mirror:
    """Copies a run directory after each save, in a thread of its own; training never waits for the store."""

    def __init__(self, url: str, workdir: pathlib.Path) -> None:
        """Starts the thread; UserError as `check_url`."""
        self._store, self._workdir = Store(url), workdir
        for left in workdir.glob(f"{_SNAPSHOT}*"):  # by a process that was killed
            shutil.rmtree(left)
        self._step: int | None = None
        self._changed, self._over = threading.Event(), threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def saved(self, step: int) -> None:
        """Tells it that the save of a step has begun; it is copied once it is whole."""
        self._step = step
        self._changed.set()

    def stop(self) -> None:
        """Ends the thread after the copy that it makes; what was copied stays."""
        self._over.set()
        self._changed.set()

    def finish(self) -> str:
        """Copies the run directory as it is now; returns a line for the log, a warning where that failed."""
        self.stop()
        self._thread.join()
        for attempt in range(_TRIES):
            try:
                self._store.push(self._workdir)
                return f"the run directory is copied to {self._store.url}"
            except Exception as error:  # each store's library raises its own
                wrong = f"{type(error).__name__}: {error}"
                if attempt + 1 < _TRIES:
                    time.sleep(_PAUSE)
        return f"WARNING: {KEY}={self._store.url}: the run directory is not copied ({wrong})"

    def _run(self) -> None:
        while not self._over.is_set():
            self._changed.wait()
            self._changed.clear()
            step = self._step
            while step is not None and not (self._workdir / CHECKPOINTS_DIR / str(step)).is_dir():
                if self._changed.is_set() or self._over.wait(0.1):  # a newer one, or the end, which copies all
                    break
            else:
                self._push()

    def _push(self) -> None:
        try:
            self._store.push(self._workdir)
            self._failed = False
        except Exception as error:  # each store's library raises its own
            if not self._failed:
                _log.warning("%s=%s: not copied (%s); tried again at the next save", KEY, self._store.url, error)
            self._failed = True


def fetch(config: Config, workdir: pathlib.Path) -> str:
    """Makes an absent or empty run directory of its mirror's newest whole copy; returns a line for the log.

    In a run of several processes the first one does it for all, which wait for it.

    Raises:
      UserError: as `check_url`; the store cannot be reached; none of its copies is whole; it holds another run than the
        one in `workdir`.
    """
    url, said = config.checkpoint.mirror, ""
    if not url:
        return said
    check_url(url)
    if distributed.is_main():
        try:
            store = Store(url)
            if (workdir / CONFIG_FILE).is_file():
                _check_same(store, config)
            elif not workdir.exists() or (workdir.is_dir() and not any(workdir.iterdir())):
                said = store.pull(workdir)
        except UserError:
            raise
        except Exception as error:  # each store's library raises its own
            raise UserError(f"{KEY}={url}: cannot be read ({type(error).__name__}: {error}).") from error
    distributed.agree("mirror", {})
    return said


def _check_same(store: Store, config: Config) -> None:
    """Raises UserError where the store holds a run of another config."""
    for number in store.manifests():
        with tempfile.TemporaryDirectory() as name:
            try:
                store.get(store.read(number), CONFIG_FILE, pathlib.Path(name))
                before = workdirs.read_config_values(pathlib.Path(name))
            except (ValueError, KeyError, OSError, UserError):
                continue
        changed = differences(before, to_dict(config), ignore=FREE_ON_RESUME)
        if changed:
            raise UserError(
                f"{KEY}={store.url}: holds a run of another config ({'; '.join(changed)}). Name another URL for "
                "this one."
            )
        return


@contextlib.contextmanager
def mirrored(url: str, workdir: pathlib.Path) -> Iterator[Mirror | None]:
    """Yields the mirror of a run, None without a URL; whoever is in the block calls `finish` where it ends well.

    Where it does not, what was copied after the last save stays.
    """
    mirror = Mirror(url, workdir) if url else None
    try:
        yield mirror
    finally:
        if mirror is not None:
            mirror.stop()


@contextlib.contextmanager
def _snapshot(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder with the files of a run directory as they are now; checkpoints are links, and stay if removed."""
    with tempfile.TemporaryDirectory(prefix=_SNAPSHOT, dir=workdir) as name:
        for attempt in range(_SNAPSHOT_TRIES):
            try:
                _hold(workdir, pathlib.Path(name) / str(attempt))
                break
            except FileNotFoundError:  # a checkpoint was removed under it: a newer one is there
                if attempt + 1 == _SNAPSHOT_TRIES:
                    raise
        yield pathlib.Path(name) / str(attempt)


def _hold(workdir: pathlib.Path, folder: pathlib.Path) -> None:
    for name, path in _files_of(workdir):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.startswith((f"{CHECKPOINTS_DIR}/", f"{AVERAGED_DIR}/")):  # written once
            try:
                os.link(path, folder / name)
                continue
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    raise
        shutil.copyfile(path, folder / name)


def _files_of(workdir: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields name and path of every file that a run directory is made of, checkpoints first."""
    found = {path.relative_to(workdir).as_posix(): path for path in workdir.rglob("*") if path.is_file()}
    for name in sorted(found, key=lambda name: (not name.startswith(f"{CHECKPOINTS_DIR}/"), name)):
        if not _LEFT_OUT.search(name):
            yield name, found[name]


def _read(path: pathlib.Path) -> tuple[int, str, bytes | None]:
    """Returns size, sha256 and, unless it is large, the content of a file."""
    if path.stat().st_size <= _LARGE:
        content = path.read_bytes()
        return len(content), hashlib.sha256(content).hexdigest(), content
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return os.fstat(file.fileno()).st_size, digest, None
