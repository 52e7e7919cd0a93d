"""Pairs of text that any installation of jaxfm has: what a docstring says, and the function that it describes.

The packages are those of `docstring_packages`, dependencies of jaxfm, read by `ast` alone: nothing is imported or run.
The anchor is the first paragraph of a docstring, the positive the source of its function without the docstring. Valid
and test are the functions of modules of which nothing is in another split, chosen by a hash of the module's path. A
paragraph or a source that occurs twice anywhere is not used, so that a query has one right answer. The same
installation gives the same pairs; other versions of the packages give others, so a score belongs to an installation.
"""

import ast
import collections
import functools
import inspect
import pathlib
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxfm.data.corpora.docstrings import installed_roots, package_modules
from jaxfm.data.records.docstring_packages import PACKAGES, split_of
from jaxfm.data.records.table import Table, Tables, memory_table
from jaxfm.errors import UserError

COLUMNS = ("docstring", "code")
# Functions of a package in each split, at most.
SIZES: Mapping[str, int] = {"train": 500, "valid": 50, "test": 100}
_OF_A_MODULE = 20  # so that no module is most of a package
_SPARE = 1.1  # other packages may have the same texts
_WORDS = 5  # of a paragraph, at least: "See base class." describes nothing
_PARAGRAPH, _CODE = 400, 1200  # characters; longer ones are cut at the end of a word, of a line
_MODULE_BYTES = 200_000  # larger ones take long to parse, or are generated

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Pair(NamedTuple):
    """A paragraph and the code it describes; `origin` is "numpy/lib/npyio.py:120"."""

    origin: str
    docstring: str
    code: str


def find_functions() -> Tables:
    """Returns train, valid and test: records of COLUMNS. They are collected once a process.

    Raises UserError for an installation without such functions.
    """
    splits = _collected(installed_roots())
    return Tables({name: functools.partial(_open, name, pairs) for name, pairs in splits.items()})


def _open(name: str, pairs: Sequence[Pair]) -> Table:
    source = f"quickstart/{name} (functions of installed packages and their docstrings)"
    return memory_table(source, COLUMNS, ((pair.origin, pair[1:]) for pair in pairs))


def collect(roots: Sequence[pathlib.Path], packages: Sequence[str] = PACKAGES) -> dict[str, list[Pair]]:
    """Returns split -> pairs, by package, whose modules are taken in the order of a hash of their path.

    Raises UserError for a split that would be empty.
    """
    found = {package: _of_package(roots, package) for package in packages}
    pairs = [pair for splits in found.values() for split in splits.values() for pair in split]
    docstrings = collections.Counter(pair.docstring for pair in pairs)
    codes = collections.Counter(pair.code for pair in pairs)
    result: dict[str, list[Pair]] = {split: [] for split in SIZES}
    for splits in found.values():
        for split, found_pairs in splits.items():
            own = [pair for pair in found_pairs if docstrings[pair.docstring] == 1 and codes[pair.code] == 1]
            result[split] += own[: SIZES[split]]
    for split, kept in result.items():
        if not kept:
            raise UserError(
                f"quickstart: no functions with docstrings for {split} in {', '.join(map(str, roots))}: are the "
                "packages installed with their .py files? For your own data write csv:, tsv:, jsonl: or parquet:."
            )
    return result


def module_functions(source: bytes) -> Iterator[tuple[int, str, str]]:
    """Yields (line, first paragraph of the docstring, code without the docstring) of the functions of a module.

    Left out: paragraphs of fewer than five words, and functions that do nothing but pass or raise. A module that this
    Python cannot parse has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            tree = ast.parse(source)
        lines = source.decode().splitlines()
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for what is nested too deeply
        return
    if any(mark in source for mark in (b"\x0c", b"\x0b")):
        return  # splitlines and ast would count lines differently
    for node in _functions(tree.body):
        paragraph = _paragraph(ast.get_docstring(node, clean=False) or "")
        if len(paragraph.split()) >= _WORDS and _does_something(node.body[1:]):
            yield node.lineno, paragraph, _code(node, lines)


def _functions(body: Sequence[ast.AST]) -> Iterator[_Function]:
    """Yields the functions of statements and of what is inside them, in order; expressions are not looked through."""
    for node in body:
        if isinstance(node, _Function):
            yield node
        for part in ("body", "handlers", "orelse", "finalbody"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):
                yield from _functions(inner)


def _paragraph(docstring: str) -> str:
    text = inspect.cleandoc(docstring).strip().partition("\n\n")[0]
    words = " ".join(text.split())
    if "\0" in words or words.encode(errors="ignore").decode() != words:
        return ""  # an escape in a string can write half of a surrogate pair, which is not a character
    return words if len(words) <= _PARAGRAPH else words[: words.rfind(" ", 0, _PARAGRAPH + 1)]


def _does_something(body: Sequence[ast.stmt]) -> bool:
    return any(not isinstance(node, ast.Pass | ast.Raise) and not _is_constant(node) for node in body)


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _code(node: _Function, lines: Sequence[str]) -> str:
    """The lines of a function from `def` on, without those of its docstring, as many as fit."""
    assert node.end_lineno is not None and node.body[0].end_lineno is not None
    first, last = node.body[0].lineno, node.body[0].end_lineno
    kept = [*lines[node.lineno - 1 : first - 1], *lines[last : node.end_lineno]]
    code = textwrap.dedent("\n".join(line.rstrip() for line in kept if line.strip()))
    return code if len(code) <= _CODE else code[: code.rfind("\n", 0, _CODE + 1)]


def _of_package(roots: Sequence[pathlib.Path], package: str) -> dict[str, list[Pair]]:
    splits: dict[str, list[Pair]] = {split: [] for split in SIZES}
    for module, path in package_modules(roots, package):
        pairs = splits[split_of(module)]
        room = int(_SPARE * SIZES[split_of(module)]) - len(pairs)
        if room <= 0 or path.stat().st_size > _MODULE_BYTES:
            continue
        found = [Pair(f"{module}:{line}", *texts) for line, *texts in module_functions(path.read_bytes())]
        pairs += found[: min(room, _OF_A_MODULE)]
    return splits


@functools.cache
def _collected(roots: tuple[pathlib.Path, ...]) -> dict[str, list[Pair]]:
    return collect(roots)
