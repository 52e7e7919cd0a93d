"""tensorflow-datasets offline: order, names, and what cannot be had."""

import importlib.util
import io
import shutil
import socket

import numpy as np
import pytest

from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.examples import read_sounds, stored_clip
from jaxfm.data.images.examples import read_images
from jaxfm.data.records.formats.tfds import original_order, read_rows
from jaxfm.data.records.sources import Columns, available_splits, read_tagged
from jaxfm.errors import UserError
from tests import tiny
from tests.data.images.image_files import image_bytes

ALL = ("train", "valid", "test")
CLIPS = (np.asarray([-(2**15), 0, 5]), np.asarray([2**15, 1]), np.asarray([0.5, -1.0], np.float32))


def words(split):
    return [" ".join(sentence.words) for sentence in split.sentences]


def tags(split):
    return [" ".join(sentence.tags) for sentence in split.sentences]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    return tiny.prepare_conll2003(tmp_path_factory.mktemp("tfds"))


def test_tfds_conll2003_in_the_order_of_its_files(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert available_splits("tfds:conll2003") == ALL
    read = read_tagged("tfds:conll2003", ALL)
    assert words(read["train"]) == [f"Ada{i} said Rome" for i in range(40)]
    assert set(tags(read["train"])) == {"B-PER O B-LOC"}
    assert {s.document for s in read["train"].sentences} == {0}
    assert read["train"].sentences[17].origin == "tfds:conll2003/train[17]"
    # The builder ends each split with an empty sentence, and calls the validation split dev.
    assert read["train"].note == (
        "train: 40 sentences, 80 entities from tfds:conll2003/train; tags BIO; document marks are lost in this source, "
        "so the split counts as one document in the order of its file; 1 without a word left out"
    )
    assert read["valid"].sentences[0].origin == "tfds:conll2003/dev[0]"


def test_tfds_really_stores_another_order(prepared):
    import tensorflow_datasets as tfds

    data = tfds.builder("conll2003", data_dir=prepared).as_data_source(split="train")  # pyright: ignore[reportCallIssue]
    stored = [record["tokens"][0].decode() if len(record["tokens"]) else "" for record in data]
    in_order = [f"Ada{i}" for i in range(40)] + [""]
    assert stored != in_order
    assert [stored[place] for place in original_order(len(data), "train")] == in_order


@pytest.mark.parametrize(
    ("source", "columns", "message"),
    [
        (
            "tfds:conll2007",
            Columns(),
            r"tensorflow-datasets has no such data set, nor is it in .* Did you mean 'conll200",
        ),
        ("tfds:conll2003:big", Columns(), r"no such configuration\. Valid choices: 'conll2003'"),
        ("tfds:../x", Columns(), r"tfds:\.\./x: write tfds:NAME"),
        ("tfds:conll2003", Columns(tags_column="nre"), r"data\.tags_column='nre' is absent\. Did you mean 'ner'\?"),
        ("tfds:conll2003", Columns(words_column="pos"), r"train\[0\]: .* in 'pos' is of type int, but must be text"),
    ],
)
def test_tfds_names_and_fields_that_are_not_there(prepared, monkeypatch, source, columns, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    with pytest.raises(UserError, match=message):
        read_tagged(source, ["train"], columns=columns)


def test_tfds_prepared_in_a_format_without_random_access(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    info = tmp_path / "conll2003" / "conll2003" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"without random access\. Prepare it again: .*file_format='array_record'"):
        read_tagged("tfds:conll2003", ["train"])


def test_tfds_without_network_says_the_ways_to_get_it(tmp_path, monkeypatch):
    def no_network(*args):
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(
        UserError, match=r"not prepared in .* \(no network: .*Ways to get it: .*TFDS_DATA_DIR.*conll:DIR"
    ):
        available_splits("tfds:conll2003")
    assert list(tmp_path.iterdir()) == []


def test_tfds_download_that_fails(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fails(self, url):
        raise ConnectionError("host is down")

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: [])
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fails)
    with pytest.raises(UserError, match=r"could not be downloaded \(ConnectionError: .*host is down"):
        available_splits("tfds:conll2003")


def test_tfds_images_are_the_bytes_of_their_files(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(8, 8, 3)), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
    )

    class ToyPictures(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(4), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for number in range(count):  # files, as tfds needs TensorFlow to make them of pixels
                yield number, {"image": io.BytesIO(image_bytes(number)), "label": number % 2}

    ToyPictures(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    read = read_images("tfds:toy_pictures", None, labels="single")
    assert [example.labels for example in read["train"].examples] == [("cat",), ("dog",)] * 2
    for number, example in enumerate(read["train"].examples):
        assert example.image.data == image_bytes(number)


def test_sound_is_samples_at_its_rate():
    """Of the records alone: tfds' own feature of sound imports TensorFlow."""

    class Records:
        def __getitems__(self, index):
            return [{"audio": CLIPS[number], "label": number} for number in index]

    rows = list(
        read_rows(Records(), "tfds:toy/train", ("audio", "label"), frozenset(), {"audio": 8000}, range(3), None)
    )
    assert [row.origin for row in rows] == ["tfds:toy/train[0]", "tfds:toy/train[1]", "tfds:toy/train[2]"]
    for row, values, kind in zip(rows, CLIPS, (np.int16, np.int32, np.float32), strict=True):
        clip = stored_clip(row.values["audio"], "audio", row.origin, None)
        assert clip.rate == 8000 and clip.array.dtype == kind and (clip.array == values).all()
    assert decode(stored_clip(rows[0].values["audio"], "audio", "x", None), 8000) == pytest.approx(CLIPS[0] / 2**15)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_set_of_sound_says_what_it_needs(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"tfds:speech_commands: the package tensorflow is needed for it: pip install"):
        read_sounds("tfds:speech_commands", None, labels="single")
