"""What is refused of changed training rows, with one message each."""

import pathlib
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.training.augmentation_checks import check, mixed_layers
from tests import tiny

LM = {"augment__masked_lm": "dir:any"}
MIXUP = {"augment__mixup": 0.2}


def checked(config: Any) -> Any:
    return check(config, registry.abstract_objective(config, tiny.ENCODER))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment__dropped_to": "unknown"}, r"dropped_to: is 'unknown', but config.augment.word_dropout is 0"),
        (LM, r"masked_lm: is 'dir:any', but config.augment.substitute is 0, so that it has no effect"),
        ({"augment__temperature": 2.0}, r"temperature: is 2.0, but config.augment.substitute is 0"),
        ({"augment__mixup_layers": (1,)}, r"mixup_layers: is \(1,\), but config.augment.mixup is 0"),
        ({"augment__stop": 0.5}, r"start and stop: are 0 and 0.5, but nothing is changed"),
        ({"augment__start": 0.5, "augment__stop": 0.5, **MIXUP}, r"start: is 0.5, but must be below .*stop, 0.5"),
        ({"augment__substitute": 0.1}, r"substitute: is 0.1, but config.augment.masked_lm is empty. Name a masked LM"),
        ({**MIXUP, "train__accumulate": 2}, r"mixup: is 0.2, but config.train.accumulate is 2: .* Set 1"),
        ({**MIXUP, "distil__teacher": "dir:any"}, r"mixup: is 0.2, but not together with config.distil.teacher"),
        ({**MIXUP, "exits__every": 1}, r"mixup: is 0.2, but not together with config.exits.every"),
        ({**MIXUP, "supernet__depths": (1,)}, r"mixup: is 0.2, but not together with config.supernet"),
        ({**MIXUP, "task__loss__r_drop": 1.0}, r"examples cannot be mixed: config.task.loss.r_drop is 1, .* Set 0"),
        (
            {"augment__word_dropout": 0.1, "distil__teacher": "dir:any", "distil__cache": True},
            r"config.distil.cache: .* but config.augment.word_dropout changes them at each step",
        ),
    ],
)
def test_settings_that_contradict_are_refused(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(tiny.classification_config(tmp_path, **changes))


def test_tasks_whose_targets_would_not_stay_true_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"word_dropout: the training rows of the task 'masked_lm' cannot be changed"):
        checked(tiny.masked_lm_config(tmp_path, augment__word_dropout=0.1))
    for make, why in (
        (tiny.qa_config, "an answer is a place"),
        (tiny.relations_config, "entities at other places"),
        (tiny.embedding_config, "compares all texts"),
        (lambda *given, **values: tiny.config(*given, task__head="crf", **values), "a CRF scores whole sequences"),
        (
            lambda *given, **values: tiny.config(*given, task__word_pooling="mean", **values),
            "words are means of pieces",
        ),
    ):
        with pytest.raises(UserError, match=rf"config.augment.mixup: is 0.2, but of the task .*{why}"):
            checked(make(tmp_path, **MIXUP))
        assert checked(make(tmp_path, augment__word_dropout=0.1)) is not None


def test_layers_are_those_of_the_paper_or_the_ones_that_are_named(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, **MIXUP)
    encoder = tiny.ENCODER
    import dataclasses

    assert mixed_layers(config, dataclasses.replace(encoder, num_layers=12)) == (7, 9, 12)
    assert mixed_layers(config, dataclasses.replace(encoder, num_layers=6)) == (4, 5, 6)
    assert mixed_layers(config, encoder) == (2,)
    for layers in ((3,), (2, 1), (1, 1), (-1, 1)):
        named = tiny.replaced(config, augment__mixup_layers=layers)
        with pytest.raises(UserError, match=r"mixup_layers: is .* must be ascending numbers from 0 .* to 2"):
            mixed_layers(named, encoder)
    assert mixed_layers(tiny.replaced(config, augment__mixup_layers=(0, 2)), encoder) == (0, 2)
