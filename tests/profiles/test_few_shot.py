"""Draws are run once each, ways that cannot be gone say so, and the table has intervals over draws."""

import pathlib
from typing import Any

import pytest

from profiles import few_shot
from profiles.few_shot import SETS, Runner


@pytest.fixture
def runner(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Puts something quick in place of training, which scores better with each draw."""

    def train(config: Any, workdir: pathlib.Path) -> dict[str, Any]:
        assert not (workdir / "report.json").exists(), "a finished run is run again"
        workdir.mkdir(parents=True)
        (workdir / "report.json").write_text("{}")
        (workdir / "stages").mkdir()
        return {"splits": {"test": {"accuracy": 0.5 + config.seed / 10}}}

    monkeypatch.setattr(few_shot, "train", train)
    monkeypatch.setattr(few_shot, "has_library", lambda: False)
    return Runner("sst2", SETS["sst2"], "jsonl:absent", tmp_path, 4, "", {"train.steps": 3})


def test_each_draw_is_run_once(runner: Runner, tmp_path: pathlib.Path) -> None:
    methods = ("probe", "setfit", "library", "prompt")
    first = few_shot.collect([runner], methods, 3, tmp_path / "o.json")
    assert few_shot.collect([runner], methods, 3, tmp_path / "o.json") == first
    entry = first["sets"]["sst2"]
    assert entry["library"] == "skipped: not installed" and entry["prompt"] == "skipped: no --masked_lm"
    # Student's t at 2 degrees of freedom is 4.303; the deviation of 50, 60 and 70 is 10.
    assert entry["probe"]["mean"] == 60 and entry["probe"]["high"] == pytest.approx(60 + 4.3027 * 10 / 3**0.5, abs=1e-3)
    table = few_shot.table(first, methods)
    assert table.rows[0][:2] == ("sst2", "60.0 (35.2 to 84.8)") and table.rows[0][3].startswith("skipped")
    assert not (tmp_path / "sst2-4" / "setfit-0" / "stages").exists()


def test_configs_are_those_of_a_stranger(runner: Runner) -> None:
    setfit, tune = runner.config("setfit", 7), runner.config("tune", 7)
    assert (setfit.task.fit, setfit.task.shots, setfit.seed, setfit.train.steps) == ("setfit", 4, 7, 3)
    assert tune.task.fit == "gradient" and tune.eval.select == "last" and tune.model.init == few_shot.MINILM
    assert runner.config("zero", 0).task.prompt.words == "0=terrible,1=great"
