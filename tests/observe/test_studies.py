"""What programs found out about a run: written for people and programs, read back for its checkpoint alone."""

import json
import pathlib

import pytest

from jaxfm.errors import UserError
from jaxfm.observe.studies import FOLDER, Study, read_summaries, write_study
from jaxfm.observe.tables import Table


def test_a_study_is_read_back_for_its_step(tmp_path: pathlib.Path) -> None:
    table = Table("Numbers", ("a", "b"), [(1, 0.5)])
    write_study(tmp_path / FOLDER, Study("one", "First", ("It is so.", "And so."), [table], {"n": {"a": 1}}, 7))
    write_study(tmp_path / FOLDER, Study("two", "Second", ("No.",), [], {}, 8))
    text = (tmp_path / FOLDER / "one.md").read_text()
    assert text.startswith("# First\n\n- It is so.\n- And so.\n\n## Numbers\n\n| ") and text.endswith("|\n")
    assert json.loads((tmp_path / FOLDER / "one.json").read_text())["n"] == {"a": 1}
    assert read_summaries(tmp_path, 7) == {"First": ("It is so.", "And so.")}
    assert read_summaries(tmp_path, 9) == {} == read_summaries(tmp_path / "absent", 7)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"title": "a", "summary": ["b"]}, "has no 'step'"),
        ({"title": "a", "summary": [1], "step": 1}, "summary must be a list of texts"),
        ({"title": "a", "summary": [], "step": 1, "version": 99}, "has version 99"),
    ],
)
def test_other_files(tmp_path: pathlib.Path, values: dict[str, object], message: str) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "x.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read_summaries(tmp_path, 1)
