"""Copies inside splits and across, texts with two labels, and what the tables say of them."""

import numpy as np

from jaxfm.core.labels import LabelledRecord
from jaxfm.data.images.stored import StoredImage
from jaxfm.programs.audit_copies import (
    CONFLICT,
    EXACT,
    LEAK,
    NEAR,
    audit_copies,
    copies_table,
    label_of,
    repeated_table,
    text_of,
)

LONG = "the old town lies near the river and has a market on every first day of the month"


def text(words: str, label: str, origin: str, pair: str | None = None) -> LabelledRecord:
    row = {"text": words, "label": label} | ({} if pair is None else {"pair": pair})
    return LabelledRecord(row, origin, np.zeros(1, np.int64))


RECORDS = {
    "train": [
        text(LONG, "a", "t:1"),
        text("something else", "a", "t:2"),
        text(LONG.upper(), "b", "t:3"),
        text(f"{LONG} now", "a", "t:4"),
        text("something  else", "a", "t:5"),
    ],
    "valid": [text("another text", "a", "v:1")],
    "test": [text(f"and {LONG}", "a", "e:1"), text("Something else", "b", "e:2"), text("Something else", "b", "e:3")],
}


def test_what_repeats_what() -> None:
    found = audit_copies(RECORDS, words=False)
    kinds = [(each.kind, each.near, each.origin, each.of_origin) for each in found.repeated]
    assert kinds == [
        (EXACT, False, "t:3", "t:1"),
        (CONFLICT, False, "t:3", "t:1"),
        (NEAR, True, "t:4", "t:1"),
        (EXACT, False, "t:5", "t:2"),
        (LEAK, True, "e:1", "t:1"),
        (LEAK, False, "e:2", "t:2"),
        (CONFLICT, False, "e:2", "t:2"),
        (EXACT, False, "e:3", "e:2"),
        (LEAK, False, "e:3", "t:2"),
    ]
    assert found.groups.tolist() == [0, 1, 0, 0, 1]
    assert found.overlaps["test"] == 1.0 and found.overlaps["valid"] == 0.0  # of those with four words or more
    assert found.count(LEAK, "test") == 3 and found.count(LEAK, "test", near=True) == 1
    rows = {row[0]: row[1:] for row in copies_table(found, RECORDS).rows}
    assert rows["train"] == (5, 2, 1, 1, None, None, None) and rows["test"] == (3, 1, 0, 1, 2, 1, 1.0)
    table = repeated_table(CONFLICT, found, RECORDS, 1, 20)
    assert table.title == "One text with two labels, train 1, test 1" and len(table.rows) == 1
    assert table.rows[0][:5] == ("t:3", "t:1", "same", "b", "a") and len(str(table.rows[0][5])) == 20


def test_other_kinds_of_records() -> None:
    pair = text("who", "yes", "p:1", pair="him")
    assert text_of(pair) == "who | him" and label_of(pair) == "yes"
    several = LabelledRecord({"text": "x", "label": ["a", "b"]}, "m:1", np.ones((1, 2), bool))
    assert label_of(several) == "a, b"
    tagged = [
        LabelledRecord({"tokens": list(words), "ner_tags": tags}, f"w:{n}", np.zeros(len(words), np.int64))
        for n, (words, tags) in enumerate([("ab", ["O", "O"]), ("ab", ["O", "O"]), ("abcd", ["O"] * 4)] * 2)
    ]
    assert [each.origin for each in audit_copies({"train": tagged}, words=True).repeated] == ["w:5"]
    images = [
        LabelledRecord({"image": StoredImage(f"{n}.png", data=data), "label": "a"}, f"i:{n}", np.zeros(1, np.int64))
        for n, data in enumerate((b"one", b"two", b"one"))
    ]
    found = audit_copies({"train": images, "test": images[:1]}, words=False)
    assert [(each.kind, each.origin) for each in found.repeated] == [(EXACT, "i:2"), (LEAK, "i:0")]
    assert not found.overlaps
