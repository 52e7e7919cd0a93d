"""The records of an audit: those of the source alone, as rows that are read again."""

import pathlib

import numpy as np

from jaxfm.core.labels import LabelledRecord
from jaxfm.data.images.stored import StoredImage
from jaxfm.programs.audit_records import read_records, readable
from tests import tiny


def test_copies_for_training_are_no_records(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, task__perturb__kinds="case=3")
    records, _ = read_records(config)
    assert len(records["train"]) == tiny.SIZES["train"]


def test_rows_of_records() -> None:
    pixels = np.zeros((2, 2), np.uint8)
    records = [
        LabelledRecord({"image": StoredImage("x", array=pixels), "label": "a"}, "x", np.zeros(1, np.int64)),
        LabelledRecord({"image": StoredImage("y", data=b"file"), "label": "a"}, "y", np.zeros(1, np.int64)),
    ]
    assert [row["image"] for row in readable("train", records)] == [pixels, b"file"]
    tagged = LabelledRecord({"tokens": ["a"], "ner_tags": ["O"], "document": 3}, "x", np.zeros(1, np.int64))
    assert readable("valid", [tagged])[0]["document"] == "valid 3" and tagged.row["document"] == 3
