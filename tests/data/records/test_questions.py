"""Questions of a source: columns, splits, what is held out, and bad records."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.data.records.questions import QuestionColumns, read_questions
from jaxfm.errors import UserError


def write(folder: pathlib.Path, split: str, rows: list[dict[str, Any]]) -> str:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder}"


def row(number: int = 0, **changes: Any) -> dict[str, Any]:
    context = f"Ada lives at number {number}."
    found = {"question": "Who?", "context": context, "answers": [{"text": "Ada", "answer_start": 0}]}
    return {**found, **changes}


def test_a_split_of_files(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path, "train", [row(id="q1", title="T"), row(answers=[]), row(is_impossible=True)])
    read = read_questions(source, None)["train"]
    first, second, third = read.questions
    assert (first.id, first.title, first.answers[0].text) == ("q1", "T", "Ada")
    assert first.origin == f"{tmp_path}/train.jsonl:1 (id q1)"
    assert second.answers == third.answers == ()
    assert read.note == f"train: 3 questions over 1 contexts, 2 without an answer from {tmp_path}/train.jsonl"


def test_columns_of_other_names(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path, "train", [{"q": "Who?", "c": "Ada.", "a": "Ada", "answer_start": 0}])
    columns = QuestionColumns("q", "c", "a")
    assert read_questions(source, None, columns=columns)["train"].questions[0].answers[0].start == 0
    with pytest.raises(UserError, match="data.text_column='qq' is absent. Did you mean 'q'"):
        read_questions(source, None, columns=QuestionColumns("qq", "c", "a"))
    with pytest.raises(UserError, match=r"no column for the question \(looked for question, query, text; columns: 'q'"):
        read_questions(source, None)
    with pytest.raises(UserError, match="question, context and answers are three columns, but these are 'q', 'q' and"):
        read_questions(source, None, columns=QuestionColumns("q", "q", "a"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, ":1: 'question' is empty"),
        ({"context": 3}, ":1: 3 in 'context' is of type int, but must be text"),
        ({"answers": [{"text": "Eve", "answer_start": 0}]}, ":1: the answer 'Eve' in 'answers' is not at its offset 0"),
        ({"is_impossible": "no"}, ":1: 'is_impossible' is 'no', but must be true or false"),
        ({"id": "q7", "answers": 3}, ":1 (id q7): the answers in 'answers' are 3"),
    ],
)
def test_a_bad_record_is_named(tmp_path: pathlib.Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_questions(write(tmp_path, "train", [row(**change)]), None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("titles", "unit"), [(40, "whole articles"), (4, "whole contexts"), (0, "whole contexts")], ids=str
)
def test_what_is_held_out_stays_together(tmp_path: pathlib.Path, titles: int, unit: str) -> None:
    rows = [
        row(number // 4, question=f"Who is {number}?", **({"title": f"T{number % titles}"} if titles else {}))
        for number in range(160)
    ]
    source = write(tmp_path, "train", rows)
    read = read_questions(source, None, holdout=0.1)
    sides = [{each.title if titles == 40 else each.context for each in split.questions} for split in read.values()]
    assert list(read) == ["train", "valid"] and not sides[0] & sides[1]
    assert len(read["valid"].questions) == 16 and f"10.0% of train, {unit} chosen by a hash" in read["valid"].note
    again = read_questions(source, ["valid"], holdout=0.1)
    assert again["valid"].questions == read["valid"].questions


def test_the_questions_of_one_context_are_held_out_one_by_one(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path, "train", [row(question=f"Who is {number}?") for number in range(30)])
    read = read_questions(source, None, holdout=0.2)
    assert len(read["valid"].questions) == 6 and "questions of the one context" in read["valid"].note
    with pytest.raises(UserError, match="one question only. Give more, or config.data.holdout=0"):
        read_questions(write(tmp_path, "train", [row()]), None, holdout=0.2)


def test_splits(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path, "train", [row()])
    write(tmp_path, "test", [{name: value for name, value in row().items() if name != "answers"}])
    with pytest.raises(UserError, match="has no split 'test' with answers; it has: train"):
        read_questions(source, ["test"])
    assert list(read_questions(source, None)) == ["train"]


def test_quickstart_is_the_same_every_time_and_its_splits_share_nothing() -> None:
    read = read_questions("quickstart", None)
    assert {split: len(found.questions) for split, found in read.items()} == {"train": 1800, "valid": 300, "test": 600}
    about = [{each.title for each in found.questions} for found in read.values()]
    assert not (about[0] & about[1] or about[0] & about[2] or about[1] & about[2])
    assert read_questions("quickstart", ["test"])["test"].questions == read["test"].questions
    for found in read.values():
        share = sum(not each.answers for each in found.questions) / len(found.questions)
        assert 0.2 < share < 0.3
        assert len({(each.question, each.context) for each in found.questions}) == len(found.questions)


def test_real_questions(shared_data: pathlib.Path) -> None:
    read = read_questions(f"jsonl:{shared_data / 'squad-v1.1-dev'}", None)
    assert {split: len(found.questions) for split, found in read.items()} == {"train": 8026, "valid": 2544}
    assert len({each.title for each in read["train"].questions}) == 36
