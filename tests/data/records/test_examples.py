"""Labelled texts: real files with the counts their makers give, every kind of target, and what is refused."""

import csv
import gzip
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.data.records import examples as module
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.errors import UserError

NONE = ExampleColumns()
ALL = ("train", "valid", "test")


@pytest.fixture
def write(tmp_path):
    """Writes a file whose lines (or objects) are given; returns its folder as a source."""

    def write(name, lines):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return f"{name.rpartition('.')[2]}:{tmp_path}"

    return write


def read(source, split="train", kind="single", **columns):
    return read_examples(source, [split], columns=ExampleColumns(**columns), kind=kind)[split]


def targets(*arguments, **options):
    return [example.target for example in read(*arguments, **options).examples]


def refused(message, source, kind="single", **columns):
    with pytest.raises(UserError, match=message) as caught:
        read(source, kind=kind, **columns)
    assert "\n" not in str(caught.value)


# --- real data ---

SNLI = "contradiction {}, entailment {}, neutral {}"
TREC = "ABBR {}, DESC {}, ENTY {}, HUM {}, LOC {}, NUM {}"
AG = "Business {}, Sci/Tech {}, Sports {}, World {}"
# (folder, split) -> (rows, counts of the labels), from the README beside the files.
REAL = {
    ("sst2", "train"): (67349, "0 29,780, 1 37,569"),
    ("sst2", "valid"): (872, "0 428, 1 444"),
    ("trec", "train"): (5452, TREC.format(86, "1,162", "1,250", "1,223", 835, 896)),
    ("trec", "test"): (500, TREC.format(9, 138, 94, 65, 81, 113)),
    ("ag-news-subset", "train"): (9979, AG.format("2,486", "2,531", "2,456", "2,506")),
    ("ag-news-subset", "test"): (7600, AG.format(*["1,900"] * 4)),
    ("snli-subset", "train"): (9842, SNLI.format("3,278", "3,329", "3,235")),
    ("snli-subset", "valid"): (4908, SNLI.format("1,612", "1,671", "1,625")),
    ("snli-subset", "test"): (4916, SNLI.format("1,625", "1,697", "1,594")),
    ("stsb", "train"): (5749, "scores 0 to 5, 2.701 on average"),
    ("stsb", "valid"): (1500, "scores 0 to 5, 2.364 on average"),
    ("stsb", "test"): (1379, "scores 0 to 5, 2.608 on average"),
}
FIELDS = {
    "sst2": ("sentence", None, "label"),
    "trec": ("question", None, "coarse_label"),
    "ag-news-subset": ("text", None, "label"),
    "snli-subset": ("premise", "hypothesis", "label"),
    "stsb": ("sentence1", "sentence2", "score"),
}


@pytest.mark.parametrize(("folder", "split"), REAL)
def test_real_files_have_the_rows_of_their_readme(shared_data, folder, split):
    count, counts = REAL[folder, split]
    text, pair, label = FIELDS[folder]
    found = read(
        f"tsv:{shared_data / folder}",
        split,
        "regression" if folder == "stsb" else "single",
        label="coarse_label" if folder == "trec" else "",
    )
    (path,) = (path for path in (shared_data / folder).iterdir() if path.name.startswith(split))
    assert len(found.examples) == count
    assert found.note.endswith(
        f"{split}: {count:,} examples from {path} ({text}{'+' + pair if pair else ''} -> {label}); {counts}"
    )
    # The csv module without quoting as the oracle of every cell.
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [example.text for example in found.examples] == [row[text] for row in rows]
    assert [example.pair for example in found.examples] == [pair and row[pair] for row in rows]
    score = float if folder == "stsb" else str
    assert [example.target for example in found.examples] == [score(row[label]) for row in rows]
    assert found.examples[-1].origin == f"{path}:{count + 1}"


# --- which fields ---


def test_texts_pairs_and_labels_by_their_usual_names(write):
    for name, fields, label in (
        ("a.csv", "text,label", None),
        ("b.csv", "id,premise,hypothesis,class", "h"),
        ("c.csv", "category,question,sentence", "s"),
        ("d.csv", "label,sentence1,sentence2,score", "s"),
        ("e.csv", "text,pair,label", "p"),
        ("f.csv", "text,text_pair,label", "t"),
    ):
        names = fields.split(",")
        rows = [",".join(f"{cell[0]}{i}" for cell in names) for i in (1, 2)]
        source = write(name, [fields, *rows])
        pair = [example.pair for example in read(f"{source}/{name}").examples]
        assert pair == ([f"{label}1", f"{label}2"] if label else [None, None])


def test_fields_asked_for(write):
    source = write("train.tsv", ["premise\thypothesis\ty", "p\th\ta", "q\ti\tb"])
    assert [(e.text, e.pair) for e in read(source, text="premise", label="y").examples] == [("p", None), ("q", None)]
    pairs = [(e.text, e.pair) for e in read(source, text="hypothesis", pair="premise", label="y").examples]
    assert pairs == [("h", "p"), ("i", "q")]
    assert [e.text for e in read(source, pair="hypothesis", label="y").examples] == ["p", "q"]
    assert read(source, label="y").note == (
        f"train: 2 examples from {source[4:]}/train.tsv (premise+hypothesis -> y); a 1, b 1"
    )


def test_files_without_a_header_have_numbers(write):
    source = write("train.csv", ["3,Title,Some text", "1,Other,More text"])
    found = read(source, text="2", label="0").examples
    assert [(e.text, e.target, e.origin[-1]) for e in found] == [("Some text", "3", "1"), ("More text", "1", "2")]


@pytest.mark.parametrize(
    ("header", "columns", "message"),
    [
        (
            "text,y",
            {},
            r"no column for the label \(looked for label, .*; columns: 'text', 'y'\): set data\.label_column",
        ),
        (
            "x,label",
            {},
            r"no column for the text \(looked for text, .*; columns: 'x', 'label'\): set data\.text_column",
        ),
        (
            "text,label,class",
            {},
            r"'label' and 'class' could both be the label: .*columns: 'text', 'label', 'class'",
        ),
        ("text,review,label", {}, r"'text' and 'review' could both be the text: set data\.text_column"),
        ("premise,hypothesis,text1,text2,label", {}, r"premise\+hypothesis and text1\+text2 could both be the pair"),
        (
            "text,label",
            {"label": "lable"},
            r"label_column='lable' is absent\. Did you mean 'label'\? Columns: 'text'",
        ),
        ("text,label", {"text": "x"}, r"data\.text_column='x' is absent.*Columns: 'text', 'label'"),
        ("text,label", {"pair": "x"}, r"data\.pair_column='x' is absent"),
        ("text,label", {"text": "text", "pair": "text"}, r"text_column and data\.pair_column are both 'text'"),
        ("text,label", {"text": "label"}, r"the column 'label' is to be both text and label"),
        ("text,label", {"label": "label,text"}, r"label_column='label,text': .*0 or 1, are for several classes"),
    ],
)
def test_columns_that_are_absent_or_ambiguous(write, header, columns, message):
    refused(
        message,
        write("train.csv", [header, *(",".join("ab" * 20)[: len(header.split(",")) * 2 - 1] for _ in "xy")]),
        **columns,
    )


# --- targets ---


def test_classes_as_text_and_as_numbers(write):
    rows = [{"text": "t", "label": label} for label in (" a b ", 3, -1, True, 2.0)]
    assert targets(write("train.jsonl", rows)) == ["a b", "3", "-1", "true", "2"]


def test_several_classes_in_a_list_in_a_cell_and_in_columns(write):
    rows = [{"text": "t", "labels": labels} for labels in (["b", "a", "b"], [], ["7"])]
    assert targets(write("train.jsonl", rows), kind="multi") == [("b", "a"), (), ("7",)]
    source = write("train.csv", ["text,label", "t,a| b", "t,", "t,a|c;d"])
    assert targets(source, kind="multi") == [("a", "b"), (), ("a", "c;d")]
    source = write("train.tsv", ["text\tx\ty\tz", "t\t0\t1\t1", "t\tfalse\tTrue\t0", "t\t0\t0\t0"])
    assert targets(source, kind="multi", label="z, x,y") == [("z", "y"), ("y",), ()]
    note = read(source, kind="multi", label="x,y,z").note
    assert note.endswith("(text -> x,y,z); y 2, z 1; 1.00 classes an example; NOTE: no training example has 'x'")


def test_scores(write):
    source = write("train.csv", ["text,score", "t,-1", "t,2.5", "t, 1e3 "])
    assert targets(source, kind="regression") == [-1.0, 2.5, 1000.0]
    rows = [{"text": "t", "score": score} for score in (1, 0.25)]
    assert targets(write("train.jsonl", rows), kind="regression") == [1.0, 0.25]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_score_is_read_as_it_is(score):
    from jaxfm.data.records.targets import score_of

    assert score_of(repr(score), "y", "x:1") == score == score_of(score, "y", "x:1")


@pytest.mark.parametrize(
    "value", ["nan", "-inf", "1,5", "five", True, [1.0], math.nan, math.inf, pytest.param(10**310, id="huge")]
)
def test_what_is_no_score_is_refused_with_its_place(write, value):
    rows = [{"text": "t", "score": 1.0}, {"text": "t", "score": value}]
    refused(r"train\.jsonl:2: .* in 'score' is not a score", write("train.jsonl", rows), "regression")


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        (
            "single",
            {"text": "t", "label": None},
            r"train\.jsonl:3: no label in 'label', but other examples of train have",
        ),
        ("single", {"text": "t"}, r"train\.jsonl:3: no label in 'label'"),
        ("single", {"text": "t", "label": " "}, r"train\.jsonl:3: no label in 'label'"),
        ("single", {"text": "t", "label": 0.5}, r"train\.jsonl:3: 0\.5 in 'label' is not a class"),
        (
            "single",
            {"text": "t", "label": ["a", "b"]},
            r"train\.jsonl:3: \['a', 'b'\] in 'label' is not a class: .*kind=m",
        ),
        (
            "single",
            {"text": "t", "label": {"a": 1}},
            r"train\.jsonl:3: \{'a': 1\} in 'label' is not a class: .*kind=mu",
        ),
        ("single", {"text": "t", "label": "['a']"}, r"train\.jsonl:3: \"\['a'\]\" in 'label' is not a class: .*kind=m"),
        ("multi", {"text": "t", "label": None}, r"train\.jsonl:3: no label in 'label'"),
        ("multi", {"text": "t", "label": {"a": 1}}, r"train\.jsonl:3: 'label' holds objects here, but text at .*:1: "),
        ("single", {"text": " \n", "label": "a"}, r"train\.jsonl:3: the text in 'text' is empty"),
        ("single", {"label": "a"}, r"train\.jsonl:3: the text in 'text' is empty"),
        ("single", {"text": 7, "label": "a"}, r"train\.jsonl:3: 7 in 'text' is of type int, but must be text"),
        ("single", {"text": "a\0b", "label": "a"}, r"train\.jsonl:3: a NUL byte in 'text'"),
        (
            "single",
            {"text": "\ud800", "label": "a"},
            r"train\.jsonl:3: the text in 'text' has half of a surrogate pair",
        ),
    ],
)
def test_bad_examples_are_refused_with_file_and_line(write, kind, row, message):
    rows = [{"text": "t", "label": "a"}, {"text": "u", "label": "b"}, row]
    refused(message, write("train.jsonl", rows), kind)


def test_an_empty_cell_and_marks_that_are_none(write):
    refused(r"train\.csv:3: no label in 'label'", write("train.csv", ["text,label", "t,a", "t,", "t,b"]))
    refused(r"train\.csv:2: no label in 'label'", write("train.csv", ["text,label", "t,", "t,b"]))
    refused(r"train\.csv:3: no label in 'score'", write("train.csv", ["text,score", "t,1", "t,"]), "regression")
    source = write("train.csv", ["text,x,y", "t,1,0", "t,2,0"])
    refused(r"train\.csv:3: in 'x', one of several label columns: '2' is neither 0 nor 1", source, "multi", label="x,y")
    refused(r"no column 'z'; columns: 'text', 'x', 'y'", source, "multi", label="x,z")


def test_the_second_text_of_a_pair_must_be_there_too(write):
    source = write("train.tsv", ["premise\thypothesis\tlabel", "p\th\ta", "p\t\tb"])
    refused(r"train\.tsv:3: the text in 'hypothesis' is empty", source)


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("single", ["a"] * 3, r"all 3 training examples have 'a' in 'label': there is nothing to learn"),
        ("regression", ["2"] * 3, r"all 3 training examples have 2\.0 in 'label'"),
        ("multi", ["a|b"] * 3, r"all 3 training examples have the classes a, b in 'label'"),
        ("multi", [""] * 3, r"all 3 training examples have the classes \(none\)"),
        ("multi", ["a", "b;c"], r"no example has several classes, but one has the class 'b;c': .* there must be '\|'"),
        ("single", ["1.5", "2", "2"], r"'label' has 2 values in 3 training examples, such as '1\.5': .*a regression"),
        ("single", [f"id{i}" for i in range(20)], r"'label' has 20 values in 20 .*hardly any .*'text', 'label'"),
    ],
)
def test_targets_from_which_nothing_can_be_learned(write, kind, labels, message):
    source = write("train.tsv", ["text\tlabel", *(f"t\t{label}" for label in labels)])
    refused(message, source, kind)
    write("test.tsv", ["text\tlabel", *(f"t\t{label}" for label in labels)])
    assert len(read(source, "test", kind).examples) == len(labels)  # to be scored, any targets will do


def test_classes_that_look_like_numbers(write):
    labels = ["1.0", "2.0", "1.0"]  # what pandas makes of whole numbers
    assert targets(write("train.tsv", ["text\tlabel", *(f"t\t{label}" for label in labels)])) == labels
    assert len(set(targets(write("train.tsv", ["text\tlabel", "t\t1.5", "t\tx", "t\tinf"])))) == 3


# --- splits ---


def test_splits_that_are_absent_empty_or_without_labels(write):
    write("train.csv", ["text,label", "t,a", "u,b"])
    write("dev.csv", ["text,label"])
    source = write("test.csv", ["text", "t"])
    with pytest.raises(UserError, match=r"dev\.csv: the split 'valid' is empty: it has no example"):
        read(source, "valid")
    with pytest.raises(UserError, match=r"has no split 'test'; it has: train, valid .*test is left out: no column 'la"):
        read(source, "test")
    assert read(source).note.endswith("; a 1, b 1; test is left out: no column 'label'")
    write("test.csv", ["text,label", *["t,"] * 1001, "t,a"])
    assert read(source).note.endswith("; test is left out: no labels in its first 1,000 examples")
    write("test.csv", ["label", "a"])
    with pytest.raises(UserError, match=r"test\.csv: no column 'text'; columns: 'label'"):
        read_examples(source, None, columns=NONE, kind="single")
    with pytest.raises(UserError, match=r"unknown split 'tset'.*Did you mean 'test'"):
        read_examples(source, ["tset"], columns=NONE, kind="single")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cvs:x", r"unknown data source 'cvs:x': .* Did you mean 'csv'\?"),
        ("conll:x", r"unknown data source 'conll:x': a source is quickstart, csv:DIR, jsonl:DIR, parquet:DIR, tsv:DIR"),
        (".", r"For files write csv:\. or jsonl:\. or parquet:\. or tsv:\."),
        ("csv:", r"csv: needs a folder, a glob or train=PATH"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(UserError, match=message):
        read_examples(source, None, columns=NONE, kind="single")


def test_a_share_of_the_training_examples_becomes_valid(write):
    rows = [f"text {i // 2}\t{i % 3}" for i in range(2000)]
    source = write("train.tsv", ["text\tlabel", *rows])
    assert tuple(read_examples(source, None, columns=NONE, kind="single", holdout=0.1)) == ("train", "valid")
    assert tuple(read_examples(source, None, columns=NONE, kind="single")) == ("train",)
    both = read_examples(source, ["train", "dev"], columns=NONE, kind="single", holdout=0.1)
    train, valid = both["train"].examples, both["valid"].examples
    assert len(train) + len(valid) == 2000
    assert not {e.text for e in train} & {e.text for e in valid}  # every text is there twice
    assert len(valid) == 200
    assert both["valid"].note.endswith(
        "; 10.0% of the examples of train, of every class, chosen by a hash of their text"
    )
    assert f"; without the {len(valid)} that are valid" in both["train"].note
    # By itself, and from a file in another order, it is the same; without a holdout, all of it.
    alone = read_examples(source, ["valid"], columns=NONE, kind="single", holdout=0.1)["valid"]
    assert alone == both["valid"]
    write("train.tsv", ["text\tlabel", *rows[::-1]])
    again = read_examples(source, ["valid"], columns=NONE, kind="single", holdout=0.1)["valid"]
    assert [(e.text, e.target) for e in again.examples] == [(e.text, e.target) for e in valid][::-1]
    assert len(read(source).examples) == 2000
    write("train.tsv", ["text\tlabel", "t\ta", "u\tb"])
    with pytest.raises(UserError, match=r"no split 'valid', and none of the 2 .* the only one of its class.*holdout=0"):
        read_examples(source, ["train"], columns=NONE, kind="single", holdout=0.1)


def test_nothing_is_held_out_where_there_is_a_validation_split(write):
    write("train.csv", ["text,label", "t,a", "u,b"])
    source = write("valid.csv", ["text,label", "v,a"])
    read_both = read_examples(source, ["train", "valid"], columns=NONE, kind="single", holdout=0.5)
    assert [len(split.examples) for split in read_both.values()] == [2, 1]


# --- hub ---


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder owner/name of parquet files under the working directory, which `datasets` opens as it does the hub's."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(columns, features=None, splits=("train", "test")):
        (tmp_path / "owner" / "name").mkdir(parents=True)
        for split in splits:
            data = datasets.Dataset.from_dict(columns, features=features and datasets.Features(features))
            data.to_parquet(f"owner/name/{split}.parquet")

    make.datasets = datasets
    return make


def test_hub_sets_name_their_classes_and_bad_records_are_counted(hub):
    d = hub.datasets
    features = {
        "premise": d.Value("string"),
        "hypothesis": d.Value("string"),
        "label": d.ClassLabel(names=["yes", "no"]),
    }
    hub({"premise": ["p", "q", "", "r"], "hypothesis": ["h", "i", "j", "k"], "label": [1, -1, 0, 0]}, features)
    assert tuple(read_examples("hf:owner/name", None, columns=NONE, kind="single")) == ("train", "test")
    found = read("hf:owner/name")
    assert [(e.text, e.pair, e.target) for e in found.examples] == [("p", "h", "no"), ("r", "k", "yes")]
    assert [e.origin for e in found.examples] == ["hf:owner/name/train[0]", "hf:owner/name/train[3]"]
    assert found.note.endswith("; no 1, yes 1; 1 without a text left out; 1 without a label left out")


def test_hub_lists_of_classes(hub):
    d = hub.datasets
    features = {"text": d.Value("string"), "labels": d.List(d.ClassLabel(names=["joy", "fear"]))}
    hub({"text": ["a", "b", "c"], "labels": [[1, 0], [], [0]]}, features)
    assert targets("hf:owner/name", kind="multi") == [("fear", "joy"), (), ("joy",)]
    with pytest.raises(UserError, match=r"hf:owner/name/train\[0\]: \[1, 0\] in 'labels' is not a class"):
        read("hf:owner/name", label="labels")


def test_hub_class_numbers_without_names(hub):
    hub({"text": ["a", "b"], "label": [3, -1]})
    assert targets("hf:owner/name") == ["3", "-1"]


# --- quickstart ---


def test_quickstart_has_no_columns_to_choose(monkeypatch):
    from jaxfm.data.records import docstring_packages

    records = {split: [(f"m{i}.py[0]", (f"text {split} {i}", "ab"[i])) for i in range(2)] for split in ALL}
    monkeypatch.setattr(docstring_packages, "_collected", lambda roots: records)
    assert tuple(read_examples("quickstart", None, columns=NONE, kind="single")) == ALL
    found = read("quickstart", "test")
    assert [(e.text, e.target) for e in found.examples] == [("text test 0", "a"), ("text test 1", "b")]
    assert "docstrings of installed packages, their names masked" in found.note
    refused(r"quickstart/train .*data\.text_column='x' is absent", "quickstart", text="x")
    assert module.TEXT_COLUMNS[0] == docstring_packages.COLUMNS[0]
