"""Labels as texts: which types are one label, what a person may ask for, and rows of labels."""

import json
import pathlib

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.tasks.asked_labels import Label
from jaxfm.tasks.zero_shot_ner.labels import label_rows, label_table, label_text, read_label_texts
from tests import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("weights") / "weights"
    tiny.write_weights(folder)
    return load_tokenizer(folder)


def test_the_text_of_a_type() -> None:
    assert label_text("creative-work", {}) == "creative work"
    assert label_text("Work_Of_Art", {}) == "work of art"
    assert label_text("PER", {}) == "person" and label_text("PER", {"PER": "a name"}) == "a name"


def test_types_of_one_text_are_one_label_and_sources_annotate_their_own() -> None:
    table = label_table([("a", {"PER", "LOC"}), ("b", {"person", "product"})], {})
    assert table.labels == (Label("LOC", "location"), Label("PER", "person"), Label("product", "product"))
    assert table.classes == {"LOC": 0, "PER": 1, "person": 1, "product": 2}
    assert table.annotated_SC.tolist() == [[True, True, False], [False, True, True]]


def test_sources_that_give_no_labels_are_refused() -> None:
    with pytest.raises(UserError, match="conll:x: has no entity at all"):
        label_table([("conll:y", {"PER"}), ("conll:x", set())], {})
    with pytest.raises(UserError, match="conll:x: its types 'PER' and 'person' would be one label, 'person'"):
        label_table([("conll:x", {"PER", "person"})], {})


def test_a_file_of_texts(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"PER": " a   person "}))
    assert read_label_texts(str(path)) == {"PER": "a person"} and read_label_texts("") == {}
    for content, message in (('{"PER": ""}', "PER: is '', but must be a text"), ('{"PER": 3}', "PER: is 3")):
        path.write_text(content)
        with pytest.raises(UserError, match=f"labels.json: {message}"):
            read_label_texts(str(path))
    with pytest.raises(UserError, match=r"config.task.label_texts: there is no file .*nowhere"):
        read_label_texts(str(tmp_path / "nowhere"))


def test_rows_have_one_label_each_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    labels = [Label("a", "old"), Label("b", "the old town near the town"), Label("c", "met")]
    rows = label_rows(tokenizer, labels, 32)
    assert len(rows) == 3 and rows.row_length == 8  # six words and both special tokens
    for row, label in zip(range(3), labels, strict=True):
        own = rows.tokens[row][rows.segment_ids[row] == 1]
        assert own.tolist() == tokenizer(label.text)["input_ids"]
        np.testing.assert_array_equal(rows.positions[row, : len(own)], np.arange(len(own)))
        assert (rows.segment_ids[row, len(own) :] == 0).all()
    with pytest.raises(UserError, match="--labels: the text of the label 'b' has 8 tokens, but at most 7 are read"):
        label_rows(tokenizer, labels, 7, "--labels")
