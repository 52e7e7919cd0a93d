"""Column files: what is a word, a comment, a document, and what is refused with file and line."""

import gzip

import pytest

from jaxfm.data.records.conll import find_conll, read_conll
from jaxfm.data.records.tag_forms import find_form
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.errors import UserError

USUAL = Columns()


@pytest.fixture
def read(tmp_path):
    def read(text, columns=USUAL, name="train.conll"):
        path = tmp_path / name
        data = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return read_conll(path, columns)

    return read


def shape(split):
    return [(" ".join(s.words), " ".join(s.tags), s.document, int(s.origin.rsplit(":", 1)[1])) for s in split.sentences]


PLAIN = "Ada\tB-PER\nslept\tO\n\nIn\tO\nRome\tB-LOC\n"
PLAIN_SHAPE = [("Ada slept", "B-PER O", 0, 1), ("In Rome", "O B-LOC", 1, 4)]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip("\n"),
        PLAIN + "\n\n",
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n\n", "\n \t \n"),
        PLAIN.replace("\t", " "),
        PLAIN.replace("\t", " \t "),
        PLAIN.replace("\t", "  ").replace("\n", "  \n"),
        "\ufeff" + PLAIN,
    ],
    ids=["plain", "no-last-newline", "blank-end", "crlf", "spaces-in-blank", "space", "tab-and-space", "padded", "bom"],
)
def test_the_same_words_however_they_are_written(read, text):
    split = read(text)
    assert shape(split) == PLAIN_SHAPE
    assert split.documents == "none"


def test_gzip(read):
    assert shape(read(PLAIN, name="train.conll.gz")) == PLAIN_SHAPE


def test_conll_2003_columns_and_documents(read):
    split = read(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n\nPeter NNP B-NP B-PER\nsaid VBD B-VP O\n\n"
        "-DOCSTART- -X- O O\n\n-DOCSTART- -X- O O\nRome NNP B-NP B-LOC\n"
    )
    assert split.documents == "marked"
    assert shape(split) == [("EU", "B-ORG", 0, 3), ("Peter said", "B-PER O", 0, 5), ("Rome", "B-LOC", 1, 11)]


def test_a_document_mark_ends_the_sentence_before_it(read):
    split = read("Ada\tO\n-DOCSTART-\tO\nBob\tO\n")
    assert shape(split) == [("Ada", "O", 0, 1), ("Bob", "O", 1, 3)]


def test_universal_ner_columns_and_comments(read):
    text = "# newdoc id = a\n# sent_id = 1\n# text = Ada slept\n1\tAda\tB-PER\t-\t-\n2\tslept\tO\t-\t-\n\n"
    text += "# sent_id = 2\n1\t#\tO\t-\t-\n\n# newdoc id = b\n1\tRome\tB-LOC\t-\t-\n"
    split = read(text, Columns(words_column="1", tags_column="2"))
    assert shape(split) == [("Ada slept", "B-PER O", 0, 4), ("#", "O", 0, 8), ("Rome", "B-LOC", 1, 11)]
    assert split.documents == "marked"


def test_germeval_comments_hold_a_tab(read):
    text = "#\tn-tv.de vom 26.02.2005 [2005-02-26] \n1\tSchartau\tB-PER\tO\n2\tsagte\tO\tO\n"
    assert shape(read(text, Columns(words_column="1", tags_column="2"))) == [("Schartau sagte", "B-PER O", 0, 2)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#\tO\nAda\tB-PER\n", "# Ada"),  # with tabs a comment has no tab
        ("#NFL\tB-ORG\n#win\tO\n", "#NFL #win"),  # nothing else in the file
        ("# a comment\nAda\tB-PER\n#\tO\n", "Ada #"),
        ("# O\nAda B-PER\n", "# Ada"),  # without tabs: two cells, the second a tag
        ("# comment\nAda B-PER\n#NFL O\n", "Ada #NFL"),  # two cells, the second no tag
        ("# id 7f domain=train\nAda _ _ B-PER\n# _ _ O\n", "Ada #"),
        ("#begin document (a); part 000\nAda B-PER\n\n#end document\n", "Ada"),
    ],
)
def test_a_hash_is_a_word_where_its_cells_fit(read, text, words):
    assert [" ".join(s.words) for s in read(text).sentences] == [words]


def test_a_comment_of_a_tab_file_before_the_first_line(read):
    assert shape(read("# O\n#\tO\n")) == [("#", "O", 0, 2)]


@pytest.mark.parametrize("text", ["Ada\tB-PER\n#NFL O\n", "Ada B-PER x O\n#NFL O\n"])
def test_a_damaged_hash_line_in_a_sentence_is_no_comment(read, text):
    with pytest.raises(UserError, match=r"train\.conll:2: neither a word .* nor a comment"):
        read(text)


def test_words_keep_odd_characters(read):
    # A no-break space, a line separator, a next line and a file separator end words or lines for the methods of str.
    odd = ["10\u00a0km", "a\u2028b", "x\u0085y", "p\u001cq", "नमस्ते", "👩‍👩‍👧"]
    text = "".join(f"{word} O\n" for word in odd)
    assert read(text).sentences[0].words == odd
    assert read(text.replace(" O", "\tO")).sentences[0].words == odd
    assert read("New York\tB-LOC\n").sentences[0].words == ["New York"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada\tB-PER\nslept\n", r"train\.conll:2: 1 column, but 2 columns with tabs .* as in line 1: 'slept'"),
        ("Ada\tB-PER\nslept\tO\tO\n", r"train\.conll:2: 3 columns, but 2 columns"),
        (
            "# c\n\nAda B-PER\nslept at O\n",
            r"train\.conll:4: 3 columns, but 2 columns with white space .* as in line 3",
        ),
        ("Ada\tB-PER\nslept O\n", r"train\.conll:2: 1 column, but 2 columns with tabs"),
        ("Ada\n", r"train\.conll:1: 1 column, but a word and its tag need two"),
        ("Ada\tPERSON\n", r"train\.conll:1: 'PERSON' is not a tag: .*read from column 1; .* set data\.tags_column"),
        ("Ada\tB-PER\nslept\t\n", r"train\.conll:2: '' is not a tag"),
        ("Ada,B-PER\nslept,O\n", r"train\.conll:1: 1 column, .* write csv:"),
        (b"Ada\tB-PER\nCaf\xe9\tO\n", r"train\.conll:2: byte 0xE9 at position 4 of the line is not UTF-8"),
        ("Ada\tB-PER\n".encode("utf-16-be"), r"train\.conll:1: a NUL byte .* iconv -f UTF-16BE -t UTF-8"),
        ("Ada\tB-PER\n\nb\0c\tO\n", r"train\.conll:3: a NUL byte at position 2 of the line"),
        ("", r"train\.conll: the split is empty"),
        ("\n# only\n\n-DOCSTART-\tO\n", r"train\.conll: the split is empty"),
    ],
)
def test_bad_files_are_refused_with_file_and_line(read, text, message):
    with pytest.raises(UserError, match=message):
        find_form(read(text).tags, read(text).hint)


def test_damaged_gzip_is_refused(tmp_path):
    data = gzip.compress(PLAIN.encode() * 1000)
    path = tmp_path / "train.conll.gz"
    for bad in (b"plain text", data[: len(data) // 2], data[:-6] + b"\0\0\0\0\0\0"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"train\.conll\.gz:\d+: the gzip data is damaged"):
            read_conll(path, USUAL)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(words_column="2"), r"train\.conll:1: data\.words_column=2, but the line has 2 columns"),
        (Columns(tags_column="-3"), r"train\.conll:1: data\.tags_column=-3, but"),
        (Columns(words_column="1"), r"both read from column 1"),
        (Columns(words_column="token"), r"data\.words_column='token': the columns of conll: go by number"),
    ],
)
def test_columns_that_are_not_there(read, columns, message):
    with pytest.raises(UserError, match=message):
        read(PLAIN, columns)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / "ner" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(PLAIN.encode()) if name.endswith(".gz") else PLAIN.encode())

    return make


def files(rest):
    return {split: reader().source for split, reader in find_conll(rest, USUAL).readers.items()}


@pytest.mark.parametrize(
    "names",
    [
        ("train.conll", "valid.conll", "test.conll"),
        ("train.txt", "dev.txt", "test.txt"),
        ("eng.train", "eng.testa", "eng.testb"),
        ("en_ewt-ud-train.iob2", "en_ewt-ud-dev.iob2", "en_ewt-ud-test.iob2"),
        ("train.conll.gz", "validation.tsv", "test.bio"),
        ("wnut17.train.conll", "WNUT17_Dev.conll", "wnut17-test.iob"),
        ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated"),
    ],
)
def test_files_of_a_folder_are_found_by_name(folder, names):
    folder(*names, "README.md", "LICENSE.txt", "train.json", ".train.conll.swp")
    expected = {split: f"ner/{name}" for split, name in zip(("train", "valid", "test"), names, strict=True)}
    assert files("ner") == expected


def test_globs_single_files_and_explicit_paths(folder):
    folder("a.train.conll", "a.dev.conll", "b.train.conll", "gold,x.conll")
    assert files("ner/a.*") == {"train": "ner/a.train.conll", "valid": "ner/a.dev.conll"}
    assert files("ner/b.train.conll") == {"train": "ner/b.train.conll"}
    assert files("ner/gold,x.conll") == {"train": "ner/gold,x.conll"}  # one file without the word of a split
    assert files("train=ner/b.train.conll,dev=ner/gold,x.conll") == {
        "train": "ner/b.train.conll",
        "valid": "ner/gold,x.conll",
    }


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("ner", r"both ner/a\.train\.conll and ner/train\.txt could be the split 'train'"),
        ("nerr", r"conll:nerr: no such file or folder; the folder \. holds ner"),
        ("ner/trian.conll", r"no such file or folder; the folder ner holds a\.train\.conll, notes\.conll, train\.txt"),
        ("ner/x*", r"no file of a split: the glob matches nothing"),
        ("ner/n*.conll", r"no file of a split: the glob matches ner/notes\.conll"),
        ("train=ner/none.conll", r"conll:train=ner/none\.conll: no such file; the folder ner holds a\.train\.conll"),
        ("tarin=ner/train.txt", r"unknown split 'tarin': .* Did you mean 'train'\?"),
        ("dev=ner/train.txt,valid=ner/notes.conll", r"the split 'valid' is given twice"),
        ("", r"conll: needs a folder, a glob or"),
    ],
)
def test_files_that_are_not_there_or_doubtful(folder, rest, message):
    folder("a.train.conll", "train.txt", "notes.conll")
    with pytest.raises(UserError, match=message):
        find_conll(rest, USUAL)


def test_a_name_with_two_splits_is_refused(folder):
    folder("train-dev.conll")
    with pytest.raises(UserError, match=r"ner/train-dev\.conll: the name speaks of train and valid"):
        find_conll("ner", USUAL)


def test_a_document_column_is_refused():
    with pytest.raises(UserError, match="conll: files mark documents by -DOCSTART- lines"):
        find_conll("ner", Columns(document_column="doc"))
