"""What profiles/ner_recipe.py sums up of records that are kept."""

import json
import pathlib

import pytest

from jaxfm.errors import UserError
from profiles import ner_recipe
from profiles.ner_recipe import Record
from tests import tiny


def test_recipes_are_joined() -> None:
    assert ner_recipe.changes_of("default") == {}
    assert ner_recipe.changes_of("crf+r_drop") == {"task.head": "crf", "task.loss.r_drop": 1.0}
    with pytest.raises(UserError, match="--recipes: 'crv' is none of them. Did you mean 'crf'"):
        ner_recipe.changes_of("r_drop+crv")


def test_a_difference_of_one_sentence_is_none_and_one_of_all_is() -> None:
    good, bad = [[1, 1, 1]] * 40, [[0, 1, 1]] * 40
    almost = [[0, 1, 1], *good[1:]]
    assert ner_recipe.p_value(Record(0, 0, 0, good), Record(0, 0, 0, almost)) == 1.0
    assert ner_recipe.p_value(Record(0, 0, 0, good), Record(0, 0, 0, bad)) < 0.01


def test_the_summary_of_kept_runs(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_corpus(tmp_path / "data" / "mine", {"train": 6, "valid": 4, "test": 4})
    kept = tmp_path / "work" / "mine_0"
    kept.mkdir(parents=True)
    for recipe, scores in (("default", (50, 60)), ("crf", (70, 62))):
        for seed, score in enumerate(scores):
            record = {"valid": score, "test": score + 1, "seconds": 5, "counts": [[1, 1, 1]] * 4}
            (kept / f"{recipe}_{seed}.json").write_text(json.dumps(record))
    output = tmp_path / "o.json"
    words = [f"--data={tmp_path / 'data'}", "--sets=mine", "--recipes=default,crf", "--seeds=0,1"]
    ner_recipe.main([*words, f"--workdir={tmp_path / 'work'}", f"--output={output}"])
    found = json.loads(output.read_text())["sets"]["mine"]
    assert found["default"]["valid"] == {"mean": 55.0, "runs": [50, 60], "sd": 7.07}
    assert found["crf"]["test"]["mean"] == 67.0 and found["crf"]["p_against_default"] == [1.0, 1.0]
    assert "| mine | crf" in capsys.readouterr().out
    assert (kept / "data" / "train.conll").is_file()
