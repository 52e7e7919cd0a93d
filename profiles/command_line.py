"""What the scripts share that read their arguments with argparse: the parser, changes of a config, and how they end.

A script ends as jaxfm's programs do (`jaxfm.program`): with 0 when it is done, with 2 and one message after a user's
mistake, with 130 after Ctrl-C. Scripts that read absl flags call `jaxfm.program.run` instead.
"""

import argparse
import ast
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError
from jaxfm.parallel.distributed import EXIT_INTERRUPTED, EXIT_USER_MISTAKE


def make_parser(text: str | None) -> argparse.ArgumentParser:
    """Returns a parser that prints `text` (a script's docstring) as it is under --help."""
    return argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Returns the parser's arguments and the words --config.KEY=VALUE; any other word ends the script with code 2."""
    arguments, changes = parser.parse_known_args(argv)
    if unknown := [word for word in changes if not word.startswith("--config.")]:
        parser.error(f"unknown argument {shlex.join(unknown)}")
    return arguments, changes


def parse_own(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parser's arguments, for a script without a config. Raises UserError for a word --config.KEY=VALUE."""
    arguments, changes = parse(parser, argv)
    if changes:
        raise UserError(f"{changes[0]}: is no flag of this script.")
    return arguments


def integers(flag: str, words: Sequence[str]) -> list[int]:
    """Returns the numbers of a comma-separated flag. Raises UserError, which names the flag, for any other word."""
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UserError(f"{flag}={','.join(words)}: must be whole numbers, separated by commas.") from error


def values(words: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns key -> value of words --config.KEY=VALUE: a Python value, or the text as it is where it is none.

    It is a text too where `known`, key -> value of the config that is changed, has one.
    """
    given: dict[str, Any] = {}
    for word in words:
        key, _, text = word.removeprefix("--config.").partition("=")
        try:
            given[key] = text if isinstance(known.get(key), str) else ast.literal_eval(text)
        except (ValueError, SyntaxError):
            given[key] = text
    return given


def run(main: Callable[[], None]) -> None:
    """Calls a script's `main`; a user's mistake ends it with one message, without a traceback."""
    try:
        main()
    except UserError as error:
        _stop(f"error: {error}", EXIT_USER_MISTAKE)
    except OSError as error:
        if error.filename is None:  # not about a file
            raise
        _stop(f"error: {error.filename}: {error.strerror}.", EXIT_USER_MISTAKE)
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", EXIT_INTERRUPTED)


def _stop(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
