"""The pictures of the quickstart in docs/images: `python -m profiles.pictures --workdir=runs/pictures`.

Trains configs/ner.py in a pseudo-terminal and keeps what a person sees there as quickstart_terminal.svg, with the
moving bar as it was half-way; the run's own curves become quickstart_curves.png. A finished run has no bar to keep, so
--workdir must be new.
"""

import codecs
import fcntl
import io
import os
import pathlib
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from jaxfm.errors import UserError
from profiles import command_line

COLUMNS, ROWS = 110, 40
REDRAWN = re.compile(r"(?=\x1b\[2K)")  # a line is erased before it is drawn anew
_CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """The lines of a terminal with their colour codes, after line ends, "cursor up" and "erase line".

    A line that is written to again from its start is replaced as a whole, as rich erases before it draws.
    """

    def __init__(self) -> None:
        self.rows, self._row, self._at_start, self._rest = [""], 0, False, ""

    def feed(self, text: str) -> None:
        """Takes what a program has written; a code that is cut at the end waits for its rest."""
        text, self._rest = self._rest + text, ""
        position = 0
        while position < len(text):
            code = _CODE.match(text, position)
            if code is None and text[position] == "\x1b":
                self._rest = text[position:]
                return
            if code is None:
                self._character(text[position])
                position += 1
            else:
                self._control(code)
                position = code.end()

    def _character(self, character: str) -> None:
        if character == "\n":
            self._row += 1
            self.rows += [""] * (self._row == len(self.rows))
        elif character != "\r":
            self._write(character)
        self._at_start = character in "\r\n"

    def _control(self, code: re.Match[str]) -> None:
        amount, letter = code.groups()
        if letter == "A":
            self._row = max(0, self._row - int(amount or 1))
        elif letter == "K":
            self.rows[self._row] = ""
        elif letter == "m":
            self._write(code[0])
            self._at_start = False

    def _write(self, text: str) -> None:
        self.rows[self._row] = text if self._at_start else self.rows[self._row] + text


def watch(command: Sequence[str], half_way: str) -> tuple[list[str], list[str]]:
    """Runs a command in a pseudo-terminal; returns its last lines, and those of its bar when `half_way` was in it.

    Raises CalledProcessError where the command fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    environment = {name: value for name, value in environment.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    screen, bar, pending = Screen(), [], ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # Linux says so where the other end is closed
            break
        if not read:
            break
        sys.stdout.buffer.write(read)
        sys.stdout.flush()
        # One read may hold many drawings of the bar: each is looked at before the next wipes it.
        *drawings, pending = REDRAWN.split(pending + decoder.decode(read))
        for drawing in drawings:
            screen.feed(drawing)
            found = [index for index, row in enumerate(screen.rows) if half_way in row]
            if found and not bar:
                bar = screen.rows[found[0] : found[0] + 2]
    screen.feed(pending)
    os.close(ours)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return screen.rows, bar


def to_svg(lines: Sequence[str], title: str) -> str:
    """Draws lines with colour codes as a terminal window; the picture fetches nothing, fonts neither."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True)
    return re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)


def main() -> None:
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/images"))
    arguments = parser.parse_args()
    if arguments.workdir.exists():
        raise UserError(f"--workdir={arguments.workdir}: is there already. Name a new directory.")
    options = ["ner", f"--workdir={arguments.workdir}"]
    lines, bar = watch([sys.executable, "-m", "jaxfm", "train", *options], half_way="(50 %)")
    end = max(index for index, line in enumerate(lines) if "(100 %)" in line) + 2  # the bar, and its numbers
    shown = ["$ jaxfm train ner --workdir=runs/ner", *bar, "...", *lines[end:]]
    shown = [line.replace(str(arguments.workdir), "runs/ner").replace("python -m jaxfm ", "jaxfm ") for line in shown]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "quickstart_terminal.svg").write_text(to_svg(shown, "jaxfm"), encoding="utf-8")
    shutil.copyfile(arguments.workdir / "plots" / "curves.png", arguments.output / "quickstart_curves.png")


if __name__ == "__main__":
    command_line.run(main)
