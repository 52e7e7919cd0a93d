"""Real text that any Python installation has: the docstrings of its standard library and packages. Nothing is imported.

Modules are parsed, never run. The same installation gives the same documents.
"""

import ast
import functools
import hashlib
import inspect
import os
import pathlib
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence

from jaxfm.data.corpora.documents import Document, Streams, uniform_hash, whole_documents
from jaxfm.errors import UserError

# Enough for a small encoder, in seconds: parsing takes about one for 4 MB of source.
PACKAGE_BYTES = 1_500_000  # of source parsed of one package, so that none is most of the text
TEXT_CHARACTERS = 12_000_000
_MODULE_BYTES = 1_000_000  # larger ones are generated
_SHARE = 0.25  # of a module between triple quotes, below which parsing it would give little
_SHORTEST = 60  # characters of a docstring
_VALID_SHARE = 0.05
_LEFT_OUT = frozenset("tests test _vendor vendor vendored site-packages dist-packages __pycache__".split())
_DOCTEST = re.compile(r"^\s*(?:>>>|\.\.\. )")

_TEST_MODULE = re.compile(r"^test_|_tests?\.py$|^conftest\.py$")

_Nodes = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def find_docstrings() -> Streams:
    """Returns train and valid: one document a module, its docstrings joined by empty lines.

    About 5 % of the modules are valid, chosen by a hash of their name. The text is collected once a process.
    """
    documents, note = _collected(installed_roots())
    sides: dict[str, list[Document]] = {"train": [], "valid": []}
    for document in documents:
        sides["valid" if uniform_hash(document.origin) < _VALID_SHARE else "train"].append(document)
    return Streams({name: functools.partial(iter, side) for name, side in sides.items()}, (note,))


def installed_roots() -> tuple[pathlib.Path, ...]:
    """Returns the folders of the standard library and of the installed packages."""
    roots = [sysconfig.get_path("stdlib")]
    roots += [path for path in sys.path if path.rstrip("/\\").endswith(("site-packages", "dist-packages"))]
    return tuple(dict.fromkeys(pathlib.Path(root).resolve() for root in roots if os.path.isdir(root)))


def collect(roots: Sequence[pathlib.Path]) -> tuple[list[Document], str]:
    """Returns a document a module and a line for the log.

    Packages go by name, the modules of one by a hash of their path, so that its limit takes a fair sample of it.
    Left out: docstrings that are short, doctest alone or a copy of an earlier one, and modules of tests.
    Raises UserError when no docstring is found.
    """
    documents: list[Document] = []
    seen: set[bytes] = set()
    size = 0
    for package in _packages(roots):
        for origin, source in _sources(package):
            text = "\n\n".join(text for text in module_docstrings(source) if _is_new(text, seen))
            documents.extend(whole_documents(text, origin))
            size += len(text)
        if size >= TEXT_CHARACTERS:
            break
    if not documents:
        raise UserError(
            f"quickstart: no docstrings in {', '.join(map(str, roots))}: this Python was installed without its .py "
            "files; use text: with text of your own."
        )
    packages = len({document.origin.partition("/")[0] for document in documents})
    return documents, (
        f"docstrings of {len(documents):,} modules of {packages} installed packages, {size / 1e6:.1f} MB of text; "
        f"about {_VALID_SHARE:.0%} of the modules are valid"
    )


def package_modules(roots: Sequence[pathlib.Path], name: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (path in its root, path) of the modules of one package, by a hash of the former; none of tests.

    A package that is in no root has none.
    """
    for root in roots:
        origins = {path.relative_to(root).as_posix(): path for path in _modules(root / name)}
        origins = {origin: path for origin, path in origins.items() if not _TEST_MODULE.search(path.name)}
        if origins:
            yield from ((origin, origins[origin]) for origin in sorted(origins, key=uniform_hash))
            return


def module_docstrings(source: bytes) -> Iterator[str]:
    """Yields the docstrings of a module as their authors meant them: in order, without indentation, the short ones and
    those that are doctest alone left out. A module that this Python cannot parse has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two for what is nested too deeply
        return
    nodes = [node for node in ast.walk(tree) if isinstance(node, _Nodes)]
    for node in sorted(nodes, key=lambda node: node.lineno if not isinstance(node, ast.Module) else 0):
        text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
        prose = sum(len(line) for line in text.splitlines() if not _DOCTEST.match(line))
        # Half of a surrogate pair, which an escape in a string can write, is not a character.
        if prose >= _SHORTEST and "\0" not in text and text.encode(errors="ignore").decode() == text:
            yield text


@functools.cache
def _collected(roots: tuple[pathlib.Path, ...]) -> tuple[list[Document], str]:
    return collect(roots)


def _packages(roots: Sequence[pathlib.Path]) -> Iterator[tuple[pathlib.Path, list[pathlib.Path]]]:
    """Yields (root, modules) for each package, or module that stands alone, of each root."""
    for root in roots:
        for name in sorted(os.listdir(root)):
            path = root / name
            if path.is_file() and name.endswith(".py"):
                yield root, [path]
            elif path.is_dir() and name not in _LEFT_OUT:
                yield root, list(_modules(path))


def _modules(package: pathlib.Path) -> Iterator[pathlib.Path]:
    for folder, folders, names in os.walk(package):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        yield from (pathlib.Path(folder, name) for name in names if name.endswith(".py"))


def _sources(package: tuple[pathlib.Path, list[pathlib.Path]]) -> Iterator[tuple[str, bytes]]:
    """Yields (origin, source) of the modules of a package that are worth parsing, within its limit."""
    root, paths = package
    origins = {path.relative_to(root).as_posix(): path for path in paths}
    parsed = 0
    for origin in sorted(origins, key=uniform_hash):
        if parsed >= PACKAGE_BYTES:
            return
        try:
            if origins[origin].stat().st_size > _MODULE_BYTES:
                continue
            source = origins[origin].read_bytes()
        except OSError:  # a broken link, a file of another user
            continue
        quoted = sum(map(len, source.split(b'"""')[1::2]))
        if quoted >= _SHARE * len(source) and quoted >= _SHORTEST:
            parsed += len(source)
            yield origin, source


def _is_new(text: str, seen: set[bytes]) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
    return digest not in seen and not seen.add(digest)
