"""The files of SemEval-2010 task 8 as they were published."""

import pathlib

import pytest

from jaxfm.data.records.semeval import open_semeval
from jaxfm.errors import UserError

TEXT = (
    '1\t"The <e1>child</e1> was "carefully" wrapped into the <e2>cradle</e2>."\r\nOther\r\nComment: A child.\r\n\r\n'
    '2\t"A <e1>fire</e1> caused <e2>smoke</e2>."\r\nCause-Effect(e1,e2)\r\nComment:\r\n\r\n'
)


def write(folder: pathlib.Path, text: str) -> str:
    (folder / "TRAIN_FILE.TXT").write_bytes(text.encode())
    return str(folder)


def test_sentences_and_relations(tmp_path: pathlib.Path) -> None:
    tables = open_semeval(write(tmp_path, TEXT))
    assert list(tables.splits) == ["train"]
    table = tables.splits["train"]()
    rows = list(table.read(None))
    assert table.columns == ("id", "sentence", "relation") and len(rows) == 2
    assert rows[0].origin.endswith("TRAIN_FILE.TXT:1") and rows[1].origin.endswith(":5")
    assert rows[0].values["sentence"] == 'The <e1>child</e1> was "carefully" wrapped into the <e2>cradle</e2>.'
    assert [row.values["relation"] for row in rows] == ["Other", "Cause-Effect(e1,e2)"]
    assert list(table.values(["relation", "id"]))[1][1] == ("Cause-Effect(e1,e2)", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('1\t"A <e1>b</e1> <e2>c</e2>."\n2\t"A."\nOther\n', "TXT:1: the sentence has no relation in the line after it"),
        ('1\t"A <e1>b</e1> <e2>c</e2>."\n', "TXT:1: the sentence has no relation"),
        ("Other\n", "TXT:1: 'Other' is not a sentence"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(open_semeval(write(tmp_path, text)).splits["train"]().read(None))
    assert message in str(caught.value)
