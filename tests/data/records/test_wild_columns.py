# ruff: noqa: E501  (a file a line)
"""Column files as data sets and tools write them: what each gives, or the message.

A row: name, source, content, sentences as "word/TAG ... | ..." or "!" and the pattern of a message, part of the note.
"""

import pytest

from jaxfm.data.records.sources import Columns
from tests.data.records.wild import check

AM = "Ada/B-PER met/O"
AM_R = "Ada/B-PER met/O | Rome/B-LOC"
TSV = "Ada\tB-PER\nmet\tO\n\nRome\tB-LOC\n"
GERMEVAL = "#\thttp://a.b/c [2009-10-17]\n1\tIn\tO\tO\n2\tTroja\tB-OTH\tB-LOC\n3\t-\tI-OTH\tO\n\n"
UD = "1\tAda\tAda\tPROPN\tNNP\t_\t2\tnsubj\t_\tner=B-PER\n2\tmet\tmeet\tVERB\tVBD\t_\t0\troot\t_\tSpaceAfter=No\n"
ZUM = "1\tAda\tB-PER\t-\tx\n2-3\tzum\t_\t-\tx\n2\tzu\tO\t-\tx\n3\tdem\tO\t-\tx\n3.1\tda\tO\t-\tx\n"
NUMBERS = "".join(f"{7 * at % 100}\tw{at}\tO\n" for at in range(30))
SAME = "".join(f"doc1\tw{at}\tO\n" for at in range(30))

FILES = [
    # --- CoNLL and its kin ---
    ("plain", "conll:train.conll", TSV, AM_R, "tags BIO;"),
    ("one file without a split", "conll:corpus.conll", TSV, AM_R, "^train: 2 sentences"),
    ("one space", "conll:dev.txt", TSV.replace("\t", " "), AM_R, "^valid"),
    ("gz", "conll:train.tsv.gz", TSV, AM_R, ""),
    ("conll 2003", "conll:eng.testa", "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nx NN I-NP O\n", "EU/B-ORG x/O", "IO,"),
    ("conll 2002", "conll:esp.train", "Melbourne NP B-LOC\n( Fpa O\n", "Melbourne/B-LOC (/O", ""),
    ("conll 2003 german", "conll:deu.train", "Die die ART I-NC O\nEU EU NE I-NC I-ORG\n", "Die/O EU/B-ORG", "tags IO"),
    ("wnut 17", "conll:wnut17train.conll", "@paul\tO\n's\tO\n\t\nESB\tB-location\n\n", "@paul/O 's/O | ESB/B-location", ""),
    ("wnut 17 test", "conll:emerging.test.annotated", TSV, AM_R, "^test"),
    ("wnut 16", "conll:train", "#NFL\tB-sports\n#\tO\n@x\tO\n", "#NFL/B-sports #/O @x/O", ""),
    ("broad twitter", "conll:a.conll", "Ada\tB-PER\n\tO\nmet\tO\n", AM, r"; 1 empty words left out \(first: .*:2\)"),
    ("empty word of white space", "conll:a.conll", "Ada\tB-PER\n\u00a0\tO\nmet\tO\n", AM, "1 empty words"),
    ("only empty words", "conll:a.conll", "\tO\n\nAda\tB-PER\n", "Ada/B-PER", "1 empty words"),
    ("germeval 14", "conll:NER-de-train.tsv", GERMEVAL, "In/O Troja/B-OTH -/I-OTH", "column 3 has tags too"),
    ("germeval 14, comments with four cells", "conll:NER-de-dev.tsv", GERMEVAL.replace(" [", "\t[").replace("]", "]\t"),
     "In/O Troja/B-OTH -/I-OTH", "column 0 numbers the words, which are read from column 1"),
    ("germeval 14 without inner entities", "conll:NER-de-test.tsv", GERMEVAL.replace("B-LOC", "O"),
     "In/O Troja/B-OTH -/I-OTH", "tags from column 2"),
    ("universal ner", "conll:x-ud-train.iob2", "# sent_id = 1\n1\tAda\tB-PER\t-\tann\n2\tmet\tO\t-\tann\n\n", AM,
     "tags from column 2, as the last one holds none"),
    ("multiword and empty lines", "conll:x-ud-dev.iob2", ZUM, "Ada/B-PER zu/O dem/O",
     r"1 lines of multiword tokens \(1-2\) left out.*; 1 empty nodes \(1\.1\) left out"),
    ("conll-u with ner=", "conll:x-ud-test.conllu", UD, AM, "tags from ner= in column 9"),
    ("conll-u without tags", "conll:a.conllu", UD.replace("ner=B-PER", "_"), "!:1: 'SpaceAfter=No' is not a tag|'_' is"),
    ("multiconer", "conll:en_train.conll", "# id 7f\tdomain=en\nAda _ _ B-PER\nmet _ _ O\n\n", AM, ""),
    ("hash comment of two cells", "conll:a.tsv", "# doc\t12\nAda\tB-PER\nmet\tO\n", AM, "taken for comments"),
    ("hash word among comments", "conll:a.tsv", "# doc\t12\n#\tO\nmet\tO\n\n#x\tO\n", "#/O met/O | #x/O", ""),
    ("hash word without prefix scheme", "conll:a.tsv", "# doc\t12\n#\tO\nAda\tPER\n", "#/O Ada/B-PER", "no prefix"),
    ("hashtag with a damaged tag", "conll:a.tsv", "Ada\tB-PER\n\n#NFL\tBORG\n", "!a.tsv:3: 'BORG' is not a tag"),
    ("comment inside a sentence", "conll:a.tsv", "Ada\tB-PER\n# doc\t12\n", "!a.tsv:2: neither a word .* nor a comment"),
    ("numbers from 0", "conll:a.conll", "0 Ada B-PER\n1 met O\n\n0 Rome B-LOC\n", AM_R, "column 0 numbers"),
    ("numbers through the file", "conll:a.conll", "1 Ada B-PER\n2 met O\n\n3 Rome B-LOC\n", AM_R, "column 0 numbers"),
    ("numbers of something", "conll:a.conll", NUMBERS, "!a.conll:1: column 0, .* nothing but numbers: set data.words_col"),
    ("document names", "conll:a.conll", SAME, "!a.conll:1: column 0, .* 'doc1' in every line: set data.words_column"),
    ("words that are numbers", "conll:a.conll", "1\tO\n2\tO\n", "1/O 2/O", ""),
    ("tag first (MIT)", "conll:engtrain.bio", "O\tany\nB-Genre\tfunny\nI-Genre\tones\n", "any/O funny/B-Genre ones/I-Genre",
     "tags from column 0, words from column 1"),
    ("conlleval output", "conll:a.txt", "Ada NNP B-PER B-PER\nmet VBD O B-PER\n", AM, "nested entities or predictions"),
    ("two columns of tags, none last", "conll:a.tsv", "Ada\tB-PER\tB-X\tz\nmet\tO\tO\tz\n",
     "!a.tsv:1: the columns 1 and 2 hold tags, and the last one none: set data.tags_column"),
    ("a line of names", "conll:a.tsv", "Word\tTag\nAda\tB-PER\nmet\tO\n", AM, "line 1 left out, the names of the columns"),
    ("the word Word", "conll:a.tsv", "Word\tO\nAda\tB-PER\n", "Word/O Ada/B-PER", ""),
    ("a tab at the end", "conll:a.tsv", "Ada\tB-PER\t\nmet\tO\t\n", AM, "tags from column 1"),
    ("wikiann", "conll:en/train", "en:Ada\tB-PER\nen:met\tO\nen::\tO\n", "Ada/B-PER met/O :/O", "prefix 'en:' of every"),
    ("wikiann zh-min-nan", "conll:train", "zh-min-nan:a\tO\nzh-min-nan:b\tO\nzh-min-nan:\tO\n", "a/O b/O", "1 empty words"),
    ("a prefix of some words", "conll:train", "en:Ada\tB-PER\nmet\tO\nen:x\tO\n", "en:Ada/B-PER met/O en:x/O", ""),
    ("label studio", "conll:a.conll", "-DOCSTART- -X- O\nAda -X- _ B-Job Title\nmet -X- _ O\n\n", "Ada/B-Job Title met/O", ""),
    ("label studio, first line", "conll:a.conll", "met -X- _ O\nAda -X- _ B-Job Title\n", "met/O Ada/B-Job Title", ""),
    ("labels of two words behind tabs", "conll:a.tsv", "Ada\tB-Job Title\nmet\tO\n", "Ada/B-Job Title met/O", ""),
    ("labels of two words behind spaces", "conll:a.txt", "met O\nAda B-Job Title\n", "!a.txt:2: 3 columns, but 2 columns"),
    ("words of two parts", "conll:a.tsv", "New York\tB-LOC\n", "New York/B-LOC", ""),
    ("commas", "conll:a.txt", "Ada,B-PER\nmet,O\n", "!a.txt:1: 1 column, .* write csv:"),
    ("a lost tag", "conll:a.txt", "Ada B-PER\nmet\n", "!a.txt:2: 1 column, but 2 columns"),
    # --- tag schemes ---
    ("bioes", "conll:a.bioes", "A S-PER\nB B-LOC\nC E-LOC\n", "A/B-PER B/B-LOC C/I-LOC", "tags BIOES, converted"),
    ("bilou", "conll:a.bio", "A U-PER\nB B-LOC\nC L-LOC\n", "A/B-PER B/B-LOC C/I-LOC", "tags BILOU"),
    ("bmes", "conll:train.char.bmes", "张 B-NAME\n三 M-NAME\n丰 E-NAME\n在 O\n", "张/B-NAME 三/I-NAME 丰/I-NAME 在/O", "M-NAME as I"),
    ("bmewo", "conll:a.txt", "A B-X\nB M-X\nC E-X\nD W-X\nE O\n", "A/B-X B/I-X C/I-X D/B-X E/O", "W-X as S-X"),
    ("iob1", "conll:a.iob", "A I-X\nB B-X\nC O\nD I-Y\n", "A/B-X B/B-X C/O D/B-Y", "tags IOB1"),
    ("wikigold, io", "conll:wikigold.conll.txt", "A I-X\nB I-X\nC O\n", "A/B-X B/I-X C/O", "tags IO,"),
    ("no prefix", "conll:a.txt", "Ada PER\nLovelace PER\nmet O\n", "Ada/B-PER Lovelace/I-PER met/O", "PER as I-PER; they have"),
    ("no prefix, no O", "conll:a.txt", "Ada PER\n", "!a.txt:1: 'PER' is not a tag: .* where O is among them"),
    ("bare", "conll:a.txt", "Ada B\nL I\nmet O\n", "Ada/B-ENTITY L/I-ENTITY met/O", "every entity is of the type ENTITY"),
    ("bare, bioes", "conll:a.txt", "Ada S\nmet O\n", "Ada/B-ENTITY met/O", "ENTITY"),
    ("underscore", "conll:a.txt", "Ada B_PER\nL I_PER\nmet O\n", "Ada/B-PER L/I-PER met/O", "B_PER as B-PER"),
    ("lower case", "conll:a.txt", "Ada b-per\nmet o\n", "Ada/B-per met/O", "o as O, b-per as B-per"),
    ("zero for O", "conll:a.txt", "Ada B-PER\nmet 0\nx O\n", "Ada/B-PER met/O x/O", "0 as O"),
    ("suffix (Naver)", "conll:train_data", "1\tAda\tPER_B\n2\tL\tPER_I\n3\tmet\t-\n", "Ada/B-PER L/I-PER met/O", "- as O"),
    ("one odd tag", "conll:a.txt", "Ada B-PER\nmet O\nL BPER\n", "!a.txt:3: 'BPER' is not a tag.*Did you mean 'B-PER'"),
    ("parts of speech", "conll:a.txt", "Ada NNP\nmet VBD\n", "!a.txt:1: 'NNP' is not a tag.*set data.tags_column"),
    ("mixed schemes", "conll:a.txt", "Ada U-PER\nL S-PER\n", "!the tags mix two schemes"),
    # --- bytes ---
    ("utf-16", "conll:a.tsv", TSV.encode("utf-16"), AM_R, ""),
    ("utf-16 be", "conll:a.tsv", ("\ufeff" + TSV).encode("utf-16-be"), AM_R, ""),
    ("utf-16 without a mark", "conll:a.tsv", TSV.encode("utf-16-le"), "!a.tsv:1: .*iconv -f UTF-16LE"),
    ("utf-8 with a mark", "conll:a.tsv", b"\xef\xbb\xbf" + TSV.encode(), AM_R, ""),
    ("a mark on a line", "conll:a.tsv", "Ada\tB-PER\nmet\tO\n\ufeff\nRome\tB-LOC\n", AM_R, ""),
    ("a mark before a later line", "conll:a.tsv", TSV.replace("Rome", "\ufeffRome"), AM_R, ""),
    ("latin-1", "conll:a.tsv", "Zoë\tB-PER\n".encode("latin1"), "!a.tsv:1: byte 0xEB at position 3 .*iconv -f LATIN1"),
    ("carriage returns", "conll:a.tsv", TSV.replace("\n", "\r"), AM_R, ""),
    ("crlf", "conll:a.tsv", TSV.replace("\n", "\r\n"), AM_R, ""),
    ("cr cr lf", "conll:a.tsv", TSV.replace("\n", "\r\r\n"), AM_R, ""),
    ("nul", "conll:a.tsv", TSV.replace("met", "m\0t"), "!a.tsv:2: a NUL byte at position 2"),
    ("gzip without its suffix", "conll:a.tsv", b"\x1f\x8b\x08\0\0\0", "!a.tsv:1: not text but gzip data"),
    ("an Office file", "conll:a.tsv", b"PK\x03\x04\x14\0\x06\0", "!a.tsv:1: not text but a zip archive"),
    ("u+2028", "conll:a.tsv", "a\u2028b\tO\n", "a\u2028b/O", ""),
]  # fmt: skip


@pytest.mark.parametrize("row", FILES, ids=[row[0] for row in FILES])
def test_column_files(tmp_path, row):
    _, source, content, sentences, *note = row
    check(tmp_path, source, content, sentences, *note)


def test_columns_that_are_named_go_before_what_is_found(tmp_path):
    check(tmp_path, "conll:a.tsv", GERMEVAL, "In/O Troja/B-LOC -/O", "", Columns(tags_column="3"))
    check(tmp_path, "conll:b.conll", "0\tw\tO\n7\tx\tO\n", "0/O 7/O", "", Columns(words_column="0"))


def test_the_files_of_a_source_have_the_same_columns(tmp_path):
    """The test file alone would not show that its last column is an inner layer."""
    from jaxfm.data.records.sources import read_tagged

    (tmp_path / "train.tsv").write_text(GERMEVAL)
    (tmp_path / "test.tsv").write_text("1\tBonn\tB-NP\tO\n")
    read = read_tagged(f"conll:{tmp_path}", ["test"])["test"]
    assert read.sentences[0].tags == ("B-NP",)
    assert "tags from column 2" in read.note
