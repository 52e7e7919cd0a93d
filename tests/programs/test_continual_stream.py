"""The file of a stream: what it holds, and what is wrong with it, with file, stage and key."""

import pathlib
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.programs.continual_stream import check_config, check_methods, read_stream
from jaxfm.programs.continual_work import METHODS
from tests import tiny

GOOD = """
[[stage]]
name = "first"
data.source = "conll:first"

[[stage]]
name = "second.1"
data = {source = "conll:second", words_column = "w"}
train.steps = 7
task.loss.label_smoothing = 0.1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("stream"))


def test_stages_are_the_config_with_some_keys_set(config: Config, tmp_path: pathlib.Path) -> None:
    (tmp_path / "s.toml").write_text(GOOD)
    first, second = read_stream(tmp_path / "s.toml", config)
    assert (first.name, second.name) == ("first", "second.1")
    assert first.config == tiny.replaced(config, data__source="conll:first")
    assert dict(second.changes) == {
        "data.source": "conll:second", "data.words_column": "w", "train.steps": 7, "task.loss.label_smoothing": 0.1,
    }  # fmt: skip
    assert second.config.train.steps == 7 and second.config.task.loss.label_smoothing == 0.1
    given: list[dict[str, Any]] = [
        {"name": "first", "data.source": "conll:first"},
        {"name": "second.1", **second.changes},
    ]
    assert read_stream(given, config) == (first, second)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stage]\n", "s.toml: is not TOML: "),
        ("a = 1\n", r"holds stages as tables \[\[stage\]\] and nothing else. 'a' does not belong here"),
        (GOOD + "\n[other]\nb = 1\n", "'other' does not belong here"),
        ('[[stage]]\nname = "a"\n', "has 1 stage; a stream has two or more"),
        (GOOD.replace('name = "first"', ""), "stage 1: name is missing"),
        (GOOD.replace('"first"', '"../x"', 1), "stage 1: name is '../x'; it must be letters"),
        (GOOD.replace("second.1", "first"), "stage 2: another stage has the name 'first' too"),
        (GOOD.replace("train.steps", "train.stepps"), r"stage 2 \(second.1\): config.train.stepps.* 'steps'"),
        (GOOD.replace("train.steps = 7", "train.steps = -1"), r"stage 2 \(second.1\): config.train.steps.*-1"),
        (GOOD.replace("train.steps = 7", 'task.name = "qa"'), "task.name: cannot be set by a stage: a stream"),
        (GOOD.replace("train.steps = 7", 'model.init = "run:a"'), "model.init: cannot be set by a stage: the method"),
        (GOOD.replace("train.steps = 7", "seed = 3"), "seed: cannot be set by a stage: --seeds"),
        (GOOD.replace("task.loss.label_smoothing", "task.shots"), "task.shots: is 0.1, but is of another task"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_stream(config: Config, tmp_path: pathlib.Path, text: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_stream(tmp_path / "s.toml", config)
    assert str(tmp_path / "s.toml") in str(error.value)


def test_absent_files_and_configs_that_are_no_stage(config: Config, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="absent: there is no such file"):
        read_stream(tmp_path / "absent", config)
    with pytest.raises(UserError, match="stage 1: is 'a', but must be a table"):
        read_stream(["a", "b"], config)  # type: ignore[list-item]
    check_config(config)
    for changes, message in (
        ({"train__seeds": 2}, "train.seeds.*Take --seeds"),
        ({"grow__layers": (1, 2)}, "config.grow.layers"),
        ({"supernet__depths": (1,)}, "config.supernet"),
        ({"privacy__clip_norm": 1.0}, "config.privacy.clip_norm"),
        ({"distil__teacher": "run:a"}, "config.distil.teacher: is 'run:a', but methods of a stream set it"),
        ({"consolidate__importance": "f"}, "config.consolidate: is 'f'"),
        ({"checkpoint__mirror": "gs://b/f"}, "config.checkpoint.mirror"),
    ):
        with pytest.raises(UserError, match=message):
            check_config(tiny.replaced(config, **changes))
    few = tiny.classification_config(tmp_path, task__fit="logistic_regression", task__head="linear")
    with pytest.raises(UserError, match="config.task.fit=logistic_regression: stages are trained by gradients"):
        check_config(few)


def test_methods() -> None:
    assert check_methods(["naive", "ewc"], tuple(METHODS)) == ("naive", "ewc")
    for names, message in (
        (["naive", "ewd"], "--method=naive,ewd: 'ewd' is no method. Did you mean 'ewc'"),
        (["ewc", "ewc"], "'ewc' is given twice"),
        ([], "--method: is empty"),
        (["replay_hering"], "'replay_hering' is no method. Did you mean 'replay_herding'"),
    ):
        with pytest.raises(UserError, match=message):
            check_methods(names, tuple(METHODS))
