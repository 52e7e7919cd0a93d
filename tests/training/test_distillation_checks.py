"""What a run that learns from teachers is refused for."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.training.distillation_checks import check, layer_pairs, relation_heads
from jaxfm.training.initial import resolve
from tests import tiny

TEACHER = dataclasses.replace(tiny.ENCODER, num_layers=4)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    yield tiny.classification_config(tmp_path_factory.mktemp("checks"), distil__teacher="run:absent")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "", "hidden": 1.0}, "config.distil.hidden: is 1.0, but config.distil.teacher is empty"),
        ({"soft": 0.0}, "config.distil.soft: is 0, as are hidden, attention and relations"),
        ({"teacher": "run:a,run:b", "hidden": 1.0}, "config.distil.teacher names 2, whose layers cannot be averaged"),
        ({"cache": True, "relations": 1.0}, "config.distil.cache keeps outputs alone"),
    ],
)
def test_contradictions(config: Config, changes: dict[str, Any], message: str) -> None:
    objective = registry.create(config, resolve(config.model))[0].objective
    with pytest.raises(UserError) as caught:
        check(tiny.replaced(config, **{f"distil__{name}": value for name, value in changes.items()}), objective)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"supernet__depths": (1,)}, "subnets (config.supernet) learn from the largest"),
        ({"grow__layers": (1, 2)}, "a model that grows (config.grow.layers)"),
        ({"distil__hidden": 1.0, "train__accumulate": 2}, "config.train.accumulate is 2"),
        ({"distil__hidden": 1.0, "optim__mup": 16}, "config.optim.mup has no rule"),
    ],
)
def test_other_parts_of_a_config(config: Config, changes: dict[str, Any], message: str) -> None:
    objective = registry.create(config, resolve(config.model))[0].objective
    with pytest.raises(UserError) as caught:
        check(tiny.replaced(config, **changes), objective)
    assert message in str(caught.value)


def test_tasks_that_cannot_learn_from_a_teacher(tmp_path: pathlib.Path) -> None:
    for made, message in (
        (tiny.embedding_config(tmp_path, distil__teacher="run:absent"), "the task 'embedding' cannot learn"),
        (tiny.config(tmp_path, distil__teacher="run:absent", task__head="crf"), "of the task 'ner' a CRF scores whole"),
    ):
        with pytest.raises(UserError) as caught:
            check(made, registry.abstract_objective(made, tiny.ENCODER))
        assert message in str(caught.value)


def test_layers_lie_evenly_or_as_they_are_given(config: Config) -> None:
    hidden = tiny.replaced(config, distil__hidden=1.0)
    assert layer_pairs(hidden, tiny.ENCODER, [TEACHER]) == ((1, 2), (2, 4))
    given = tiny.replaced(hidden, distil__layers=(0, 3))
    assert layer_pairs(given, tiny.ENCODER, [TEACHER]) == ((2, 3),)
    assert layer_pairs(config, tiny.ENCODER, [TEACHER]) == ()


@pytest.mark.parametrize(
    ("changes", "student", "teacher", "message"),
    [
        ({"hidden": 1.0}, {"num_layers": 3}, {}, "the 3 layers of the student do not divide the 4 of the teacher"),
        ({"hidden": 1.0, "layers": (1, 5)}, {}, {}, "must be a number from 1 to 4"),
        ({"hidden": 1.0, "layers": (1,)}, {}, {}, "for each of the student's 2 layers"),
        ({"hidden": 1.0, "layers": (0, 0)}, {}, {}, "config.distil.layers: is (0, 0)"),
        ({"layers": (1, 2)}, {}, {}, "config.distil.hidden and config.distil.attention are 0"),
        ({"attention": 1.0}, {"num_heads": 4}, {}, "the student has 4 heads and the teacher 2"),
        ({"attention": 1.0}, {"relative_positions": "bias"}, {}, "the student (bert) has biases by distance"),
        ({"attention": 1.0}, {}, {"local_window": 8}, "the teacher (bert) has layers that see a window"),
    ],
)
def test_layers_and_heads_that_cannot_be_compared(
    config: Config, changes: dict[str, Any], student: dict[str, Any], teacher: dict[str, Any], message: str
) -> None:
    asked = tiny.replaced(config, **{f"distil__{name}": value for name, value in changes.items()})
    shapes = dataclasses.replace(tiny.ENCODER, **student), dataclasses.replace(TEACHER, **teacher)
    with pytest.raises(UserError) as caught:
        layer_pairs(asked, shapes[0], [shapes[1]])
    assert message in str(caught.value)


def test_relation_heads_divide_both_widths(config: Config) -> None:
    wide = dataclasses.replace(TEACHER, hidden_size=48, num_heads=3)
    assert relation_heads(config, tiny.ENCODER, TEACHER) == 2

    def asked(student: EncoderConfig, **values: int) -> str:
        with pytest.raises(UserError) as caught:
            relation_heads(tiny.replaced(config, **{f"distil__{k}": v for k, v in values.items()}), student, wide)
        return str(caught.value)

    assert "config.distil.relation_heads: 3 does not divide the width of the student's queries, 32" in asked(
        tiny.ENCODER
    )
    assert "5 does not divide" in asked(tiny.ENCODER, relation_heads=5)
    assert "but the teacher has 4 layers" in asked(tiny.ENCODER, relation_heads=4, relation_layer=5)
