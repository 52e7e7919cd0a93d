"""What a person sees while a run goes on, on a terminal and in a file."""

import io
import re
import sys
import time

import pytest
from rich.console import Console

from jaxfm.observe import progress as progress_module
from jaxfm.observe.progress import Progress, StreamProgress, format_seconds
from jaxfm.observe.tables import Table

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress_module, "monotonic", lambda: now[0])
    return now


def terminal(width=80):
    # force_interactive: without it rich takes the TERM of whoever runs the tests into account.
    return Console(file=io.StringIO(), width=width, force_terminal=True, force_interactive=True, _environ={})


def written(console):
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(console):
    return CODES.sub("", written(console))


def screen(text):
    """Plays a terminal: line ends, "cursor up" and "erase line" are all that rich uses here."""
    rows, row, column = [""], 0, 0
    for code, amount, letter, character in re.findall(r"(\x1b\[([0-9;?]*)([A-Za-z]))|([\s\S])", text):
        if code:
            if letter == "A":
                row = max(0, row - int(amount or 1))
            elif letter == "K":
                rows[row] = ""
        elif character == "\r":
            column = 0
        elif character == "\n":
            row, column = row + 1, 0
            rows += [""] * (row == len(rows))
        else:
            rows[row] = rows[row].ljust(column)[:column] + character + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows]


def test_plain_lines_tell_everything_once(clock):
    console = Console(file=io.StringIO(), _environ={})
    with Progress(636, console=console) as progress:
        progress.update(60, epoch=0.2830, loss=1.5, learning_rate=1e-4, speed="2,000 useful tokens/s")
        clock[0] += 60
        progress.update(120, epoch=0.566, loss=0.21337, learning_rate=8.1e-5, speed="2,040 useful tokens/s", mfu=0.4136)
        progress.say("[B-LOC] " + "a long message " * 10)
        progress.table(Table("Scores", ("split", "f1"), (("test", 0.5),)))
    assert written(console).splitlines() == [
        "step 60/636 (9 %)  epoch 0.28  loss 1.5000  lr 1.0e-04  2,000 useful tokens/s  0s",
        "step 120/636 (18 %)  epoch 0.57  loss 0.2134  lr 8.1e-05  2,040 useful tokens/s  MFU 41.4%  "
        "1m 00s, ETA 8m 36s",
        "[B-LOC] " + "a long message " * 10,
        "",
        "Scores",
        "",
        "split      f1",
        "-------------",
        "test   0.5000",
        "",
    ]


def test_a_long_wait_speaks_now_and_then_in_a_file(clock):
    console = Console(file=io.StringIO(), _environ={})
    with Progress(10, console=console) as progress, progress.task("evaluating valid", 400) as advance:
        for _ in range(40):
            clock[0] += 1
            advance(10)
    assert written(console).splitlines() == [f"evaluating valid {n}/400 ({n // 4} %)" for n in (100, 200, 300, 400)]


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_the_bar_fits_any_terminal(clock, width):
    console = terminal(width)
    with Progress(636, console=console) as progress:
        progress.start_at(100)
        for step in (110, 120):
            progress.update(step, epoch=0.57, loss=0.2134, learning_rate=8.1e-5, speed="2,040 useful tokens/s")
            clock[0] += 1
        with progress.task("evaluating valid", 10) as advance:
            clock[0] += 1
            advance(4)
        progress.say("[bold] saved")
    text = shown(console)
    assert max(len(line) for line in re.split("[\r\n]+", text)) <= width
    assert "loss 0.2134" in text
    assert "[bold] saved" in text
    assert ("evaluating" in text) and ("4/10 (40 %)" in text or width < 50)
    if width >= 80:
        assert "epoch 0.57  loss 0.2134  lr 8.1e-05  2,040 useful tokens/s  1s, ETA 52s" in text
        assert "120/636 (18 %)" in text


def test_a_resumed_bar_starts_at_the_step_it_goes_on_from(clock):
    console = terminal()
    with Progress(600, console=console) as progress:
        assert "training" in shown(console) and "0/600 (0 %)" in shown(console)
        clock[0] += 30  # restoring the checkpoint
        progress.start_at(400)
        assert re.fullmatch(r"training [━╺╸]+ 400/600 \(66 %\)", screen(written(console))[0])
        clock[0] += 30  # compiling
        for step in (410, 420):
            progress.update(step, epoch=0.5, loss=0.2, learning_rate=1e-4, speed="2,040 useful tokens/s")
            clock[0] += 5
    lines = [line for line in screen(written(console)) if line]
    assert "420/600 (70 %)" in lines[0]
    assert lines[1].endswith("1m 10s, ETA 1m 30s")  # 10 steps in 5 s, 180 steps left: steps 0 to 400 do not count


def test_a_resumed_run_in_a_file_says_nothing_before_its_first_update(clock):
    console = Console(file=io.StringIO(), _environ={})
    with Progress(600, console=console) as progress:
        progress.start_at(400)
        for step in (410, 420):
            progress.update(step, epoch=0.5, loss=0.2, learning_rate=1e-4, speed="2,040 useful tokens/s")
            clock[0] += 5
        with pytest.raises(AssertionError, match="after an update"):
            progress.start_at(420)
    first, second = written(console).splitlines()
    assert first == "step 410/600 (68 %)  epoch 0.50  loss 0.2000  lr 1.0e-04  2,040 useful tokens/s  0s"
    assert second.startswith("step 420/600 (70 %)") and second.endswith("5s, ETA 1m 30s")


def test_messages_stay_above_one_bar(clock):
    console = terminal(64)
    with Progress(60, console=console) as progress:
        progress.say("compiled in 4.2 s")
        for step in (20, 40, 60):
            clock[0] += 1
            progress.update(step, epoch=step / 20, loss=1 / step, learning_rate=1e-4, speed="2,040 useful tokens/s")
            with progress.task("evaluating valid", 3) as advance:
                for _ in range(3):
                    clock[0] += 1
                    advance(1)
                during = screen(written(console))
            progress.say(f"valid f1 {step / 100}")
        progress.table(Table("Scores", ("split", "f1"), (("test", 0.5),)))
    assert during[-2].startswith("evaluating valid") and during[-2].endswith("3/3 (100 %)")
    lines = [line for line in screen(written(console)) if line]
    assert lines[:4] == ["compiled in 4.2 s", "valid f1 0.2", "valid f1 0.4", "valid f1 0.6"]
    assert lines[4] == "Scores" and "0.5000" in lines[7]
    assert re.fullmatch(r"training ━+ 60/60 \(100 %\)", lines[8])
    assert lines[9:] == ["epoch 3.00  loss 0.0167  lr 1.0e-04  2,040 useful tokens/s  12s"]


def test_every_dispatched_step_moves_the_bar_and_never_back(clock):
    console = terminal()
    with Progress(60, console=console) as progress:
        for step in range(1, 31):
            clock[0] += 0.5
            progress.dispatched(step)
            seen = screen(written(console))
            assert f" {step}/60 " in seen[0], step
        assert seen[1] == "15s, ETA 15s"
        progress.update(28, epoch=0.5, loss=0.25, learning_rate=1e-4, speed="9 useful tokens/s")  # a log point, later
        seen = screen(written(console))
    assert " 30/60 " in seen[0] and seen[1] == "epoch 0.50  loss 0.2500  lr 1.0e-04  9 useful tokens/s  15s, ETA 15s"


def test_fast_steps_are_drawn_four_times_a_second(clock):
    console = terminal()
    with Progress(10_000, console=console) as progress:
        before = len(written(console))
        progress.dispatched(1)
        once = len(written(console)) - before
        for step in range(2, 1002):
            clock[0] += 0.001
            progress.dispatched(step)
        drawn = len(written(console)) - before - once
    assert 3 * once <= drawn <= 6 * once


def test_dispatched_steps_write_nothing_to_a_file(clock):
    console = Console(file=io.StringIO(), _environ={})
    with Progress(60, console=console) as progress, progress.state("compiling"):
        for step in range(1, 31):
            clock[0] += 100
            progress.dispatched(step)
    assert written(console) == ""


def test_the_bar_says_what_is_done_instead_of_training(clock):
    console = terminal()
    with Progress(60, console=console) as progress:
        with progress.state("compiling"):
            assert screen(written(console))[0].startswith("compiling ")
        clock[0] += 1
        progress.dispatched(1)
        assert screen(written(console))[0].startswith("training ")
        with pytest.raises(RuntimeError), progress.state("saving"):
            assert screen(written(console))[0].startswith("saving ")
            raise RuntimeError
        clock[0] += 1
        progress.dispatched(2)
        assert screen(written(console))[0].startswith("training ")


def test_where_nothing_is_trained_no_bar_says_so(clock):
    console = terminal()
    with Progress(None, console=console) as progress:
        with progress.task("scoring test", 10) as advance:
            clock[0] += 1
            advance(5)
            assert screen(written(console))[0].startswith("scoring test")
        progress.say("done")
    assert "training" not in shown(console)
    assert [line for line in screen(written(console)) if line] == ["done"]


def test_what_is_to_be_seen_first_is_bold_on_a_terminal_alone():
    console, file = terminal(), Console(file=io.StringIO(), _environ={})
    for each in (console, file):
        Progress(None, console=each).headline("test f1 [0.5]")
    assert written(console) == "\x1b[1mtest f1 [0.5]\x1b[0m\n" and written(file) == "test f1 [0.5]\n"


def test_time_goes_by_while_nothing_is_reported(clock):
    console = terminal()
    with Progress(60, console=console) as progress, progress.state("compiling"):
        clock[0] += 42
        deadline = time.monotonic() + 10
        while "42s" not in shown(console) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "42s" in shown(console)


def test_the_terminal_is_given_back(clock):
    before = sys.stdout, sys.stderr
    console = terminal()
    with pytest.raises(RuntimeError), Progress(2, console=console):
        raise RuntimeError
    assert (sys.stdout, sys.stderr) == before
    assert written(console).rstrip().endswith("\x1b[?25h")  # the cursor is shown again


def test_no_codes_reach_a_file(tmp_path, clock):
    with (tmp_path / "log").open("w") as file:
        console = Console(file=file, _environ={})
        with Progress(4, console=console) as progress, progress.task("loading", 2) as advance:
            progress.update(4, epoch=1.0, loss=float("nan"), learning_rate=0.0, speed="0 useful tokens/s")
            advance(2)
    text = (tmp_path / "log").read_text()
    assert "\x1b" not in text and "\r" not in text
    assert "step 4/4 (100 %)  epoch 1.00  loss nan" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (72, "1m 12s"), (7500, "2h 05m"), (273600, "3d 04h")]
)  # fmt: skip
def test_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_a_stream_of_unknown_length_is_a_line_every_ten_seconds_in_a_file(clock):
    console = Console(file=io.StringIO(), width=200)
    with StreamProgress("preparing", console=console) as progress:
        progress.say("text [bold] as it is")
        for second in range(26):
            clock[0] = 100.0 + second
            progress.update(documents=1000 * second, size=2_000_000 * second, tokens=300 * second)
    assert written(console).splitlines() == [
        "text [bold] as it is",
        "preparing 10,000 documents  20.0 MB  3,000 tokens  2.0 MB/s",
        "preparing 20,000 documents  40.0 MB  6,000 tokens  2.0 MB/s",
    ]


def test_a_stream_is_a_bar_on_a_terminal(clock):
    console = terminal(width=120)
    with StreamProgress("preparing", console=console) as progress:
        clock[0] = 104.0
        progress.update(documents=7, size=8_000_000, tokens=1234)
        progress.say("[a note]")
        clock[0] = 104.05
        progress.update(documents=8, size=9_000_000, tokens=1234)
    seen = screen(written(console))
    assert "[a note]" in seen
    assert "7 documents  8.0 MB  1,234 tokens  2.0 MB/s" in shown(console)
    assert "8 documents" not in shown(console)  # drawn a moment ago


def test_a_quiet_stream_says_nothing(capsys):
    with StreamProgress(quiet=True) as progress:
        progress.say("nothing")
        progress.update(documents=1, size=1, tokens=1)
    assert capsys.readouterr().out == ""


def test_quiet_progress_says_nothing(capsys):
    with Progress(10, quiet=True) as progress:
        progress.say("text")
        progress.update(5, epoch=0.5, loss=1.0, learning_rate=1e-3, speed="10 useful tokens/s")
        progress.table(Table("Title", ("a",), [(1,)]))
        with progress.task("scoring", 3) as advance:
            advance(3)
    assert capsys.readouterr() == ("", "")
