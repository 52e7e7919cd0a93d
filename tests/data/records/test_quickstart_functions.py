"""The quickstart of retrieval: no module on two sides, one right answer a query, nothing imported."""

import ast
import sys
import textwrap

import pytest

from jaxfm.data.corpora.docstrings import installed_roots
from jaxfm.data.records.docstring_packages import split_of
from jaxfm.data.records.quickstart_functions import SIZES, collect, module_functions
from jaxfm.errors import UserError

SOURCE = '''
"""A module."""
import os

class Thing:
    @property
    def size(self):
        """Returns how many
        parts it has.

        More about it.
        """
        # a comment
        return len(self.parts)

def short(x):
    """Too few words."""
    return x

async def outer(x):
    """Waits until all the parts are there."""
    def inner(y):
        """Adds one to what is given."""
        return y + 1
    return inner(x)

def nothing():
    """Does nothing at all, to be overridden."""
    raise NotImplementedError
'''


def test_a_paragraph_and_the_code_without_its_docstring():
    found = list(module_functions(SOURCE.encode()))
    assert [(line, text) for line, text, _ in found] == [
        (7, "Returns how many parts it has."),
        (20, "Waits until all the parts are there."),
        (22, "Adds one to what is given."),
    ]
    assert found[0][2] == "def size(self):\n    # a comment\n    return len(self.parts)"
    assert found[2][2] == "def inner(y):\n    return y + 1"
    for _, text, code in found:
        assert text not in code
        ast.parse(textwrap.dedent(code))
    assert list(module_functions(b"def broken(:")) == [] == list(module_functions(b"x = '\xff'"))


@pytest.fixture(scope="module")
def splits():
    before = set(sys.modules)
    found = collect(installed_roots(), ("optax", "flax"))
    assert not {name for name in set(sys.modules) - before if name.startswith(("optax", "flax"))}
    return found


def test_no_module_and_no_text_is_on_two_sides(splits):
    for name, pairs in splits.items():
        assert 20 < len(pairs) <= 2 * SIZES[name]
        assert {split_of(pair.origin.rpartition(":")[0]) for pair in pairs} == {name}
    pairs = [pair for found in splits.values() for pair in found]
    assert len({pair.docstring for pair in pairs}) == len({pair.code for pair in pairs}) == len(pairs)


def test_long_texts_are_cut_where_a_word_or_a_line_ends(splits):
    for pair in (pair for found in splits.values() for pair in found):
        assert len(pair.docstring) <= 400 and len(pair.code) <= 1200 and pair.docstring.strip() == pair.docstring
        assert "async def" in pair.code.split("\n")[0] or pair.code.startswith("def ")


def test_an_installation_without_sources(tmp_path):
    with pytest.raises(UserError, match="no functions with docstrings for train"):
        collect([tmp_path], ("optax",))
