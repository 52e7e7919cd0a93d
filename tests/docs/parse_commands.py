"""Parses commands as their programs do and runs none of them: lists of words in, a message for each of them out.

From standard input to standard output: [["train", "--config=configs/ner.py", ...], ...] -> ["", "error: ...", ...].
It is a process of its own, as flags are global, and programs set up logging and JAX before they start.
"""

import contextlib
import importlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from jaxfm.programs import program
from jaxfm.tasks import registry

_run = program.run


def problem(words: Sequence[str]) -> str:
    """What is wrong with a command of the program words[0]; "" for a right one."""
    before, errors = set(flags.FLAGS), io.StringIO()
    sys.argv = [f"jaxfm.{words[0]}", *words[1:]]
    try:
        with contextlib.redirect_stderr(errors):
            importlib.import_module(f"jaxfm.programs.{words[0]}").run()
    except ModuleNotFoundError:
        return f"there is no program {words[0]!r}"
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
    asked = json.load(sys.stdin)
    with contextlib.redirect_stdout(io.StringIO()):
        found = [problem(words) for words in asked]
    json.dump(found, sys.stdout)
