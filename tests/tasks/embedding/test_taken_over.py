"""A run takes over what the files of its first weights say of their vectors."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.initial import Initial, SentenceLayout
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.embedding.task import taken_over
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.initial import resolve
from tests import tiny

LAYOUT = SentenceLayout("cls", True, {"query": "q: ", "document": "d: "}, 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Config, Initial]:
    directory: pathlib.Path = tmp_path_factory.mktemp("runs")
    values = default_config("embedding")
    values.model.init = tiny.write_weights(directory / "weights")
    values.data.source = tiny.write_examples(directory / "groups", "single", pairs=True)
    values.task.label_rule = "all"
    config = from_config_dict(values)
    return config, resolve(config.model)


def taken(made: tuple[Config, Initial], layout: SentenceLayout | None, **changed: Any) -> Any:
    config, initial = made
    config = tiny.replaced(config, **changed)
    return taken_over(config, dataclasses.replace(initial, sentence=layout))[0].task


def test_pooling_prompts_and_size(made):
    found = taken(made, LAYOUT)
    assert (found.pooling, found.query_prompt, found.document_prompt) == ("cls", "q: ", "d: ") and found.normalize
    found = taken(made, LAYOUT, task__pooling="mean", task__query_prompt="mine ")
    assert (found.pooling, found.query_prompt, found.document_prompt) == ("mean", "mine ", "d: ")
    assert taken(made, LAYOUT, task__query_prompt="").query_prompt == "", "a prompt can be switched off"
    none = taken(made, None)
    assert none.query_prompt == none.document_prompt == "", "without files there is none"
    assert not taken(made, dataclasses.replace(LAYOUT, normalize=False)).normalize
    assert taken(made, None).pooling == "auto"
    config, initial = made
    kernel = np.zeros((32, 8), np.float32)
    projected = dataclasses.replace(initial, sentence=LAYOUT, params={**initial.params, "projection/kernel": kernel})
    assert taken_over(config, projected)[0].task.dimension == 8


def test_a_run_has_the_length_of_its_weights(made):
    config, initial = made
    for limit, window in ((12, 12), (0, tiny.ENCODER.max_positions)):
        layout = dataclasses.replace(LAYOUT, max_length=limit)
        task, _ = registry.create(config, dataclasses.replace(initial, sentence=layout))
        spec: Any = task.objective.spec
        assert spec.window == window and spec.pooling == "cls" and spec.query_prompt == "q: "
        assert task.train.positions.max() < window


def test_what_is_not_computed_is_refused_unless_a_pooling_is_named(made):
    layout = dataclasses.replace(LAYOUT, unread=("the pooling max",))
    with pytest.raises(UserError, match="config.task.pooling: is 'auto', but .* by the pooling max, which is not comp"):
        taken(made, layout)
    assert taken(made, layout, task__pooling="mean").query_prompt == ""


def test_what_was_chosen_is_kept_and_an_older_run_goes_on(made, tmp_path):
    """config.json has the prompts themselves; the same command later means the same run, as it does for older ones."""
    config, initial = made
    task, _ = registry.create(config, dataclasses.replace(initial, sentence=LAYOUT))
    kept = workdirs.with_values(config, task.chosen)
    assert (kept.task.query_prompt, kept.task.pooling) == ("q: ", "cls") and config.task.query_prompt == "auto"
    workdirs.write_config(tmp_path / "run", kept)
    again = workdirs.with_chosen(tmp_path / "run", config)
    assert again == kept and workdirs.status(tmp_path / "run", again) == "half-way"
    older = tiny.replaced(config, task__query_prompt="", task__document_prompt="")  # config.json as it once was
    workdirs.write_config(tmp_path / "older", workdirs.with_values(older, {"data.row_length": 48}))
    assert workdirs.status(tmp_path / "older", workdirs.with_chosen(tmp_path / "older", config)) == "half-way"
