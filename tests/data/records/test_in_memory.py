"""Data in memory: every way of holding the same rows gives the same table, name and messages."""

import collections
import dataclasses
import re
import threading
from typing import Any

import numpy as np
import pytest

from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.in_memory import fingerprint, is_provided, provided, tables_of
from jaxfm.data.records.registry import source_forms
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError

ROWS = [
    {"text": "a day", "label": "good"},
    {"text": "a night", "label": "bad"},
    {"text": "a walk", "label": "good"},
    {"text": "a storm", "label": "bad"},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ("text", "label")}


@dataclasses.dataclass
class Labelled:
    text: str
    label: str


Pair = collections.namedtuple("Pair", ("text", "label"))


def read(data: Any, kind: str = "single", splits: Any = ("train",), holdout: float = 0.0):
    with provided(data) as source:
        return read_examples(source, splits, columns=ExampleColumns(), kind=kind, holdout=holdout)


def pandas_frame() -> Any:
    return pytest.importorskip("pandas").DataFrame(ROWS)


def hub_dataset() -> Any:
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def arrow_table() -> Any:
    return pytest.importorskip("pyarrow").Table.from_pylist(ROWS)


HELD = {
    "dicts": lambda: ROWS,
    "a generator": lambda: (row for row in ROWS),
    "named tuples": lambda: [Pair(**row) for row in ROWS],
    "dataclasses": lambda: [Labelled(**row) for row in ROWS],
    "columns": lambda: COLUMNS,
    "NumPy columns": lambda: {name: np.array(values) for name, values in COLUMNS.items()},
    "pandas": pandas_frame,
    "datasets": hub_dataset,
    "pyarrow": arrow_table,
}


@pytest.mark.parametrize("held", HELD)
def test_the_same_rows_are_the_same_data_however_they_are_held(held: str) -> None:
    assert fingerprint(tables_of(HELD[held]())) == fingerprint(tables_of(ROWS))
    examples = read(HELD[held]())["train"].examples
    assert [(each.text, each.target, each.origin) for each in examples] == [
        (row["text"], row["label"], f"train row {number}") for number, row in enumerate(ROWS)
    ]


def test_a_share_is_held_out_where_there_is_one_split() -> None:
    found = read(ROWS, splits=None, holdout=0.25)
    assert {split: len(each.examples) for split, each in found.items()} == {"train": 3, "valid": 1}
    assert found["valid"].examples[0].origin.startswith("train row ")


def test_other_rows_another_order_and_another_split_are_other_data() -> None:
    names = {
        fingerprint(tables_of(data))
        for data in (ROWS, ROWS[::-1], ROWS[:-1], {"valid": ROWS}, [{**row, "id": 1} for row in ROWS])
    }
    assert len(names) == 5
    assert fingerprint(tables_of({"dev": ROWS})) == fingerprint(tables_of(ROWS, alone="valid"))


def test_splits_have_their_usual_names_and_may_be_held_in_different_ways() -> None:
    pandas = pytest.importorskip("pandas")
    found = read({"train": ROWS, "validation": COLUMNS, "test": pandas.DataFrame(ROWS)}, splits=None)
    assert {split: len(each.examples) for split, each in found.items()} == {"train": 4, "valid": 4, "test": 4}
    assert found["train"].note.startswith("train: 4 examples from data['train'] (text -> label)")
    assert found["test"].examples[1].origin == "test row 1"


def test_a_dataset_dict_has_names_of_classes_and_splits_that_are_left_out() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"text": ["a day", "a night"], "label": [1, 0]}
    whole = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(rows, features=features) for name in ("train", "test", "unsupervised")}
    )
    found = read(whole, splits=("train", "test"))
    assert [each.target for each in found["train"].examples] == ["good", "bad"] and set(found) == {"train", "test"}
    with pytest.raises(UserError, match=r"none of its splits is train, valid or test, but 'unsupervised'"):
        read(datasets.DatasetDict({"unsupervised": whole["train"]}))


def test_tagged_words_texts_with_entities_and_spacys_pairs() -> None:
    words = [{"tokens": ("Ada", "slept"), "tags": np.array(["B-PER", "O"])}]
    texts = [{"text": "Ada slept", "entities": [(0, 3, "PER")]}]
    pairs = [("Ada slept", {"entities": [(0, 3, "PER")]})]
    for rows in (words, texts, pairs):
        with provided(rows) as source:
            (sentence,) = read_tagged(source, ["train"])["train"].sentences
        assert (sentence.words, sentence.tags, sentence.origin) == (("Ada", "slept"), ("B-PER", "O"), "train row 0")


def test_texts_alone_are_documents_to_pretrain_on() -> None:
    with provided(["one text", "another"]) as source:
        assert [document.text for document in open_corpus(source).splits["train"]()] == ["one text", "another"]


def test_several_labels_may_be_a_set_and_scores_numpy_numbers() -> None:
    several = [{"text": "a", "labels": {"x", "y"}}, {"text": "b", "labels": set()}, {"text": "c", "labels": {"y"}}]
    assert [each.target for each in read(several, "multi")["train"].examples] == [("x", "y"), (), ("y",)]
    scores = {"text": ["a", "b"], "score": np.array([0.5, 2.0], np.float32)}
    assert [each.target for each in read(scores, "regression")["train"].examples] == [0.5, 2.0]


def test_a_missing_value_of_pandas_is_a_missing_value() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": ["x", None, "y"]})
    with pytest.raises(UserError, match=r"^train row 1: no label in 'label'"):
        read(frame)
    with pytest.raises(UserError, match=r"^train row 0: the text in 'text' is empty"):
        read(frame.assign(text=[float("nan"), "b", "c"], label=["x", "y", "x"]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a text", r"^data: is of type str, but must be a list of dicts, a dict of columns"),
        (7, r"^data: is of type int, but must be"),
        ([], r"^data: is empty: it has no record"),
        ({"train": []}, r"^data\['train'\]: is empty"),
        ({"text": []}, r"^data: is empty"),
        ([("a", "x")], r"^train row 0: is of type tuple, but each row must be a dict"),
        ({"train": ROWS, "text": ["a"]}, r"^data: has 'train', which name splits, and 'text', which name none"),
        ({"train": ROWS, "dev": ROWS, "valid": ROWS}, r"^data: both 'dev' and 'valid' could be the split 'valid'"),
        ({"text": ["a", "b"], "label": ["x"]}, r"of one length, but 'text' has 2, 'label' has 1 values"),
        ({"text": "a", "label": "x"}, r"'text' is of type str, but a column must be a list"),
        ([{"words": "a", "class": "x"}], r"^data: no column for the text .*columns: 'words', 'class'\): set data.text"),
        ([{"text": 3, "label": "x"}, {"text": "b", "label": "y"}], r"^train row 0: 3 in 'text' is of type int"),
        ([*ROWS, {"text": "b", "label": {"x": object()}}], r"^train row 4: "),
    ],
)
def test_what_cannot_be_read_is_said_by_split_and_row(data: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(data)


def test_data_are_known_while_their_context_lasts_and_to_every_thread() -> None:
    found = []
    with provided(ROWS) as source, provided(COLUMNS) as same:
        assert source == same and is_provided(source) and re.fullmatch(r"memory:[0-9a-f]{16}", source)
        thread = threading.Thread(target=lambda: found.append(len(read_tagged_texts(source))))
        thread.start()
        thread.join()
    assert found == [4]
    with provided(ROWS):
        with provided(ROWS):
            pass
        assert len(read_tagged_texts(source)) == 4  # whoever was first still has them
    with pytest.raises(UserError, match=rf"^{source}: these data were given in memory, by a Python"):
        read_tagged_texts(source)
    assert not any("memory" in form for form in source_forms())  # nobody writes one


def read_tagged_texts(source: str) -> list[str]:
    return [document.text for document in open_corpus(source).splits["train"]()]
