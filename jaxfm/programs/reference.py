"""Writes a page of the reference: `python -m jaxfm.reference --output=docs/configuration.md`, all keys of the config.

`python -m jaxfm.train --config=FILE --explain` prints the same of one config, with its values. --page=programs is the
page of all programs and their flags, --page=python that of what `import jaxfm` gives, --page=transformers that of the
arguments of transformers' Trainer.
"""

import pathlib
from collections.abc import Iterable

from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.programs import program
from jaxfm.programs.reference_pages import programs_page, python_page
from jaxfm.programs.trainer_page import transformers_page
from jaxfm.schema import Key, describe
from jaxfm.tasks import registry

USAGE = "usage: python -m jaxfm.reference [--page=keys|programs|python|transformers] [--output=FILE.md]"
_HEAD = """\
# Configuration

Every key of a run, with its default. A config file (`configs/*.py`) starts from `default_config(TASK)` and sets what
differs; `--config.KEY=VALUE` on the command line sets one key; `python -m jaxfm.train --config=FILE --explain` prints
the values of a config. An unknown key, a wrong type and a value out of range are refused with the nearest valid choice.

This page is generated: `python -m jaxfm.reference --output=docs/configuration.md`.
"""


def keys_page() -> str:
    """Returns docs/configuration.md: the keys of the trainer by group, then those of each task."""
    parts = [_HEAD]
    trainer = [key for key in describe(Config()) if key.name != "task"]
    parts += _section("Keys of every run", trainer)
    for name in registry.names():
        group = registry.from_config_dict({"task": {"name": name}}).task
        doc = "\n\n".join(filter(None, ((type(group).__doc__ or "").strip(), _own_defaults(name))))
        parts += _section(f"Task `{name}`", list(describe(group, "task.")), doc)
    return "\n".join(parts)


def _own_defaults(task: str) -> str:
    """Returns a sentence on the keys of every run that have another default for a task; empty: there are none."""
    own = registry.definition(task).defaults
    config = registry.from_config_dict({"task": {"name": task}})
    keys = [key for key in describe(config) if key.name in own and not key.name.startswith("task.")]
    if not keys:
        return ""
    listed = ", ".join(f"`{key.name}` = `{key.value!r}`" for key in keys)
    return f"Of the keys of every run these have another default: {listed}."


def _section(title: str, keys: Iterable[Key], doc: str = "") -> list[str]:
    lines = [f"## {title}\n", *([f"{doc}\n"] if doc else [])]
    lines += ["| key | default | allowed | what it is |", "|---|---|---|---|"]
    for key in keys:
        cells = (f"`{key.name}`", f"`{key.value!r}`", key.allowed, key.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


PAGES = {"keys": keys_page, "programs": programs_page, "python": python_page, "transformers": transformers_page}


def main() -> None:
    """The program."""
    page, output = flags.FLAGS.page, flags.FLAGS.output
    for name in ("page", "output"):  # the page of programs asks others for their flags, which have the same names
        delattr(flags.FLAGS, name)
    text = PAGES[page]()
    if output is None:
        print(text, end="")
        return
    files.write_text(files.output_file(output, "--output"), text)
    print(f"written: {pathlib.Path(output)}")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_enum("page", "keys", list(PAGES), f"Which page: {', '.join(PAGES)}.")
    flags.DEFINE_string("output", None, "The Markdown file to write; standard output if not given.")
    program.run(main, USAGE)
