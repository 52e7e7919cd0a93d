"""What a person sees on a terminal, as a picture."""

import re
import subprocess
import sys

import pytest

from profiles.pictures import COLUMNS, Screen, to_svg, watch

PROGRAM = """
from jaxfm.observe.progress import Progress
with Progress(4) as progress:
    for step in range(1, 5):
        progress.dispatched(step)
        progress.update(step, epoch=1.0, loss=0.5, learning_rate=1e-4, speed="9 useful tokens/s")
        progress.say(f"NOTE: step {step}")
"""


def plain(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()


def test_what_a_program_draws_is_kept_as_it_is_seen() -> None:
    lines, bar = watch([sys.executable, "-c", PROGRAM], half_way="2/4 (50 %)")
    assert [plain(line) for line in lines if "NOTE" in line] == [f"NOTE: step {step}" for step in range(1, 5)]
    bars = [plain(line) for line in lines if "training" in line]
    assert len(bars) == 1 and bars[0].endswith("4/4 (100 %)") and len(bars[0]) <= COLUMNS
    assert plain(bar[0]).endswith("2/4 (50 %)") and len(bar) == 2
    assert any("\x1b[1;36mNOTE:" in line for line in lines)


def test_a_bar_is_seen_though_it_is_read_with_the_next() -> None:
    """A slow reader gets many drawings at once: the whole of a short program may come in one read."""
    drawn = ["1/4\r\nfirst", "2/4\r\nsecond", "3/4\r\nthird"]
    text = "\r\x1b[2K\x1b[1A\x1b[2K".join(drawn)
    lines, bar = watch([sys.executable, "-c", f"import sys; sys.stdout.write({text!r})"], half_way="2/4")
    assert bar == ["2/4", "second"] and lines == ["3/4", "third"]


def test_a_read_may_end_within_a_character() -> None:
    script = "import os, time\nfor part in (b'a \\xe2\\x94', b'\\x81 b'): os.write(1, part); time.sleep(0.2)"
    lines, _ = watch([sys.executable, "-c", script], half_way="x")
    assert lines == ["a \u2501 b"]


def test_a_program_that_fails_is_no_picture() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        watch([sys.executable, "-c", "raise SystemExit(3)"], half_way="x")


def test_codes_may_be_cut_anywhere() -> None:
    text = "one\r\n\x1b[1;33mtwo\x1b[0m\r\n\x1b[1A\x1b[2Kthree\r\nfour\rfive"
    whole = Screen()
    whole.feed(text)
    assert whole.rows == ["one", "three", "five"]
    for place in range(len(text)):
        parts = Screen()
        parts.feed(text[:place])
        parts.feed(text[place:])
        assert parts.rows == whole.rows


def test_a_picture_fetches_nothing() -> None:
    picture = to_svg(["\x1b[1;33mWARNING:\x1b[0m <b>", "x" * 30], "a title")
    assert "font-face" not in picture and "url(http" not in picture and "WARNING:" in picture and "&lt;b&gt;" in picture
