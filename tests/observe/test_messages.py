"""Messages have one look: a word in a colour on terminals, plain text elsewhere."""

import io
import logging
import sys

import pytest
from rich.console import Console

from jaxfm.observe.messages import STYLES, WarningHandler, styled
from jaxfm.observe.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_kind_of_a_message_is_coloured_and_nothing_else() -> None:
    message = styled("two lines\nWARNING: [bold] of NOTE: this\nNOTE: that")
    assert message.plain == "two lines\nWARNING: [bold] of NOTE: this\nNOTE: that"
    coloured = [(message.plain[span.start : span.end], span.style) for span in message.spans]
    assert coloured == [("WARNING:", STYLES["WARNING"]), ("NOTE:", STYLES["NOTE"])]


def test_a_file_gets_no_codes() -> None:
    console = Console(file=io.StringIO(), _environ={})
    with Progress(None, console=console) as progress:
        progress.say("NOTE: [a] note")
    assert isinstance(console.file, io.StringIO) and console.file.getvalue() == "NOTE: [a] note\n"


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_log_records_look_like_other_warnings(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    WarningHandler().emit(logging.makeLogRecord({"msg": "%s is [damaged]", "args": ("step 2",)}))
    written = stream.getvalue()
    assert written.endswith("step 2 is [damaged]\n") and "WARNING:" in written
    assert ("\x1b[" in written) == stream.isatty()
