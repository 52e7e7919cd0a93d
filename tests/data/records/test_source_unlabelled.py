"""Files to predict on: each form gives the records that were written, and whatever else is refused with its place."""

import csv
import gzip
import io
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.source_unlabelled import Wanted, form_of, read_unlabelled
from jaxfm.errors import UserError

SINGLE, PAIRS, WORDS = Wanted(), Wanted(pairs=True), Wanted(words=True)


def read(path: pathlib.Path, content: bytes, wanted: Wanted = SINGLE, notes: list[str] | None = None) -> list[Any]:
    """Writes the file, and returns its records without their origins."""
    path.write_bytes(content)
    found = list(read_unlabelled(path, wanted, (notes if notes is not None else []).append))
    return [{name: value for name, value in record.items() if name != "origin"} for record in found]


def refusal(path: pathlib.Path, content: bytes, wanted: Wanted = SINGLE) -> str:
    with pytest.raises(UserError) as error:
        read(path, content, wanted)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "wanted", "records"),
    [
        ("blank.txt", b"\n\n   \nada\n", SINGLE, [{"text": ""}, {"text": ""}, {"text": "   "}, {"text": "ada"}]),
        ("empty.txt", b"", SINGLE, []),
        ("bom.txt", b"\xef\xbb\xbfada\r\nmet\r\n", SINGLE, [{"text": "ada"}, {"text": "met"}]),
        ("bom.jsonl", b'\xef\xbb\xbf{"text": "ada"}\n', SINGLE, [{"text": "ada"}]),
        ("blank_line.jsonl", b'{"text": "ada"}\n\n  \n{"text": "met"}', SINGLE, [{"text": "ada"}, {"text": "met"}]),
        ("lines.ndjson", b'{"text": "", "id": 7}\n', SINGLE, [{"text": "", "id": 7}]),
        ("in.txt.gz", gzip.compress(b"ada\nmet\n", mtime=0), SINGLE, [{"text": "ada"}, {"text": "met"}]),
        (
            "array.json",
            b' [ {"text": "ada"},\n{"text": "met",\n"id": null}\n]\n',
            SINGLE,
            [{"text": "ada"}, {"text": "met", "id": None}],
        ),
        ("none.json", b" [ ] ", SINGLE, []),
        ("one_after_the_other.json", b'{"text":\n"ada"} {"text": "met"}\n', SINGLE, [{"text": "ada"}, {"text": "met"}]),
        (
            "test.csv",
            b'id,text\n1,"ada, met ""b""\nx"\n\n2,\n',
            SINGLE,
            [{"text": 'ada, met "b"\nx', "id": "1"}, {"text": "", "id": "2"}],
        ),
        ("usual.csv", b"stars,review\n5,ada\n", SINGLE, [{"text": "ada"}]),
        ("text_first.csv", b"review,text\nno,ada\n", SINGLE, [{"text": "ada"}]),
        ("pairs.txt", b"ada\tmet\n\n", PAIRS, [{"text": "ada", "pair": "met"}, {"text": "", "pair": ""}]),
        ("glue.tsv", b'index\tsentence1\tsentence2\n0\t"ada\tmet\n', PAIRS, [{"text": '"ada', "pair": "met"}]),
        ("nli.jsonl", b'{"premise": "ada", "hypothesis": "met"}', PAIRS, [{"text": "ada", "pair": "met"}]),
        ("words.jsonl", b'{"tokens": ["ada", "met"], "id": 1}', WORDS, [{"tokens": ["ada", "met"], "id": 1}]),
        ("both.jsonl", b'{"tokens": ["ada"], "text": "ada"}', WORDS, [{"tokens": ["ada"], "text": "ada"}]),
        ("both.json", b'{"tokens": ["ada"], "text": "ada"}', SINGLE, [{"text": "ada"}]),
        (
            "in.conll",
            b"# id = 1\nada B-PER\n#1 O\n\n-DOCSTART- O\n\n# O\nhull B-LOC",
            WORDS,
            [{"tokens": ["ada", "#1"]}, {"tokens": ["#", "hull"]}],
        ),
        (
            "words_alone.conll.gz",
            gzip.compress(b"ada\nmet\n\n\nhull\n", mtime=0),
            WORDS,
            [{"tokens": ["ada", "met"]}, {"tokens": ["hull"]}],
        ),
        ("tabs.iob2", b"#\tnews\t1\nNew York\tx\tO\n\tx\tO\n", WORDS, [{"tokens": ["New York"]}]),
    ],
)
def test_records_of_each_form(
    tmp_path: pathlib.Path, name: str, content: bytes, wanted: Wanted, records: list[dict[str, Any]]
) -> None:
    assert read(tmp_path / name, content, wanted) == records


@pytest.mark.parametrize(
    ("name", "content", "wanted", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "x"}\n{"text": "bad \\ud83d half"}',
            SINGLE,
            "{}:2: character 5 of the text ('\\ud83d')",
        ),
        ("a.jsonl", b'{"tokens": ["x", "\\udc00"]}', WORDS, "{}:1: character 1 of the word"),
        ("a.jsonl", b'{"text": "a\\u0000"}', SINGLE, "{}:1: a NUL byte in the text"),
        ("a.txt", b"ada\n\x00\n", SINGLE, "{}:2: a NUL byte"),
        ("a.txt", b"ada\n\xe9t\xe9\n", SINGLE, "{}:2: byte 0xE9 at position 1"),
        ("a.jsonl", b'{"text": null}', SINGLE, "{}:1: the text is null, but must be text"),
        ("a.jsonl", b'{"text": 5}', SINGLE, "{}:1: the text is 5 (int), but must be text"),
        ("a.jsonl", b'{"text": "a", "id": "\\ud800"}', SINGLE, "{}:1: character 1 of the id"),
        ("a.jsonl", b'{"text": "a"\n', SINGLE, "{}:1: not JSON"),
        ("a.jsonl", b"[1]\n", SINGLE, "{}:1: a list, but"),
        ("a.jsonl", b'{"tokens": ["a"]}', SINGLE, '{}:1: this model reads text, not words: give it as "text"'),
        ("a.jsonl", b'{"tokens": ["a", " "]}', WORDS, "{}:1: the word ' ' is empty"),
        ("a.jsonl", b'{"tokens": "a b", "text": "a b"}', WORDS, "{}:1: the tokens are 'a b' (str), but must be a list"),
        ("a.jsonl", b'{"text": "a", "pair": "b"}', SINGLE, "{}:1: this model judges single texts"),
        ("a.jsonl", b'{"text": "a"}', PAIRS, "no column for the second text was found (columns: 'text')"),
        ("a.jsonl", b'{"text": "a", "pair": null}', PAIRS, "{}:1: this model judges pairs of texts"),
        ("a.csv", b"a,b\nx,y\n", PAIRS, "set --config.data.text_column and --config.data.pair_column"),
        ("a.csv", b"a,b\nx,y\n", SINGLE, "no column for the text"),
        (
            "a.csv",
            b"review,comment\nx,y\n",
            SINGLE,
            "'review' and 'comment' could both be the text: set --config.data.",
        ),
        ("a.csv", b"text\nx,y\n", SINGLE, "{}:2: 2 columns, but the first line has 1"),
        ("a.txt", b"ada\tmet\nada\n", PAIRS, "{}:2: has 0 tabs; this model judges pairs"),
        ("a.json", b'[{"text": "a"},\n{"text": "b" "c"}]', SINGLE, "{}:2: not JSON: Expecting ',' delimiter"),
        ("a.json", b'[{"text": "a"},\n', SINGLE, "{}:2: not JSON: the array does not end"),
        ("a.json", b'[{"text": "a"}\n', SINGLE, "{}:2: not JSON: the array does not end"),
        ("a.json", b'[{"text": "a"},\n]', SINGLE, "{}:2: not JSON: an object after the comma is missing"),
        ("a.json", b'[{"text": "a"}]\nx', SINGLE, "{}:2: not JSON: something follows"),
        ("a.json", b'[\n"a"]', SINGLE, "{}:2: a str, but each record must be one JSON object"),
        ("a.conll", b"ada\n", SINGLE, "holds words, a line each, but this model reads texts"),
        ("a.txt.gz", gzip.compress(b"ada\n" * 500, mtime=0)[:-12], SINGLE, "the gzip data is damaged"),
        ("a.parquet", b"PAR1", SINGLE, "{}: not a parquet file"),
        ("a.docx", b"", SINGLE, "must be one of .txt, .csv, .jsonl, "),
        ("a", b"", SINGLE, "must be one of .txt, .csv, .jsonl, "),
        ("a.parquet.gz", b"", SINGLE, "must be one of .txt, .csv, .jsonl, "),
    ],
)
def test_what_is_no_record_is_refused_with_its_place(
    tmp_path: pathlib.Path, name: str, content: bytes, wanted: Wanted, message: str
) -> None:
    assert message.format(tmp_path / name) in refusal(tmp_path / name, content, wanted)


def test_an_input_that_is_no_file_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"--input=.*a\.txt: no such file"):
        form_of(tmp_path / "a.txt")
    with pytest.raises(UserError, match="is a directory"):
        form_of(tmp_path)


def test_columns_of_a_parquet_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [3, None], "text": ["ada", ""]}), path)
    assert read(path, path.read_bytes()) == [{"text": "ada", "id": 3}, {"text": "", "id": None}]
    pyarrow.parquet.write_table(pyarrow.table({"words": [["ada", "met"], []], "text": ["ada met", ""]}), path)
    both = [{"text": "ada met", "tokens": ["ada", "met"]}, {"text": "", "tokens": []}]
    assert read(path, path.read_bytes(), WORDS) == both


def test_columns_are_those_asked_for_then_those_of_the_run_then_the_usual_ones(tmp_path: pathlib.Path) -> None:
    path, content = tmp_path / "a.csv", b"text,title,body\n1,2,3\n"
    trained = {"text_column": "title", "pair_column": "", "label_column": "stars"}
    notes: list[str] = []
    assert read(path, content, Wanted(given={"text_column": "body"}, trained=trained), notes) == [{"text": "3"}]
    assert read(path, content, Wanted(trained=trained), notes) == [{"text": "2"}]
    assert notes == [f"{path}: text is 'body'", f"{path}: text is 'title'"]
    assert read(path, content, Wanted(trained={"text_column": "gone"})) == [{"text": "1"}]
    assert "--config.data.text_column='bodi' is absent. Did you mean 'body'?" in refusal(
        path, content, Wanted(given={"text_column": "bodi"})
    )
    pair = Wanted(pairs=True, given={"text_column": "body", "pair_column": "title"})
    assert read(path, content, pair) == [{"text": "3", "pair": "2"}]


def test_columns_by_number_are_of_files_without_a_header(tmp_path: pathlib.Path) -> None:
    content = b"ada,5\nmet,4\n"
    by_number = {"text_column": "0", "label_column": "1", "pair_column": ""}
    for wanted in (Wanted(trained=by_number), Wanted(given={"text_column": "0"})):
        assert read(tmp_path / "a.csv", content, wanted) == [{"text": "ada"}, {"text": "met"}]
    words = Wanted(words=True, given={"words_column": "-1"})
    assert read(tmp_path / "a.conll", b"O ada\nO met\n", words) == [{"tokens": ["ada", "met"]}]
    assert "none of them 5" in refusal(
        tmp_path / "a.conll", b"O ada\n", Wanted(words=True, given={"words_column": "5"})
    )


@pytest.mark.parametrize("tags", ["", "\t_\t_", "\tO\tB-PER"])
def test_a_first_column_of_running_numbers_is_no_word(tmp_path: pathlib.Path, tags: str) -> None:
    lines = [
        "# text = Zum Haus",
        f"1-2\tZum{tags}",
        *(f"{i}\t{w}{tags}" for i, w in enumerate(("Zu", "dem", "Haus"), 1)),
    ]
    content = "\n".join([*lines, f"3.1\tleer{tags}", "", f"1\tDa{tags}", ""]).encode()
    words = Wanted(words=True)
    assert read(tmp_path / "a.conllu", content, words) == [{"tokens": ["Zu", "dem", "Haus"]}, {"tokens": ["Da"]}]
    years = b"1984\n2001\n\n7\n"
    assert read(tmp_path / "b.conll", years, words) == [{"tokens": ["1984", "2001"]}, {"tokens": ["7"]}]


def test_a_json_array_of_one_line_is_read_a_piece_at_a_time(tmp_path: pathlib.Path) -> None:
    texts = ["a" * size + '\\"\u00e9\u2028' for size in (0, 1, 700_000, 3, 2_000_000, 9)]
    content = json.dumps([{"text": text} for text in texts], ensure_ascii=True).encode()
    assert [record["text"] for record in read(tmp_path / "a.json", content)] == texts


# No half surrogates, no NUL, and no line ends where the form is a line each.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\ufeff"), max_size=12)


def as_lines(texts: list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def as_csv(texts: list[str]) -> str:
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([["text"], *([text] for text in texts)])
    return file.getvalue()


def as_jsonl(texts: list[str]) -> str:
    return as_lines([json.dumps({"text": text}) for text in texts])


def as_json(texts: list[str]) -> str:
    return json.dumps([{"text": text} for text in texts], ensure_ascii=False, indent=1)


WRITERS: dict[str, Callable[[list[str]], str]] = {
    ".txt": as_lines,
    ".jsonl": as_jsonl,
    ".json": as_json,
    ".csv": as_csv,
    ".tsv": lambda texts: as_lines(["id\ttext", *(f"0\t{text}" for text in texts)]),
}


@pytest.fixture(scope="module")
def folder() -> Any:
    with tempfile.TemporaryDirectory() as name:
        yield pathlib.Path(name)


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(list(WRITERS)), texts=st.lists(LINE, max_size=5), packed=st.booleans())
def test_what_is_written_is_read(folder: pathlib.Path, form: str, texts: list[str], packed: bool) -> None:
    if form == ".tsv":
        texts = [text.replace("\t", " ") for text in texts]
    content = WRITERS[form](texts).encode()
    path = folder / f"written{form}{'.gz' * packed}"
    found = read(path, gzip.compress(content, mtime=0) if packed else content)
    assert [record["text"] for record in found] == texts


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of a form, with some of its bytes replaced, left out or put in; or bytes of any kind."""
    form = draw(st.sampled_from(list(WRITERS)))
    if draw(st.integers(0, 9)) == 0:
        return form, draw(st.binary(max_size=60))
    content = WRITERS[form](draw(st.lists(TEXT, min_size=1, max_size=4))).encode()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        odd = draw(
            st.sampled_from([b"", b'"', b",", b"\t", b"\r", b"\n", b"{", b"]", b"\\", b"\\ud83d", b"\xff", b"\0", b"1"])
        )
        content = content[:at] + odd + content[at + draw(st.integers(0, 3)) :]
    return form, content


@settings(max_examples=200, deadline=None)
@given(file=damaged(), wanted=st.sampled_from([SINGLE, PAIRS, WORDS]), packed=st.booleans())
def test_damaged_files_are_read_or_refused_with_their_place(
    folder: pathlib.Path, file: tuple[str, bytes], wanted: Wanted, packed: bool
) -> None:
    form, content = file
    path = folder / f"damaged{form}{'.gz' * packed}"
    try:
        found = read(path, gzip.compress(content, mtime=0) if packed else content, wanted)
    except UserError as error:
        assert str(path) in str(error)
        return
    for record in found:
        texts = [record[name] for name in ("text", "pair") if name in record] + list(record.get("tokens", ()))
        assert texts or "tokens" in record
        for text in texts:
            text.encode()
            assert "\0" not in text
    if form == ".json" and not wanted.words:
        try:
            expected = json.loads(content.decode("utf-8-sig"))
        except ValueError:
            return  # objects one after the other
        expected = expected if isinstance(expected, list) else [expected]
        assert [record["text"] for record in found] == [value["text"] for value in expected]
