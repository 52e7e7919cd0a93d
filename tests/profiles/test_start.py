import os
import pathlib
import sys
import time

import pytest

from jaxfm import files
from jaxfm.errors import UserError
from profiles import start
from tests import tiny


def program(text: str) -> list[str]:
    return [sys.executable, "-uc", text]


def test_a_start_ends_with_the_line_that_says_so() -> None:
    begin = time.monotonic()
    slow = "import time; print('weights'); time.sleep(0.3); print('step 1/9  loss 1.0'); time.sleep(60)"
    found = start.seconds_until(start.MARK, program(slow), os.environ)
    assert 0.3 <= found <= time.monotonic() - begin < 50  # it was not waited for


def test_a_run_that_ends_early_is_shown() -> None:
    with pytest.raises(UserError, match=r"ended without 'step 1/':\nerror: no such data"):
        start.seconds_until(start.MARK, program("print('error: no such data')"), os.environ)


def test_starts_share_a_cache_that_is_empty_at_first(tmp_path: pathlib.Path) -> None:
    """Of a program that takes the longer way where it finds nothing in the cache, and wants a new folder each time."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "workdir = pathlib.Path(sys.argv[1].removeprefix('--workdir='))\n"
        "workdir.mkdir()\n"
        "kept = pathlib.Path(os.environ['XDG_CACHE_HOME'], 'compiled')\n"
        "time.sleep(0.0 if kept.exists() else 1.0)\n"
        "kept.touch()\n"
        "print('step 1/3')\n"
    )
    found = start.measure([sys.executable, str(script)], repeats=2)
    assert len(found["empty caches"]) == 1 and len(found["again"]) == 2
    assert found["empty caches"][0] >= 1.0


@pytest.mark.slow
def test_a_real_start(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, config = tmp_path / "start.json", tiny.config(tmp_path)
    settings = {"data.source": config.data.source, "model.init": config.model.init, "train.steps": 2}
    changes = [
        f"--config.{key}={value}" for key, value in (settings | {"data.row_length": 48, "data.overlap": 8}).items()
    ]
    start.main(["--config=configs/ner.py:files", f"--output={output}", "--repeats=1", *changes])
    seconds = files.read_json(output)["seconds"]
    assert 0 < seconds["again"][0] < 120 and "| empty caches |" in capsys.readouterr().out
