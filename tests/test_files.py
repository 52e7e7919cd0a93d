import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from jaxfm import files


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
