"""Parses commands as `jaxfm` does and runs none of them: lists of words in, a message for each of them out.

From standard input to standard output: [["jaxfm", "train", "ner", ...], ...] -> ["", "error: ...", ...]. It is another
process, because flags are global, and programs set up logging and JAX before they start.
"""

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from jaxfm.programs import command, launch, program
from jaxfm.tasks import registry

_run = program.run


def problem(words: Sequence[str]) -> str:
    """What is wrong with a command; "" for a right one."""
    before, errors = set(flags.FLAGS), io.StringIO()
    sys.argv = list(words)
    try:
        with contextlib.redirect_stderr(errors):
            command.main()
    except SystemExit as stop:
        return errors.getvalue().strip() if stop.code else ""
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    return ""


def _only_check(main: Any, usage: str, **options: Any) -> None:
    """Stands in for `program.run`: all of it, with a program that only checks its config."""

    def check(*_: Any) -> None:
        config = getattr(flags.FLAGS, "config", None)
        if config is not None:
            registry.from_config_dict(config)

    check.__module__ = main.__module__  # by which a program's name is known
    _run(check, usage, **options)


if __name__ == "__main__":
    program.run = _only_check
    launch.os.execvp = lambda *_: None  # a script of launch/ would take this process's place
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()):
        found = [problem(words) for words in asked]
    json.dump(found, sys.stdout)
