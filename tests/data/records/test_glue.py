"""GLUE's table against the builders of tensorflow-datasets, and sets prepared offline from files like GLUE's own."""

import csv

import pytest

from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.glue import GLUE, glue_set
from jaxfm.errors import UserError

NONE = ExampleColumns()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("tfds:glue/sst2", "sst2"),
        ("tfds:glue:cola", "cola"),
        ("hf:nyu-mll/glue:mnli", "mnli"),
        ("hf:glue:stsb", "stsb"),
        ("tfds:glue/ax", None),  # no training examples
        ("tfds:glue", None),
        ("tfds:imdb_reviews", None),
        ("tsv:glue/sst2", None),
    ],
)
def test_sources_of_glue(source, name):
    assert glue_set(source) is (GLUE[name] if name else None)


@pytest.fixture(scope="module")
def builders():
    return pytest.importorskip("tensorflow_datasets.text.glue").Glue.builder_configs


def test_the_sets_are_those_of_tfds(builders):
    # ax has a test split alone, the other two are MNLI's validation splits by themselves.
    assert set(GLUE) == set(builders) - {"ax", "mnli_matched", "mnli_mismatched"}


@pytest.mark.parametrize("name", GLUE)
def test_fields_kinds_and_classes_are_those_of_tfds(builders, name):
    ours, theirs = GLUE[name], builders[name]
    assert {ours.text, ours.pair} - {""} == set(theirs.text_features)
    assert (ours.kind == "regression") == (theirs.label_classes is None)
    assert bool(ours.positive) == ("f1" in ours.metrics)
    if ours.positive:
        assert theirs.label_classes[1] == ours.positive  # F1 is that of label 1


# --- prepared offline ---

HEADERS = {
    "sst2": ("SST-2", ["sentence", "label"], [("good", "1"), ("bad", "0"), ("fine", "1")]),
    "rte": (
        "RTE",
        ["index", "sentence1", "sentence2", "label"],
        [("0", "p", "h", "entailment"), ("1", "q", "i", "not_entailment")],
    ),
    "stsb": (
        "STS-B",
        ["index", "sentence1", "sentence2", "score"],
        [("0", "p", "h", "2.50"), ("1", "q", "i", "5.000"), ("2", "r", "j", "0")],
    ),
    "mnli": (
        "MNLI",
        ["index", "sentence1", "sentence2", "gold_label"],
        [("0", "p", "h", "neutral"), ("1", "q", "i", "contradiction"), ("2", "r", "", "entailment")],
    ),
}


@pytest.fixture(scope="module", params=HEADERS)
def prepared(request, tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")
    import tensorflow_datasets.text.glue  # noqa: F401  registers the builder

    name = request.param
    folder, header, rows = HEADERS[name]
    root = tmp_path_factory.mktemp("glue")
    (root / "raw" / folder).mkdir(parents=True)
    suffixes = ("_matched", "_mismatched") if name == "mnli" else ("",)
    files = {"train": rows * 5}
    files |= {f"dev{suffix}": rows * (2 + i) for i, suffix in enumerate(suffixes)}
    files |= {f"test{suffix}": [row[:-1] for row in rows] for suffix in suffixes}
    for stem, content in files.items():
        with open(root / "raw" / folder / f"{stem}.tsv", "w") as file:
            writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, lineterminator="\n")
            writer.writerows([header[: len(content[0])], *content])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda self, url: root / "raw")
        tfds.builder(f"glue/{name}", data_dir=root).download_and_prepare(file_format="array_record")
    return name, root, rows


def test_a_set_needs_nothing_but_its_name(prepared, monkeypatch):
    name, root, rows = prepared
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    source, glue = f"tfds:glue/{name}", GLUE[name]
    read = read_examples(source, None, columns=NONE, kind=glue.kind)
    assert tuple(read) == (("train", "valid", "test") if name == "mnli" else ("train", "valid"))
    whole = [row for row in rows if all(row[-3:])]  # without MNLI's pair that lacks a hypothesis
    labels = {"0": "negative", "1": "positive"} if name == "sst2" else {}
    expected = [float(row[-1]) if name == "stsb" else labels.get(row[-1], row[-1]) for row in whole]
    texts = [(row[0], None) if name == "sst2" else (row[1], row[2]) for row in whole]
    for split, times in zip(read, (5, 2, 3), strict=False):
        found = [((e.text, e.pair), e.target) for e in read[split].examples]
        assert sorted(found) == sorted(list(zip(texts, expected, strict=True)) * times), split
    first = read["valid"].examples[0].origin
    assert first.startswith(f"{source}/{glue.splits['valid']}[")
    note = read["train"].note
    if name == "mnli":
        assert "; 5 without a text left out" in note
        assert read["test"].examples[0].origin.startswith("tfds:glue/mnli/validation_mismatched[")
    else:
        assert note.endswith("; test is left out: no labels")
        with pytest.raises(UserError, match=r"has no split 'test'; it has: train, valid .*test is left out: no lab"):
            read_examples(source, ["test"], columns=NONE, kind=glue.kind)


@pytest.mark.parametrize("prepared", ["rte"], indirect=True)
def test_columns_of_the_config_come_first(prepared, monkeypatch):
    _, root, _ = prepared
    monkeypatch.setenv("TFDS_DATA_DIR", str(root))
    read = read_examples("tfds:glue:rte", ["valid"], columns=ExampleColumns(text="sentence2"), kind="single")
    assert {(e.text, e.pair) for e in read["valid"].examples} == {("h", None), ("i", None)}
