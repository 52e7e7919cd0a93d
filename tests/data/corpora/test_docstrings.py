"""Docstrings: which are taken, in a fixed order, without running anything."""

import pathlib
import sysconfig

import pytest

from jaxfm.data.corpora import docstrings
from jaxfm.data.corpora.docstrings import collect, find_docstrings, installed_roots, module_docstrings
from jaxfm.errors import UserError

LONG = "A sentence that is long enough to be worth keeping as a line of text, number"

MODULE = f'''"""Module. {LONG} 0."""
import something_that_is_not_there
raise SystemExit("never run")

def outer():
    """Outer. {LONG} 1.

        Indented more.

    As the first line.
    """
    def inner():
        r"""Inner \\alpha {LONG} 2."""

class Thing:
    """Thing. {LONG} 3."""
    async def method(self):
        """Method. {LONG} 4."""

    def short(self):
        """Short."""

    def example(self):
        """
        >>> a_long_line_of_doctest_that_is_no_text(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
        ... and_more_of_it()
        """

pattern = "\\d an escape that Python warns of"
'''


def test_docstrings_in_order_without_their_indentation():
    found = list(module_docstrings(MODULE.encode()))
    assert [text.split(".")[0].split()[0] for text in found] == ["Module", "Outer", "Inner", "Thing", "Method"]
    assert found[1] == f"Outer. {LONG} 1.\n\n    Indented more.\n\nAs the first line."
    assert found[2].startswith("Inner \\alpha")


@pytest.mark.parametrize(
    "source",
    [b"", b"print 'python 2'", b"\0", b"\xff", b'"""' + b"half \\ud800 " * 20 + b'"""', b"-" * 100_000 + b"1"],
)
def test_modules_that_give_nothing(source):
    assert list(module_docstrings(source)) == []


def write(root: pathlib.Path, name: str, *texts: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f'def f{i}():\n    """{text}"""\n' for i, text in enumerate(texts)))


@pytest.fixture
def roots(tmp_path):
    first, second = tmp_path / "lib", tmp_path / "site"
    write(first, "b.py", LONG + " b")
    write(first, "a/x.py", LONG + " ax", LONG + " b")  # one that another module has too
    write(first, "a/sub/y.py", LONG + " ay")
    write(first, "a/tests/z.py", LONG + " az")
    write(first, "site-packages/c/c.py", LONG + " c")
    write(second, "a2/x.py", LONG + " a2", LONG + " more")
    write(second, "code.py", LONG)
    (second / "code.py").write_text((second / "code.py").read_text() + "x = 1\n" * 500)  # hardly any docstring
    return first, second


def test_a_document_a_module_and_no_copy(roots):
    documents, note = collect(roots)
    found = {document.origin: document.text for document in documents}
    assert found == {
        "a/x.py": f"{LONG} ax\n\n{LONG} b",
        "a/sub/y.py": f"{LONG} ay",
        "a2/x.py": f"{LONG} a2\n\n{LONG} more",
    }
    assert list(found)[-1] == "a2/x.py"
    assert note.startswith("docstrings of 3 modules of 2 installed packages, 0.0 MB of text")
    assert collect(roots) == (documents, note)


def test_limits_of_a_package_and_of_all(roots, monkeypatch):
    for i in range(20):
        write(roots[1], f"big/m{i}.py", f"{LONG} {i}" * 10)
    assert sum(document.origin.startswith("big/") for document in collect(roots)[0]) == 20
    monkeypatch.setattr(docstrings, "PACKAGE_BYTES", 3000)
    # Each module has a little over 800 bytes.
    assert sum(document.origin.startswith("big/") for document in collect(roots)[0]) == 4
    monkeypatch.setattr(docstrings, "TEXT_CHARACTERS", 100)
    assert {document.origin.split("/")[0] for document in collect(roots)[0]} == {"a"}


def test_a_python_without_sources_is_said(tmp_path):
    with pytest.raises(UserError, match=r"quickstart: no docstrings in .*use text:"):
        collect([tmp_path])


def test_modules_are_divided_by_name(tmp_path, monkeypatch):
    for i in range(300):
        write(tmp_path, f"p/m{i}.py", f"{LONG} {i}")
    monkeypatch.setattr(docstrings, "installed_roots", lambda: (tmp_path,))
    streams = find_docstrings()
    sides = {name: {document.origin for document in read()} for name, read in streams.splits.items()}
    assert not sides["train"] & sides["valid"]
    assert len(sides["train"] | sides["valid"]) == 300
    assert 3 <= len(sides["valid"]) <= 32  # Binomial(300, 0.05): 15 +- 4
    write(tmp_path, "a/new.py", f"{LONG} new")
    docstrings._collected.cache_clear()
    again = {document.origin for document in find_docstrings().splits["valid"]()}
    assert again - {"a/new.py"} == sides["valid"]  # another package moves no module to the other side


def test_this_python_has_docstrings():
    roots = installed_roots()
    assert roots[0] == pathlib.Path(sysconfig.get_path("stdlib")).resolve()
    assert any((root / "numpy").is_dir() for root in roots)
    source = (roots[0] / "argparse.py").read_bytes()
    assert any("Command-line parsing library" in text for text in module_docstrings(source))
