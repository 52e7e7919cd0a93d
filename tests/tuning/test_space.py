"""The space of a search: what it may say, and what is said of one that is wrong."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks.registry import from_config_dict
from jaxfm.tuning.space import Dimension, grid, parse_space, read_space, with_params


@pytest.fixture(scope="module")
def config() -> Config:
    return from_config_dict({"task": {"name": "ner"}})


def test_ranges_and_choices(config: Config, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "space.json"
    content = {
        "train.batch_size": {"low": 8, "high": 33, "step": 8},
        "optim.learning_rate": {"low": 1e-5, "high": 1, "log": True},
        "optim.name": {"choices": ["adamw", "lion"]},
    }
    path.write_text(json.dumps(content))
    space, read = read_space(path, config)
    assert read == content
    assert space == (  # by name, whatever the order of the file
        Dimension("optim.learning_rate", low=1e-5, high=1, log=True),
        Dimension("optim.name", choices=("adamw", "lion")),
        Dimension("train.batch_size", low=8, high=33, step=8, is_integer=True),
    )
    assert [each.cells() for each in space] == [None, ["adamw", "lion"], [8, 16, 24, 32]]
    made = with_params(config, {"optim.learning_rate": 0.5, "train.batch_size": 24})
    assert (made.optim.learning_rate, made.train.batch_size, made.optim.name) == (0.5, 24, config.optim.name)


def test_values_that_are_lists_are_kept_as_text(config: Config) -> None:
    (dimension,) = parse_space({"adapt.lora.targets": {"choices": [["query"], ["query", "value"]]}}, config, "space")
    assert dimension.labels() == ['["query"]', '["query", "value"]']
    assert [dimension.value_of(label) for label in dimension.labels()] == [["query"], ["query", "value"]]


def test_a_grid_has_every_combination(config: Config) -> None:
    space = parse_space(
        {"optim.weight_decay": {"low": 0.0, "high": 0.1, "step": 0.05}, "train.batch_size": {"choices": [4, 8]}},
        config,
        "space",
    )
    cells = grid(space)
    assert len(cells) == 6 and len({json.dumps(cell) for cell in cells}) == 6
    assert {cell["optim.weight_decay"] for cell in cells} == {0.0, 0.05, 0.1}
    endless = parse_space({"optim.weight_decay": {"low": 0.0, "high": 0.1}}, config, "space")
    with pytest.raises(UserError, match='optim.weight_decay is a range without a "step"'):
        grid(endless)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "must be an object of keys"),
        ([1], "must be an object of keys"),
        (
            {"optim.lerning_rate": {"low": 1, "high": 2}},
            "optim.lerning_rate: there is no such key. Did you mean 'learn",
        ),
        ({"optim": {"low": 1, "high": 2}}, "optim: is a group of keys"),
        ({"task.pooling": {"choices": ["mean"]}}, "task.pooling: is a key of another task than 'ner'"),
        ({"task.name": {"choices": ["ner"]}}, "task.name: cannot be searched"),
        ({"train.seeds": {"low": 1, "high": 2}}, "train.seeds: cannot be searched: a trial is one run"),
        ({"optim.learning_rate": 3}, "optim.learning_rate: is 3, but must be"),
        ({"optim.learning_rate": {"low": 1e-3}}, "optim.learning_rate: 'high' is missing"),
        ({"optim.learning_rate": {"low": 1e-3, "high": 1e-4}}, "low is 0.001, above high, 0.0001"),
        ({"optim.learning_rate": {"low": 1e-3, "high": 1, "logs": True}}, "'logs' does not belong here. Did you mean"),
        ({"optim.learning_rate": {"low": 0, "high": 1, "log": True}}, "a logarithmic range begins above 0"),
        ({"optim.learning_rate": {"low": "a", "high": 1}}, "low is 'a', but must be a number"),
        ({"optim.learning_rate": {"low": 1e-5, "high": 1, "log": True, "step": 0.1}}, "has no step"),
        ({"optim.learning_rate": {"low": -1, "high": 1}}, "config.optim.learning_rate: is -1.0, but must be"),
        ({"train.batch_size": {"low": 1.5, "high": 4}}, "config.train.batch_size: is 1.5"),
        ({"train.batch_size": {"low": 4, "high": 8, "step": 0.5}}, "step is 0.5, but must be a whole number"),
        ({"optim.name": {"low": 1, "high": 2}}, "config.optim.name: is 1"),
        ({"optim.name": {"choices": []}}, r"choices is \[\], but must be a list of at least one value"),
        ({"optim.name": {"choices": ["adamw", "addamw"]}}, "config.optim.name: is 'addamw'. Did you mean 'adamw'"),
        ({"optim.name": {"choices": ["adamw", "adamw"]}}, '"adamw" is among the choices twice'),
    ],
)
def test_what_is_wrong_with_a_space_is_one_message(
    config: Config, tmp_path: pathlib.Path, content: Any, message: str
) -> None:
    path = tmp_path / "space.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as error:
        read_space(path, config)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_absent(config: Config, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"--space=.*none.json: there is no such file"):
        read_space(tmp_path / "none.json", config)
