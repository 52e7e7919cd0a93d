"""A format is one file: every reader of records reads it, and every message lists it."""

import importlib
import pathlib

import pytest

from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.records import formats, registry
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.registry import file_forms, find_formats, open_file, parse_source, source_forms
from jaxfm.data.records.source_unlabelled import Wanted, read_unlabelled
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.records.table import FileFormat, SetFormat
from jaxfm.errors import UserError

NEW_FORMAT = '''
"""Cells of ten characters."""
from jaxfm.data.records.source_files import file_names
from jaxfm.data.records.table import FileFormat, memory_table

def open_fixed(paths, by_number):
    lines = [line for path in paths for line in path.read_text().splitlines()]
    header, *rows = [[line[start : start + 10].strip() for start in range(0, len(line), 10)] for line in lines]
    return memory_table(file_names(paths), header, [(f"{paths[0]}:{n}", row) for n, row in enumerate(rows, 2)])

FORMAT = FileFormat("fixed", (".fixed",), open_fixed)
'''


@pytest.fixture
def fixed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    """Adds the format, and returns the folder of a file of it."""
    folder = tmp_path / "more_formats"
    folder.mkdir()
    (folder / "fixed.py").write_text(NEW_FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    importlib.invalidate_caches()
    find_formats.cache_clear()
    yield tmp_path
    find_formats.cache_clear()


def write(path: pathlib.Path, *rows: str) -> pathlib.Path:
    path.write_text("".join("".join(cell.ljust(10) for cell in row.split("|")) + "\n" for row in rows))
    return path


def test_a_new_format_is_one_file_for_every_reader(fixed: pathlib.Path) -> None:
    path = write(fixed / "train.fixed", "text|label", "a day|good", "a night|bad")
    source = f"fixed:{fixed}"
    examples = read_examples(source, ["train"], columns=ExampleColumns(), kind="single")["train"].examples
    assert [(e.text, e.target, e.origin) for e in examples] == [
        ("a day", "good", f"{path}:2"),
        ("a night", "bad", f"{path}:3"),
    ]
    assert [record["text"] for record in read_unlabelled(path, Wanted())] == ["a day", "a night"]
    assert [document.text for document in open_corpus(source).splits["train"]()] == ["a day", "a night"]
    write(path, "word|tag", "Ada|B-PER", "slept|O")
    assert read_tagged(source, ["train"])["train"].sentences[0].tags == ("B-PER", "O")
    with pytest.raises(UserError, match=r"fixed: needs a folder"):
        read_tagged("fixed:", ["train"])
    with pytest.raises(UserError, match=r"must be one of \.txt, .*\.fixed"):
        list(read_unlabelled(fixed / "a.docx", Wanted()))


def test_each_module_of_formats_is_a_format_with_its_own_scheme() -> None:
    found = find_formats()
    assert list(found) == ["csv", "jsonl", "parquet", "tsv", "hf", "memory", "tfds"]
    for scheme, form in found.items():
        assert form.scheme == scheme
        assert importlib.import_module(f"jaxfm.data.records.formats.{scheme}").FORMAT is form
        assert isinstance(form, FileFormat | SetFormat)
    assert source_forms(("conll:DIR",))[:3] == ("quickstart", "conll:DIR", "csv:DIR")
    assert file_forms() == "csv:DIR, jsonl:DIR, parquet:DIR or tsv:DIR"


def test_a_source_is_a_scheme_and_what_follows_it() -> None:
    assert parse_source("csv:a:b") == ("csv", "a:b")
    assert parse_source("quickstart") == ("quickstart", "")
    assert parse_source("conll:x", ("conll:DIR",)) == ("conll", "x")
    with pytest.raises(UserError, match=r"unknown data source 'conll:x': a source is quickstart, csv:DIR"):
        parse_source("conll:x")


def test_a_file_is_opened_by_its_ending(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "A.TAB"
    path.write_text("a\tb\n1\t2\n")
    assert list(open_file(path).values(("b",))) == [(f"{path}:2", ("2",))]
    assert list(open_file(path, by_number=True).values(("1",)))[0] == (f"{path}:1", ("b",))
    assert set(registry.file_formats()) == {".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".tsv", ".tab"}
