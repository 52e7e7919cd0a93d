"""Lines and their pieces, and which file of a corpus is which split. (Splits of one file each: test_sources.py.)"""

import gzip

import pytest

from jaxfm.data.records import source_files
from jaxfm.data.records.source_files import find_corpus_files, find_table_files, numbered_lines, numbered_pieces
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
        assert len(piece) < 2 * 8
        assert number not in ended
        joined[number] = joined.get(number, "") + piece
        ended |= {number} if ends else set()
    assert list(joined.items()) == expected
    assert ended == set(joined)


TEXT = "Ada\tB-PER\n\nZoë 漢 \U0001f600\tO\n\n\nend\u2028of\u0085it"
LINES = ["Ada\tB-PER", "", "Zoë 漢 \U0001f600\tO", "", "", "end\u2028of\u0085it"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("piece", [1, 2, 3, 8, 1 << 20])
def test_every_encoding_with_a_mark_and_every_line_end(tmp_path, monkeypatch, encoding, end, piece):
    monkeypatch.setattr(source_files, "PIECE_BYTES", piece)
    text = TEXT.replace("\n", end)
    if encoding.endswith("-be"):
        text = "\ufeff" + text
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert list(numbered_lines(path)) == list(enumerate(LINES, 1))


def test_line_ends_may_be_mixed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\rb\nc\r\nd\r\re\n\rf\r")
    assert [line for _, line in numbered_lines(path)] == ["a", "b", "c", "d", "", "e", "", "f"]


def test_byte_order_marks_of_files_put_together(tmp_path, small):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n\xef\xbb\xbf\nc\xef\xbb\xbfd\n0123456789\xef\xbb\xbf89\n")
    assert [line for _, line in numbered_lines(path)] == ["a", "b", "", "c\ufeffd", "0123456789\ufeff89"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Ada\tO\n".encode("utf-16-le"), r":1: a NUL byte .* UTF-16LE without .*: iconv -f UTF-16LE -t UTF-8\.$"),
        ("Zoë\tO\n".encode("utf-16-be"), r":1: a NUL byte .* iconv -f UTF-16BE"),
        ("Ada\tO\n".encode("utf-32-le"), r":1: a NUL byte .* iconv -f UTF-32LE"),
        (b"ok\nab\0c\n", r":2: a NUL byte at position 3 of the line: this is a binary or damaged file"),
        ("ok\nab".encode("utf-16") + b"\0", r":2: the file is UTF-16-LE by its byte order mark, but damaged here"),
        ("ok\n".encode("utf-16") + b"\0\xd8a\0\n\0", r":2: the file is UTF-16-LE .* damaged here \(illegal"),
        ("a\nCafé\n".encode("latin1"), r":2: byte 0xE9 at position 4 of the line is not UTF-8 .*-f LATIN1 -t UTF-8"),
        ("a\n\u201cb\u201d\n".encode("cp1252"), r":2: byte 0x93 at position 1 of the line .*-f CP1252 -t UTF-8"),
        (gzip.compress(b"a", mtime=0), r":1: not text but gzip data: let its name end in \.gz"),
        (b"PK\x03\x04\x14\0", r":1: not text but a zip archive or an Office file"),
        (b"PAR1\x15\x04\0", r":1: not text but a parquet file"),
    ],
)
def test_what_is_no_text_says_what_it_is(tmp_path, data, message):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.txt" + message):
        list(numbered_lines(path))


def test_lines_before_a_fault_are_given_first(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"PAR1\tB-GENE\nb\n\xff\n")
    lines = numbered_lines(path)
    assert [next(lines), next(lines)] == [(1, "PAR1\tB-GENE"), (2, "b")]
    with pytest.raises(UserError, match=r"a\.txt:3: "):
        next(lines)


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
    assert [next(lines), next(lines)] == [(1, "ok"), (2, "x" * 24)]
    with pytest.raises(UserError, match=r"a\.txt:3: the line is longer than"):
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


# --- files of tables ---

CSV = (".csv",)


def test_files_by_name_and_one_file_alone(write, tmp_path):
    for name in ("a/train.csv", "a/dev.csv.gz", "a/test.tsv", "a/README.csv", "reviews.csv"):
        write(name, "a\n")
    folder = tmp_path / "a"
    assert find_table_files(str(folder), "csv", CSV)[0] == {
        "train": [folder / "train.csv"],
        "valid": [folder / "dev.csv.gz"],
    }
    assert find_table_files(str(folder / "*.tsv"), "tsv", CSV)[0] == {"test": [folder / "test.tsv"]}
    assert find_table_files(str(folder / "dev.csv.gz"), "csv", CSV)[0] == {"valid": [folder / "dev.csv.gz"]}
    assert find_table_files(str(tmp_path / "reviews.csv"), "csv", CSV)[0] == {"train": [tmp_path / "reviews.csv"]}
    explicit = f"train={tmp_path}/reviews.csv,test={folder}/train.csv"
    assert find_table_files(explicit, "csv", CSV)[0] == {
        "train": [tmp_path / "reviews.csv"],
        "test": [folder / "train.csv"],
    }


@pytest.mark.parametrize(
    ("names", "rest", "message"),
    [
        (("reviews.csv",), "", r"no file of a split: .* holds reviews\.csv"),
        (("train.csv", "train_old.csv"), "", r"both .*train\.csv and .*train_old\.csv could be the split 'train'"),
        (("train-00000-of-00002.csv",), "", r"train-00000-of-00002\.csv: of the 2 parts .* 1 are present"),
        (("train.csv",), "absent.csv", r"no such file or folder; the folder .* holds train\.csv"),
    ],
)
def test_files_that_are_no_splits(write, tmp_path, names, rest, message):
    for name in names:
        write(name, "a\n")
    with pytest.raises(UserError, match=message):
        find_table_files(str(tmp_path / rest), "csv", CSV)
