"""Lines and their pieces, and which file of a corpus is which split. (Splits of one file each: test_sources.py.)"""

import gzip

import pytest

from jaxfm.data import source_files
from jaxfm.data.source_files import find_corpus_files, numbered_lines, numbered_pieces
from jaxfm.errors import UserError

SUFFIXES = (".txt", ".md")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(source_files, "PIECE_BYTES", 8)


@pytest.mark.parametrize(
    "text", ["", "\n", "a", "a\nb\r\n\n", "\ufeffa\n", "01234567", "01234567\n", "0123456789é€\U0001f600" * 5 + "\nx"]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pieces_are_the_lines(small, tmp_path, text, suffix):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix else text.encode())
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    expected = list(enumerate(lines[:-1] if not lines[-1] else lines, 1))
    assert list(numbered_lines(path)) == expected
    joined: dict[int, str] = {}
    ended: set[int] = set()
    for number, piece, ends in numbered_pieces(path):
        assert len(piece.encode()) <= 8 + 3  # and the held-back start of a character
        assert number not in ended
        joined[number] = joined.get(number, "") + piece
        ended |= {number} if ends else set()
    assert list(joined.items()) == expected
    assert ended == set(joined)


def test_bad_bytes_far_into_a_line_are_placed(small, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"ab\n" + "0123456é".encode() + b"9\xffz\n")
    with pytest.raises(UserError, match=r"a\.txt:2: byte 0xFF at position 11 of the line is not UTF-8"):
        list(numbered_lines(path))
    path.write_bytes("01234567\U0001f600".encode()[:-1])
    with pytest.raises(UserError, match=r"a\.txt:1: byte 0xF0 at position 9 .* is not UTF-8 \(unexpected end"):
        list(numbered_lines(path))


def test_a_line_is_put_together_up_to_a_limit_only(small, tmp_path, monkeypatch):
    monkeypatch.setattr(source_files, "LINE_BYTES", 24)
    path = tmp_path / "a.txt"
    path.write_text("ok\n" + "x" * 24 + "\n" + "y" * 40)
    lines = numbered_lines(path)
    assert next(lines) == (1, "ok")
    with pytest.raises(UserError, match=r"a\.txt:2: the line is longer than"):
        list(lines)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.train.txt.gz", "a.md", "valid.txt", "c_test.txt", "README.md", "LICENSE.txt", "x.pdf", ".h.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.txt").write_text("x")
    return tmp_path


def names(files):
    return {split: [path.name for path in paths] for split, paths in files.items()}


def test_a_corpus_folder(folder):
    found = find_corpus_files(str(folder), "text", SUFFIXES)
    assert names(found) == {"train": ["a.md", "b.train.txt.gz"], "valid": ["valid.txt"], "test": ["c_test.txt"]}


def test_a_corpus_file_and_glob(folder):
    assert names(find_corpus_files(f"{folder}/README.md", "text", SUFFIXES)) == {"train": ["README.md"]}
    found = find_corpus_files(f"{folder}/**/[ad].*", "text", SUFFIXES)
    assert names(found) == {"train": ["a.md", "d.txt"]}


def test_explicit_splits_of_a_corpus_may_be_several_files(folder):
    rest = f"train={folder}/deep,train={folder}/*.md,validation={folder}/c_test.txt"
    assert names(find_corpus_files(rest, "text", SUFFIXES)) == {
        "train": ["d.txt", "README.md", "a.md"],
        "valid": ["c_test.txt"],
    }


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("", r"^text: needs a folder"),
        ("{}/absent.txt", r"no such file or folder; the folder .* holds .*a\.md"),
        ("{}/*.csv", r"no file with one of the suffixes \.txt \.md .*: the glob matches nothing"),
        (
            "{}/deep/empty",
            r"no file with one of the suffixes .*/empty holds nothing.*write a glob: text:DIR/\*\*/\*\.t",
        ),
        ("trian={}/a.md", r"unknown split 'trian'.*Did you mean 'train'"),
        ("train={}/absent", r"text:.*/absent: no such file or folder"),
        ("{}/train.test.txt", r"the name speaks of train and test"),
    ],
)
def test_corpus_files_that_are_not_there(folder, rest, message):
    (folder / "deep" / "empty").mkdir()
    (folder / "train.test.txt").write_text("x")
    with pytest.raises(UserError, match=message):
        find_corpus_files(rest.format(folder), "text", SUFFIXES)
