"""`--plugin=FILE.py`: a file that registers tasks, metrics or losses, named by the user and by nobody else.

A plugin is code of the user's own, as a config file is. It is never looked for, never taken from a run directory or a
hub: a run remembers the name and hash of what it used, and asks for it.
"""

import importlib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError, where_raised

_FLAG = re.compile(r"--?plugin(?:=(.*))?")


def define_plugin_flag() -> None:
    """Defines --plugin, which `load_named` reads before all other flags: they may name what it registers."""
    flags.DEFINE_multi_string(
        "plugin",
        [],
        "A Python file (my_metrics.py) or module that registers tasks, metrics or losses; may be repeated.",
    )


def load_named(argv: Sequence[str]) -> None:
    """Runs the plugins that the command line names, in its order. Raises UserError for one that cannot be run."""
    words = list(argv[1:])
    for number, word in enumerate(words):
        if word == "--":
            break
        if match := _FLAG.fullmatch(word):
            load(match[1] if match[1] is not None else next(iter(words[number + 1 :]), ""))


def load(plugin: str) -> ModuleType:
    """Runs a plugin, a file that ends in .py or the dotted name of a module, and returns it.

    Raises:
      UserError: no such file or module; what it raises while it is run, with its line.
    """
    if not plugin:
        raise UserError("--plugin: needs a Python file or the name of a module.")
    try:
        return _load_file(files.expanded(plugin)) if plugin.endswith(".py") else importlib.import_module(plugin)
    except UserError as error:
        raise UserError(f"--plugin={plugin}: {error}") from error
    # Whatever a plugin raises is its author's to mend; the traceback stays beside the message for him.
    except Exception as error:
        raise UserError(f"--plugin={plugin}: {type(error).__name__} at {where_raised(error)}: {error}") from error


def _load_file(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        raise UserError("no such file.")
    name = f"jaxfm_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
