import contextlib
import errno
import json
import os
import pathlib
import re
import resource
import signal
import socket
import stat
import subprocess
import sys

import pytest

from jaxfm import files
from jaxfm.errors import UserError

# As if this process had the number of one that is gone: started at another time, or before the machine's last boot.
OTHERS_OF_THE_SAME_NUMBER = [
    {"pid": os.getpid(), "host": socket.gethostname(), "started": f"{boot} {ticks}"}
    for boot, ticks in (
        (files._started(os.getpid()).partition(" ")[0], 1),
        ("0b7ce18f-0000-4000-8000-000000000000", files._started(os.getpid()).partition(" ")[2]),
    )
    if files._started(os.getpid())
]


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_writing_fails(tmp_path: pathlib.Path, error: type[BaseException]) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(error), files.atomic_write(path) as file:
        file.write("new and half")
        file.flush()
        assert path.read_text() == "old" and len(names(tmp_path)) == 2
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_nothing_is_left_when_there_was_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError), files.atomic_write(tmp_path / "a") as file:
        file.write("half")
        raise ValueError
    assert names(tmp_path) == []


def test_the_new_file_takes_the_place_at_the_end(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with files.atomic_write(path) as file:
        file.write("grün\n")
        assert not path.exists()
    assert path.read_bytes() == "grün\n".encode()
    with files.atomic_write(path, binary=True) as file:
        file.write(b"\xff\x00")
        assert path.read_bytes() == "grün\n".encode()
    assert path.read_bytes() == b"\xff\x00"
    assert names(tmp_path) == ["a.txt", "deep", "er"]


def test_a_target_that_cannot_be_replaced_leaves_no_part(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError), files.atomic_write(tmp_path / "a") as file:
        file.write("text")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path: pathlib.Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "ours", "x")
        (tmp_path / "usual").write_text("x")
        assert os.umask(umask) == umask  # looking at it did not change it
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "usual")]
    assert modes[0] == modes[1] == 0o666 & ~umask


def test_json_round_trip(tmp_path: pathlib.Path) -> None:
    value = {"ä": [1, 2.5, None, True], "b": {"c": "x\n"}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "ä" in text and text.endswith("}\n") and text.count("\n") > 5
    assert json.loads(text) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_json_is_refused_before_the_file_is_touched(tmp_path: pathlib.Path, value: float) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": value})
    with pytest.raises(TypeError):
        files.write_json(path, {"loss": object()})
    assert files.read_json(path) == {"loss": 1.0}
    assert names(tmp_path) == ["a.json"]


def test_one_process_at_a_time_is_alone_with_a_path(tmp_path: pathlib.Path) -> None:
    program = (
        "import pathlib, sys, time\nfrom jaxfm import files\npath = pathlib.Path(sys.argv[1])\n"
        "with files.alone_with(path):\n"
        "    if not path.exists():\n        time.sleep(0.3)\n        path.mkdir()\n        print('made')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "folder" / "made")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [child.communicate(timeout=60)[0] for child in started]
    assert [child.returncode for child in started] == [0, 0, 0]
    assert sorted(outputs) == ["", "", "made\n"]


def test_a_device_is_written_to_and_not_replaced(tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with files.atomic_write(pipe) as file:
            file.write("text")
        assert os.read(reader, 100) == b"text"
    finally:
        os.close(reader)
    assert files.is_stream(pipe) and names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("kind", ["atomic_write", "atomic_directory"])
def test_sigterm_leaves_nothing_half_written(tmp_path: pathlib.Path, kind: str) -> None:
    program = (
        "import sys, time\nfrom jaxfm import files\n"
        f"with files.held(files.lock_beside(files.user_path(sys.argv[1], '')), 'x'), files.{kind}(sys.argv[1]):\n"
        "    print('begun', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "begun\n"
    assert len(names(tmp_path)) == 2
    child.terminate()
    assert child.wait(timeout=60) == files.EXIT_TERMINATED == 143
    assert names(tmp_path) == []
    child.stdout.close()


def test_sigterm_is_as_before_after_a_write_and_another_handler_stays(tmp_path: pathlib.Path) -> None:
    def other(*_: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (signal.SIG_DFL, other):
            signal.signal(signal.SIGTERM, handler)
            with files.atomic_write(tmp_path / "a"):
                assert (signal.getsignal(signal.SIGTERM) is other) == (handler is other)
                assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


HOLD = (
    "import sys, time\nfrom jaxfm import files\nwith files.held(sys.argv[1], '--output=a'):\n"
    "    print('held', flush=True)\n    time.sleep(60)\n"
)


def hold(lock: pathlib.Path) -> "subprocess.Popen[str]":
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    child.stdout.close()
    return child


def test_who_holds_a_lock_is_said_and_that_of_a_killed_process_is_taken_over(tmp_path: pathlib.Path) -> None:
    lock = tmp_path / "folder" / ".lock"
    child = hold(lock)
    try:
        with pytest.raises(UserError) as error, files.held(lock, "--output=a"):
            pass
        since = json.loads(lock.read_text())["since"]
        expected = f"--output=a: process {child.pid} on {socket.gethostname()} (since {since}) is writing there."
        assert str(error.value).startswith(expected)
        assert files.holder_of(lock) == json.loads(lock.read_text())
    finally:
        child.kill()
        child.wait()
    assert lock.exists()  # the killed process could not remove it
    assert files.holder_of(lock) is None and files.holder_of(tmp_path / "nothing") is None
    with files.held(lock, "--output=a"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), files.held(lock, "--output=a"):
            pass  # a second one in the same process
        assert lock.exists()
    assert not lock.exists()


def test_a_lock_that_its_holder_removes_is_not_held_by_two(tmp_path: pathlib.Path) -> None:
    """Four processes count up a file, one at a time; each removes the lock file for which others wait."""
    program = (
        "import pathlib, sys\nfrom jaxfm import files\nfolder = pathlib.Path(sys.argv[1])\n"
        "for _ in range(50):\n    with files.held(folder / '.lock', 'x', wait=True):\n"
        "        count = int((folder / 'count').read_text())\n        (folder / 'count').write_text(str(count + 1))\n"
    )
    (tmp_path / "count").write_text("0")
    started = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(4)]
    assert [child.wait(timeout=120) for child in started] == [0] * 4
    assert (tmp_path / "count").read_text() == "200" and names(tmp_path) == ["count"]


def test_without_locks_of_the_file_system_the_file_speaks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    lock, here = tmp_path / ".lock", socket.gethostname()
    for holder, is_free in (
        ({"pid": os.getpid(), "host": here}, False),
        ({"pid": os.getpid(), "host": "elsewhere"}, True),
        ({"pid": 2**22 + 1, "host": here}, True),  # above the greatest pid of Linux
        ({"pid": os.getpid(), "host": here, "started": files._started(os.getpid())}, False),
        ({"pid": 1, "host": here}, False),  # of an older version; where it is somebody else's, it runs none the less
        *((holder, True) for holder in OTHERS_OF_THE_SAME_NUMBER),
        ([], True),
    ):
        lock.write_text(json.dumps(holder))
        caplog.clear()
        if is_free:
            with files.held(lock, "--output=a"):
                assert json.loads(lock.read_text())["pid"] == os.getpid()
            assert "this file system has no locks" in caplog.text
        else:
            assert isinstance(holder, dict)
            with pytest.raises(UserError, match=f"process {holder['pid']} on {here}"), files.held(lock, "--output=a"):
                pass


@pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="start times are those of Linux' /proc")
def test_a_process_that_has_its_number_again_is_not_the_holder(tmp_path: pathlib.Path) -> None:
    lock = tmp_path / ".lock"
    with files.held(lock, "--output=a"):
        holder = json.loads(lock.read_text())
    assert re.fullmatch(r"[0-9a-f-]{36} \d+", holder["started"])
    for found, alive in ((holder, True), *((each, False) for each in OTHERS_OF_THE_SAME_NUMBER)):
        lock.write_text(json.dumps(found))
        assert (files.holder_of(lock) == found) == alive
    del holder["started"]  # of an older version
    lock.write_text(json.dumps(holder))
    assert files.holder_of(lock) == holder


def test_a_start_time_is_of_one_process_and_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = files._started(child.pid)
        assert started == files._started(child.pid) and (not started or started != files._started(os.getpid()))
    finally:
        child.kill()
        child.wait()
    assert files._started(child.pid) == ""
    # A name may have what separates the fields.
    monkeypatch.setattr(files.pathlib.Path, "read_bytes", lambda self: b"7 (a) b (c) S " + b"1 " * 18 + b"4711 0\n")
    assert not files._started(7) or files._started(7).endswith(" 4711")


def test_a_path_of_the_user_is_expanded_and_no_url(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/run", "--workdir") == tmp_path / "run"
    assert files.user_path(pathlib.Path("a:b/c"), "--workdir") == pathlib.Path("a:b/c")
    assert files.user_path("~nobody-of-that-name/x", "--workdir") == pathlib.Path("~nobody-of-that-name/x")
    for url in ("gs://bucket/run", "s3://bucket", "https://host/x", pathlib.Path("gs://bucket/run")):
        with pytest.raises(UserError, match=r"--workdir=.*: is a URL, .* Mount the bucket"):
            files.user_path(url, "--workdir")
    with pytest.raises(UserError, match="--workdir: is empty"):
        files.user_path("", "--workdir")


def test_outputs_that_cannot_be_written_are_refused_before(tmp_path: pathlib.Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    file = tmp_path / "full" / "file"
    for output in (files.output_file, files.output_directory):
        with pytest.raises(UserError, match=rf"--output=.*: {file} is a file, not a directory"):
            output(file / "a" / "b", "--output")
        assert output(tmp_path / "new" / "a", "--output") == tmp_path / "new" / "a"
    with pytest.raises(UserError, match="is a directory; name a file in it"):
        files.output_file(tmp_path / "full", "--output")
    for taken in (file, tmp_path / "full"):
        with pytest.raises(UserError, match="is there already. Name a new directory"):
            files.output_directory(taken, "--output")
    assert files.output_directory(tmp_path / "empty", "--output") == tmp_path / "empty"
    assert names(tmp_path) == ["empty", "file", "full"]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_names_the_file(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: is not JSON \("):
        files.read_json(tmp_path / "a.json")


def test_versions(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.json"
    for version in ({}, {"version": 0}, {"version": 1}):
        files.write_json(path, {"a": 1, **version})
        assert files.read_versioned(path, 1) == {"a": 1}
    for values, message in (
        ({"version": 2}, r"a\.json: has version 2, but this jaxfm reads versions up to 1: update jaxfm"),
        ({"version": "1"}, "version is '1', but must be a number"),
        ({"version": True}, "version is True"),
        ([], r"a\.json: is a JSON list"),
    ):
        files.write_json(path, values)
        with pytest.raises(UserError, match=message):
            files.read_versioned(path, 1)


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_text() == "new"


@pytest.mark.parametrize(
    ("limits", "asked", "refused"),
    [
        ((256, 4096), (4096, 4096), False),
        ((256, 1_000_000), (65_536, 1_000_000), False),
        ((256, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY), False),
        ((4096, 4096), None, False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, False),
        ((32, 48), (48, 48), True),
    ],
)
def test_as_many_files_may_be_open_as_the_system_allows(
    limits: tuple[int, int], asked: tuple[int, int] | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int]] = []
    monkeypatch.setattr(files.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(files.resource, "setrlimit", lambda _, new: said.append(new))
    with pytest.raises(UserError, match="only 48 files may be open") if refused else contextlib.nullcontext():
        files.allow_open_files()
    assert said == ([asked] if asked else [])
