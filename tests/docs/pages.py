"""The Markdown pages of the repository as tests read them: headings, links, blocks of code, commands of a shell."""

import dataclasses
import functools
import itertools
import json
import pathlib
import re
import shlex
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A block without a language is a shell's or what a program prints; a command is recognised by how it begins.
SHELL = ("", "bash", "console", "sh", "shell")
COMMANDS = re.compile(r"(?:\.venv-[\d.]+/bin/)?(?:python -m (?:jaxfm|profiles)\b|jaxfm |make |launch/|profiles/)")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code: its language ("" if the page names none), its text, the page and the line where it starts."""

    language: str
    text: str
    page: str
    line: int

    @property
    def where(self) -> str:
        """Page and line, as error messages name them."""
        return f"{self.page}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Link:
    """A link or an image: its target as written, the page and the line."""

    target: str
    page: str
    line: int


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a shell: its words, the page and the line where it starts."""

    words: tuple[str, ...]
    page: str
    line: int

    @property
    def where(self) -> str:
        """Page and line, as error messages name them."""
        return f"{self.page}:{self.line}"

    def __str__(self) -> str:
        """The command as it is typed."""
        return shlex.join(self.words)


def pages() -> list[str]:
    """Paths of all pages, relative to the repository's root."""
    folders = ("docs", "launch", "profiles")
    found = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*.md"))]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def text(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


@functools.cache
def tokens(content: str) -> list[Token]:
    """The tokens of a page in CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table").parse(content)


def headings(content: str) -> list[str]:
    """The headings of a page as text, without marks of emphasis or code."""
    found = tokens(content)
    return [
        "".join(part.content for part in found[index + 1].children or ())
        for index, token in enumerate(found)
        if token.type == "heading_open"
    ]


def links(page: str, content: str) -> Iterator[Link]:
    """Yields every link and image of a page."""
    for token in tokens(content):
        line = (token.map or [0])[0] + 1
        for part in token.children or ():
            target = part.attrGet({"link_open": "href", "image": "src"}.get(part.type, ""))
            if target is not None:
                yield Link(str(target), page, line)


def inline_code(content: str) -> Iterator[tuple[str, int]]:
    """Yields every piece of code inside a page's text, with the line of its paragraph."""
    for token in tokens(content):
        yield from (
            (part.content, (token.map or [0])[0] + 1) for part in token.children or () if part.type == "code_inline"
        )


def blocks(page: str, content: str) -> Iterator[Block]:
    """Yields every block of code, fenced or indented."""
    for token in tokens(content):
        if token.type in ("fence", "code_block"):
            start = (token.map or [0])[0] + (2 if token.type == "fence" else 1)
            yield Block(token.info.split(" ")[0], token.content, page, start)


def commands(page: str, content: str) -> Iterator[Command]:
    """Yields every command of the repository's own programs in a page's blocks of code, without where its output goes.

    Raises:
      ValueError: a command whose quotes are not closed.
    """
    for block in blocks(page, content):
        if block.language not in SHELL:
            continue
        lines = iter(enumerate(block.text.splitlines(), start=block.line))
        for number, line in lines:
            if not COMMANDS.match(line.strip()):
                continue
            while line.endswith("\\"):
                line = line.removesuffix("\\") + next(lines)[1]
            words = shlex.split(line, comments=True)
            yield Command(tuple(itertools.takewhile(lambda word: word not in (">", "|"), words)), page, number)


def cells(notebook: str) -> list[Block]:
    """The code of a notebook, a block for each cell; `line` counts the cells, from 1."""
    found = enumerate(json.loads(text(notebook))["cells"], start=1)
    return [Block("python", "".join(cell["source"]), notebook, n) for n, cell in found if cell["cell_type"] == "code"]


def all_commands() -> list[Command]:
    """The commands of all pages."""
    return [command for page in pages() for command in commands(page, text(page))]
