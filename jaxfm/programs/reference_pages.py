"""Pages of the reference that are generated: the flags of every program, and what `import jaxfm` gives."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import jaxfm
from jaxfm.programs import catalog, program, usage

# Programs that are not modules with flags of their own.
_WITHOUT_FLAGS = {"launch": "usage: jaxfm launch [SCRIPT ...]", "version": "usage: jaxfm version"}
_SECTIONS = {"Args:": "Arguments", "Attributes:": "Attributes", "Returns:": "Returns", "Raises:": "Raises"}
_WIDTH = 100  # of a signature in one line
# What absl adds to the description of a flag: its values, and that it may be repeated.
_OF_ABSL = re.compile(r"^<[^>]*>: |;\s+repeat this option to specify a list of values$")

_PROGRAMS_HEAD = """\
# Programs

`jaxfm PROGRAM ...` and `python -m jaxfm.PROGRAM ...` are the same. `jaxfm PROGRAM --help` prints what this page says
about a program. Flags may be in any order, as `--flag=VALUE` or `--flag VALUE`.

Programs that take a configuration (CONFIG, such as `ner:files`, or `--config=FILE.py:variant`) take every
[key](../configuration.md) as a flag too, `--config.KEY=VALUE`. `--data=URI` is short for `--config.data.source=URI`.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | `check` and `doctor`: something is wrong; of another program a bug, with its traceback |
| 2 | a mistake in the command, the config or the data, with one message |
| 69 | another process of the run failed |
| 75 | stopped by preemption after a save: start the same command again |
| 130 | stopped by Ctrl-C after a save |
| 143 | stopped by SIGTERM with nothing to save |

This page is generated: `python -m jaxfm.reference --page=programs --output=docs/reference/programs.md`.
"""
_PYTHON_HEAD = """\
# Python

The public names of `import jaxfm`. They are imported when they are first used, so the import itself takes no time.
Wrong arguments, data and files raise `jaxfm.errors.UserError` with one message.

This page is generated: `python -m jaxfm.reference --page=python --output=docs/reference/python.md`.
"""


def programs_page() -> str:
    """Returns docs/reference/programs.md: usage and flags of every program, by group."""
    lines, shared = [_PROGRAMS_HEAD], {}
    for group in catalog.GROUPS:
        lines += [f"## {group[0].upper()}{group[1:]}\n"]
        for each in (each for each in catalog.PROGRAMS if each.group == group):
            lines += [f"### jaxfm {each.name}\n", f"{each.doc[0].upper()}{each.doc[1:]}.\n"]
            if each.name in _WITHOUT_FLAGS:
                lines += _fenced(_WITHOUT_FLAGS[each.name])
                continue
            definition = program.definition_of(each.name.replace("-", "_"))
            lines += _fenced(usage.as_called(definition.usage, f"jaxfm {each.name}"))
            lines += _flag_table(flag for flag in definition.flags if not flag.shared)
            of_processes = {flag.name: flag for flag in definition.flags if flag.shared}
            if of_processes:
                lines += ["And the [flags of several processes](#flags-of-several-processes).\n"]
            shared |= of_processes
    lines += ["## Flags of several processes\n", "See [several processes](../multi_host.md).\n"]
    return "\n".join([*lines, *_flag_table(shared.values())])


def python_page() -> str:
    """Returns docs/reference/python.md: signature and docstring of every public name, methods of classes included."""
    lines = [_PYTHON_HEAD]
    for name in sorted(jaxfm.__all__, key=lambda name: (name[0].isupper(), name)):
        found = getattr(jaxfm, name)
        lines += [f"## jaxfm.{name}\n"]
        if not inspect.isclass(found):
            lines += [*_fenced(_signature(found, f"jaxfm.{name}"), "py"), *_described(found)]
            continue
        if "__init__" in vars(found) and not hasattr(found, "__dataclass_fields__"):
            lines += _fenced(_signature(found.__init__, f"jaxfm.{name}"), "py")
        lines += _described(found)
        if hasattr(found, "__dataclass_fields__"):
            lines += ["Its fields are the [keys](../configuration.md) of a run, by group.\n"]
        lines += _members(found, name)
    return "\n".join(lines)


def _members(owner: type, name: str) -> Iterator[str]:
    for member, value in vars(owner).items():
        if member.startswith("_") and member != "__call__":
            continue
        if isinstance(value, property):
            yield f"### {name}.{member}\n"
            yield from _described(value)
        elif inspect.isfunction(value):
            shown = f"{name.lower()}" if member == "__call__" else f"{name.lower()}.{member}"
            yield f"### {name}.{member}\n"
            yield from _fenced(_signature(value, shown), "py")
            yield from _described(value)


def _fenced(text: str, language: str = "text") -> list[str]:
    return [f"```{language}\n{text}\n```\n"]


def _flag_table(flags: Iterable[usage.Flag]) -> list[str]:
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name.startswith("config.")):
        name = f"`--[no]{flag.name}`" if flag.switch and flag.default == "true" else f"`--{flag.name}`"
        default = "" if flag.default in (None, "", "false", "[]") else f"`{flag.default}`"
        doc = " ".join(_OF_ABSL.sub("", flag.doc).split())
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (name, default, doc)) + " |")
    return ["| flag | default | what it is |", "|---|---|---|", *rows, ""] if rows else []


def _signature(function: Any, name: str) -> str:
    """Returns how a function is called, with the types as its source writes them; one argument a line if it is long."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    arguments = [argument for argument in _arguments(node.args) if argument != "self"]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){returns}"])


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    """Yields the arguments of a function as its source writes them."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
    yield from (_argument(*pair) for pair in zip(positional, defaults, strict=True))
    if arguments.vararg:
        yield f"*{_argument(arguments.vararg)}"
    elif arguments.kwonlyargs:
        yield "*"
    yield from (_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    if arguments.kwarg:
        yield f"**{_argument(arguments.kwarg)}"


def _argument(argument: ast.arg, default: ast.expr | None = None) -> str:
    if argument.annotation is None:
        return argument.arg + ("" if default is None else f"={ast.unparse(default)}")
    typed = f"{argument.arg}: {ast.unparse(argument.annotation)}"
    return typed + ("" if default is None else f" = {ast.unparse(default)}")


def _described(found: Any) -> list[str]:
    """Returns a docstring in Google's style as Markdown."""
    lines: list[str] = []
    for line in (inspect.getdoc(found) or "").splitlines():
        indent = len(line) - len(line.lstrip())
        if line in _SECTIONS:
            lines += [f"**{_SECTIONS[line]}**", ""]
        elif indent == 2 and (item := re.match(r"  (\w+): (.*)", line)):
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif indent > 2:
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line.strip())
    return [*lines, ""]
