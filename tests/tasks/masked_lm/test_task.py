"""The masked-LM task: held-out masks, and what it refuses."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.masked_lm.task import MaskedLMTask
from jaxfm.training.initial import resolve
from tests import tiny


def created(config: Config) -> tuple[MaskedLMTask, dict[str, np.ndarray], tuple[str, ...]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, MaskedLMTask)
    return task, dict(loaded), task.notes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("masked_lm")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    tiny.write_text(folder / "text", {"train": 60, "valid": 16})
    return tiny.masked_lm_config(folder, model__dropout=0.0)


@pytest.fixture(scope="module")
def task(config: Config) -> MaskedLMTask:
    return created(config)[0]


def test_held_out_masks_are_the_same_for_every_run(task: MaskedLMTask, config: Config) -> None:
    other = created(tiny.replaced(config, seed=9, task__unit="span", task__evaluate=["token"]))[0]
    each = len(task.datasets["valid"]) // 3
    assert other.text.units == ("span", "token") and len(other.datasets["valid"]) == 2 * each
    token = task.datasets["valid"].take(np.arange(each))
    for name, values in other.datasets["valid"].take(np.arange(each, 2 * each)).items():
        np.testing.assert_array_equal(values, token[name])
    span = task.datasets["valid"].take(np.arange(2 * each, 3 * each))
    for name, values in other.datasets["valid"].take(np.arange(each)).items():
        np.testing.assert_array_equal(values, span[name])
    assert not np.array_equal(token["labels"], span["labels"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__row_length": 65}, "config.data.row_length: 65 tokens, but the encoder has 64 positions"),
        ({"task__mask_share": 0.8, "task__random_share": 0.3}, "config.task.random_share: 0.3 and mask_share 0.8"),
        ({"task__evaluate": ["token", "spam"]}, "config.task.evaluate: 'spam'. Did you mean 'span'?"),
        ({"model__tokenizer": "train:bpe/300"}, "the weights have theirs already"),
    ],
    ids=str,
)
def test_contradictions_are_refused(config: Config, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        created(tiny.replaced(config, **change))
    assert words in str(caught.value)


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(config: Config, tmp_path: pathlib.Path) -> None:
    small = dataclasses.replace(tiny.ENCODER, vocab_size=len(tiny.VOCABULARY) - 1)
    uri = tiny.write_masked_lm_weights(tmp_path / "small", small)
    with pytest.raises(UserError, match=r"tokenizer has 69 entries, the word embedding 68 rows"):
        created(tiny.replaced(config, model__init=uri))
    # As large as the weights' own, but with other entries.
    tiny.write_tokenizer(tmp_path / "other")
    (tmp_path / "other" / "vocab.txt").write_text("\n".join([*tiny.PIECES[:5], *tiny.VOCABULARY[:4:-1]]) + "\n")
    with pytest.raises(UserError, match=r"only \d+ of the 69 entries .* it is not the tokenizer of these weights"):
        created(tiny.replaced(config, model__tokenizer=f"dir:{tmp_path / 'other'}"))
    # The same one elsewhere is as good.
    tiny.write_tokenizer(tmp_path / "same")
    same = created(tiny.replaced(config, model__tokenizer=f"dir:{tmp_path / 'same'}"))[0]
    assert same.text.tokenizer.get_vocab() == dict(zip(tiny.VOCABULARY, range(69), strict=True))
