"""Data without suspicious labels, or with the suggested ones, as files that jaxfm reads again."""

import io
import json
import pathlib

import numpy as np
import PIL.Image
import pytest

from jaxfm.core.labels import LabelledRecord
from jaxfm.data.images.examples import read_images
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.evaluation.label_errors import LabelError
from jaxfm.programs.audit_clean import KEEP, RELABEL, REMOVE, cleaned, relabelled, repeating, write_data
from jaxfm.programs.audit_copies import audit_copies


def record(label: object, number: int = 0) -> LabelledRecord:
    return LabelledRecord({"text": f"text {number}", "label": label}, f"f:{number}", np.zeros(1, np.int64))


def error(number: int, *classes: str) -> LabelError:
    return LabelError("train", number, "f:1", "other class", "a", "b", 0.1, classes)


def test_records_are_left_out_or_get_the_suggested_label() -> None:
    records = [record("a", number) for number in range(4)]
    kept, left_out = cleaned(records, [error(1, "b")], REMOVE, {3})
    assert [each.row["text"] for each in kept] == ["text 0", "text 2"] and left_out == [1, 3]
    kept, left_out = cleaned(records, [error(1, "b")], RELABEL, ())
    assert [each.row["label"] for each in kept] == ["a", "b", "a", "a"] and left_out == []
    kept, left_out = cleaned(records, [error(1, "b")], KEEP, {0})
    assert [each.row["label"] for each in kept] == ["a"] * 3 and left_out == [0]
    with pytest.raises(UserError, match="no record of train would be left"):
        cleaned(records, [error(number, "b") for number in range(4)], REMOVE, ())
    assert relabelled(record(["a"]), [error(0, "b", "c")]).row["label"] == ["b", "c"]
    tagged = LabelledRecord({"tokens": ["a", "b"], "ner_tags": ["B-X", "O"]}, "f", np.zeros(2, np.int64))
    wrong = LabelError("train", 0, "f", "other type", "", "", 0.1, (), ((0, 1, "X"),), ((0, 2, "Y"),))
    assert relabelled(tagged, [wrong]).row["ner_tags"] == ["B-Y", "I-Y"] and tagged.row["ner_tags"] == ["B-X", "O"]


def test_repeating_records_of_train() -> None:
    records = {
        "train": [record("a", 0), record("a", 1), record("a", 0), record("a", 2)],
        "test": [record("a", 2), record("b", 5), record("b", 5)],
    }
    assert repeating(audit_copies(records, words=False).repeated) == {2, 3}


def test_images_are_written_with_their_files(tmp_path: pathlib.Path) -> None:
    draw = np.random.default_rng(0)
    pixels = [draw.integers(0, 255, (8, 8, 3), np.uint8) for _ in range(4)]
    file = io.BytesIO()
    PIL.Image.fromarray(pixels[0]).save(file, "PNG")
    images = [StoredImage("a/x.png", data=file.getvalue())]
    images += [StoredImage(f"train row {n}", array=each) for n, each in enumerate(pixels[1:])]
    records = [
        LabelledRecord({"image": image, "label": "no" if number % 2 else "yes/maybe"}, "f", np.zeros(1, np.int64))
        for number, image in enumerate(images)
    ]
    write_data(tmp_path / "out", {"train": records, "test": records[:2]})
    read = read_images(f"jsonl:{tmp_path / 'out'}", None, labels="single", holdout=0.0)
    assert [each.labels for each in read["train"].examples] == [("yes/maybe",), ("no",)] * 2
    for each, own in zip(read["train"].examples, pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(each.image.content()))), own)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "test.jsonl", "train", "train.jsonl"]


def test_texts_are_written_whole(tmp_path: pathlib.Path) -> None:
    write_data(tmp_path / "out", {"train": [record("ä"), record([])]})
    lines = (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["ä", []]
