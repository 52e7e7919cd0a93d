"""The package `datasets` offline: class names, columns, and what cannot be had."""

import pytest

from jaxfm.data.images.examples import read_images
from jaxfm.data.records.in_memory import provided
from jaxfm.data.records.sources import available_splits, read_tagged
from jaxfm.errors import UserError
from tests.data.images.image_files import image_bytes


def words(split):
    return [" ".join(sentence.words) for sentence in split.sentences]


def tags(split):
    return [" ".join(sentence.tags) for sentence in split.sentences]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder owner/name of parquet files under the working directory, which `datasets` opens as it does the hub's."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(columns, features=None, splits=("train", "validation")):
        (tmp_path / "owner" / "name").mkdir(parents=True)
        for split in splits:
            data = datasets.Dataset.from_dict(columns, features=features and datasets.Features(features))
            data.to_parquet(f"owner/name/{split}.parquet")

    make.datasets = datasets
    return make


def test_hf_files_with_class_names(hub):
    d = hub.datasets
    features = {
        "id": d.Value("int32"),
        "tokens": d.List(d.Value("string")),
        "ner_tags": d.List(d.ClassLabel(names=["O", "B-PER", "I-PER"])),
    }
    hub({"id": [4, 5, 6], "tokens": [["Ada", "L"], ["slept"], []], "ner_tags": [[1, 2], [0], []]}, features)
    assert available_splits("hf:owner/name") == ("train", "valid")
    read = read_tagged("hf:owner/name", ["valid"])["valid"]
    assert words(read) == ["Ada L", "slept"]
    assert tags(read) == ["B-PER I-PER", "O"]
    assert read.sentences[1].origin == "hf:owner/name/validation[1]"
    assert read.note.endswith("; no document marks, so each sentence is its own document; 1 without a word left out")
    with pytest.raises(
        UserError, match=r"has no split 'test'; it has: train, valid \(its own splits: train, validation\)"
    ):
        read_tagged("hf:owner/name", ["test"])


def test_hf_set_that_is_a_script_is_read_from_the_hubs_own_conversion(hub, monkeypatch):
    hub({"tokens": [["Ada"]], "ner_tags": [["B-PER"]]})
    load, asked = hub.datasets.load_dataset, []

    def scripted(name, config, revision=None):
        asked.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found name.py")
        return load(name, config)

    monkeypatch.setattr(hub.datasets, "load_dataset", scripted)
    assert tags(read_tagged("hf:owner/name", ["train"])["train"]) == ["B-PER"]
    assert asked == [None, "refs/convert/parquet"]


def test_hf_tags_as_text_and_documents(hub):
    hub({"words": [["a"], ["b"], ["c"]], "labels": [["O"], ["I-X"], ["O"]], "document": ["p", "p", "q"]})
    read = read_tagged("hf:owner/name", ["train"])["train"]
    assert tags(read) == ["O", "B-X", "O"]
    assert [s.document for s in read.sentences] == [0, 0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tokens": [["a"]], "ner_tags": [[1]]}, r"hf:owner/name/train\[0\]: tag 1 is a number without a name"),
        ({"tokens": [["a"]], "pos": [[1]]}, r"no column for the tags \(looked for .*columns: 'tokens', 'pos'\)"),
        ({"tokens": ["a b"], "ner_tags": [["O"]]}, r"train\[0\]: 'tokens' is of type str, but must be a list"),
        ({"tokens": [[1]], "ner_tags": [["O"]]}, r"train\[0\]: 1 in 'tokens' is of type int, but must be text"),
        ({"tokens": [["a"], None], "ner_tags": [["O"], None]}, r"train\[1\]: 'tokens' is of type NoneType"),
    ],
)
def test_hf_columns_that_do_not_fit(hub, columns, message):
    hub(columns)
    with pytest.raises(UserError, match=message):
        read_tagged("hf:owner/name", ["train"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:owner/absent", r"hf:owner/absent: .*If there is no network: .*conll:DIR, brat:DIR, csv:DIR, jsonl:DIR"),
        ("hf:../x", r"hf:\.\./x: write hf:OWNER/NAME"),
        ("hf:", r"write hf:OWNER/NAME"),
    ],
)
def test_hf_names_that_cannot_be_had(hub, source, message):
    with pytest.raises(UserError, match=message):
        available_splits(source)


def test_an_old_datasets_package_that_could_run_code_is_refused(hub, monkeypatch):
    monkeypatch.setattr(hub.datasets, "__version__", "3.6.0")
    with pytest.raises(UserError, match=r"datasets 3\.6\.0 may run code from the hub: pip install 'datasets>=4'"):
        available_splits("hf:owner/name")


def test_hf_images_are_the_bytes_of_their_files(hub):
    d = hub.datasets
    files = [image_bytes(number) for number in range(3)]
    columns = {"img": [{"bytes": data, "path": None} for data in files], "label": [0, 1, -1]}
    hub(columns, {"img": d.Image(), "label": d.ClassLabel(names=["cat", "dog"])})
    read = read_images("hf:owner/name", None, labels="single")
    assert [example.labels for example in read["valid"].examples] == [("cat",), ("dog",)]
    assert [example.image.data for example in read["valid"].examples] == files[:2]
    assert "; 1 without a label left out" in read["valid"].note
    with provided(d.Dataset.from_dict(columns, d.Features({"img": d.Image(), "label": d.Value("int32")}))) as source:
        assert [example.image.data for example in read_images(source, None)["train"].examples] == files
