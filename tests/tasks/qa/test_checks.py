"""What `jaxfm.check` says of questions."""

import json
import pathlib

from jaxfm.core.data_check import DataCheck
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny


def checked(folder: pathlib.Path, **overrides: object) -> DataCheck:
    config = tiny.qa_config(folder, **overrides)
    return registry.definition("qa").check(config, resolve(config.model))


def test_good_questions(tmp_path: pathlib.Path) -> None:
    found = checked(tmp_path)
    assert found.count("error") == 0
    levels = {finding.check: finding.level for finding in found.findings}
    assert levels["shared contexts"] == levels["long answers"] == levels["answers inside tokens"] == "ok"
    assert found.tables[0].rows[0][:2] == ("train", 60)


def test_bad_questions(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    shared = {"context": "the old town near hull .", "question": "met"}
    train = [
        {**shared, "answers": [{"text": "the old town near hull .", "answer_start": 0}]},
        {**shared, "question": "saw", "answers": [{"text": "wn ne", "answer_start": 10}]},
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in train * 2))
    (folder / "valid.jsonl").write_text(json.dumps({**shared, "question": "and", "answers": []}) + "\n")
    found = checked(tmp_path, task__max_answer=3)
    by_name = {finding.check: finding for finding in found.findings}
    assert by_name["duplicates"].level == "warning"
    assert by_name["shared contexts"].message == "questions whose context is in train too: 1"
    assert by_name["long answers"].level == "warning" and "2 of 4" in by_name["long answers"].message
    assert by_name["answers inside tokens"].level == "warning"
    assert by_name["no answer"].level == "warning" and "valid 100%" in by_name["no answer"].message
