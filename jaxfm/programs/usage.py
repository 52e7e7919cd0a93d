"""How a program is used, for a person: `--help`, and how commands are written in messages."""

import dataclasses
import re
import textwrap
from collections.abc import Mapping, Sequence

from jaxfm.errors import UserError, did_you_mean
from jaxfm.programs import catalog

WIDTH = 80
# What the keys of a config are, for programs that take one.
_KEYS = (
    "Every key of the config is a flag too: --config.KEY=VALUE, or --config.KEY VALUE. {command} ner --help lists the "
    "keys of the config ner with their values, ranges and reasons; docs/configuration.md has those of all tasks. "
    "--data=URI is short for --config.data.source=URI."
)


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a program.

    Attributes:
      name: without dashes.
      doc: what it is.
      default: as written on a command line; None: there is none.
      switch: whether it has no value (a boolean).
      shared: whether it is about runs of several processes, which many programs have.
    """

    name: str
    doc: str
    default: str | None
    switch: bool
    shared: bool


@dataclasses.dataclass(frozen=True)
class Definition:
    """A program's flags, as it defines them.

    Attributes:
      name: of the program, as in `catalog`.
      usage: how to call it, "usage: ...".
      doc: of its module.
      flags: its own ones.
      takes_config: whether it has --config, and with it --config.KEY.
      takes_texts: whether words that are not flags may follow.
    """

    name: str
    usage: str
    doc: str
    flags: tuple[Flag, ...]
    takes_config: bool
    takes_texts: bool


def as_called(text: str, program: str) -> str:
    """Returns a text with its commands written as this process was called.

    Args:
      text: in which commands read `python -m jaxfm.NAME`.
      program: `sys.argv[0]`: "jaxfm train" or "python -m jaxfm train" under the command `jaxfm`.
    """
    command = re.fullmatch(r"(jaxfm|python -m jaxfm) [\w-]+", program)
    if command is None:
        return text
    return re.sub(r"python -m jaxfm\.(\w+)", lambda name: f"{command[1]} {name[1].replace('_', '-')}", text)


def help_text(definition: Definition, configs: Mapping[str, Sequence[str]]) -> str:
    """Returns what `--help` prints, in lines of at most 80 characters but for commands.

    Args:
      definition: of the program.
      configs: short name -> variants of the configs that come with jaxfm, for a program that takes one.
    """
    try:
        does = catalog.find(definition.name).doc
        head = f"{does[0].upper()}{does[1:]}."
    except UserError:
        head = definition.doc.partition("\n\n")[0]
    parts = [head, "", definition.usage]
    own = [flag for flag in definition.flags if not flag.shared]
    shared = [flag for flag in definition.flags if flag.shared]
    for title, flags in (("flags:", own), ("flags of a run of several processes:", shared)):
        if flags:
            parts += ["", title, *(line for flag in flags for line in _lines(flag))]
    if definition.takes_config:
        command = f"python -m jaxfm.{definition.name.replace('-', '_')}"
        parts += ["", "configs, and what may follow after a colon:"]
        for name, found in configs.items():
            parts += textwrap.wrap(", ".join(found), WIDTH, initial_indent=f"  {name:<16}", subsequent_indent=" " * 18)
        parts += ["", *textwrap.wrap(_KEYS.format(command=command), WIDTH, break_on_hyphens=False)]
    more = definition.doc.partition("\n\n")[2].strip()
    return "\n".join([*parts, *(["", _wrapped(more)] if more else [])])


def _wrapped(text: str) -> str:
    """Returns a text whose paragraphs fit the width; those with indented lines, such as commands, are left alone."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        each if re.search(r"^ ", each, re.MULTILINE) else textwrap.fill(each, WIDTH, break_on_hyphens=False)
        for each in paragraphs
    )


def _lines(flag: Flag) -> list[str]:
    """Returns a flag, what it is and its default, in lines."""
    name = f"--[no]{flag.name}" if flag.switch and flag.default == "true" else f"--{flag.name}"
    default = "" if flag.default in (None, "", "false") else f" (default: {flag.default})"
    indent = " " * 24
    text = textwrap.wrap(f"{flag.doc}{default}", WIDTH, initial_indent=indent, subsequent_indent=indent)
    if len(name) + 4 > len(indent):
        return [f"  {name}", *text]
    return [f"  {name}".ljust(len(indent)) + text[0].strip(), *text[1:]]


def unknown_flag(name: str, definition: Definition, keys: Sequence[str]) -> str:
    """Returns the message about a flag that a program lacks: the nearest one, or the keys of that name.

    Args:
      name: without dashes.
      definition: of the program.
      keys: dotted names of the config's keys, where it takes a config.
    """
    same = [f"--config.{key}" for key in keys if key.rpartition(".")[2] == name.replace("-", "_")]
    if same:
        return f"--{name}: there is no such flag. Did you mean {' or '.join(same)}?"
    known = [f"--{flag.name}" for flag in definition.flags] + (["--data"] if definition.takes_config else [])
    text = f"--{name}: there is no such flag. {did_you_mean(f'--{name}', known)}"
    return f"{text} A text that begins with a dash stands after --." if definition.takes_texts else text
