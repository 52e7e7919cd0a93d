"""The command `jaxfm`, the same as `python -m jaxfm`: its first word names a program of `jaxfm.programs.catalog`."""

import importlib
import pathlib
import sys

from jaxfm.errors import UserError
from jaxfm.programs import catalog

EXIT_USER_MISTAKE = 2  # as of all programs, see jaxfm/programs/program.py, whose import takes a second
_HELP = ("--help", "-h", "-help", "help")


def main() -> None:
    """Runs the program that the first word names; without one, lists all."""
    words = sys.argv[1:]
    command = "python -m jaxfm" if pathlib.Path(sys.argv[0]).name == "__main__.py" else "jaxfm"
    if words[:1] == ["help"] and len(words) == 2:
        words = [words[1], "--help"]
    if not words or words[0] in _HELP:
        print(catalog.overview(command))
        return
    if words[0] == "--version":
        words = ["version"]
    try:
        program = catalog.find(words[0])
    except UserError as error:
        print(f"error: {error}\n`{command} --help` lists them.", file=sys.stderr)
        sys.exit(EXIT_USER_MISTAKE)
    # By its first word a program knows how it was called, and says so in its messages.
    sys.argv = [f"{command} {program.name}", *words[1:]]
    importlib.import_module(program.module).run()
