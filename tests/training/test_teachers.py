"""Which teachers fit a run, and their weights."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.objective import LearnsFromTeachers
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training import teachers
from jaxfm.training.initial import find_teachers, resolve
from jaxfm.training.session import run_build
from tests import tiny

HEAD = "head/kernel"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("teachers"))


def opened(config: Config, teacher: str, **changes: Any) -> tuple[Any, Any]:
    config = tiny.replaced(config, distil__teacher=teacher, **changes)
    task, _ = registry.create(config, resolve(config.model))
    known = find_teachers(config)
    teachers.check_teachers(config, task, known)
    mesh = make_mesh(config.parallel.mesh)
    build, _ = run_build(config, task.objective, mesh)
    assert isinstance(task.objective, LearnsFromTeachers)
    (found,) = teachers.open_teachers(config, task.objective, known, build, mesh)
    return found, task


def test_a_head_with_the_classes_in_another_order_is_put_in_that_of_the_run(
    config: Config, tmp_path: pathlib.Path
) -> None:
    order = [3, 0, 4, 1, 2]
    uri = tiny.write_weights(tmp_path, labels=[tiny.LABELS[place] for place in order], seed=5)
    teacher, task = opened(config, uri)
    assert tuple(task.objective.spec.labels) == tiny.LABELS
    known = teachers.load(teacher, task.objective.spec.labels)["head"]["kernel"]
    there = np.asarray(resolve(dataclasses.replace(config.model, init=uri)).params[HEAD])
    np.testing.assert_array_equal(np.asarray(known)[:, order], there)
    assert teacher.parameters == sum(x.size for x in tiny.random_params(tiny.ENCODER, 5, 5).values())


def test_layers_alone_are_read_of_a_model_without_the_head(config: Config, tmp_path: pathlib.Path) -> None:
    uri = tiny.write_masked_lm_weights(tmp_path)
    teacher, _ = opened(config, uri, distil__soft=0.0, distil__hidden=1.0)
    assert teacher.objective is None and set(teachers.load(teacher)) == {"encoder"}
    with pytest.raises(UserError, match="has no head with the classes of this task"):
        opened(config, uri)


def write_teacher(folder: pathlib.Path, what: str) -> str:
    if what == "labels":
        return tiny.write_weights(folder, labels=(*tiny.LABELS[:-1], "I-ORG"))
    if what == "positions":
        return tiny.write_weights(folder, dataclasses.replace(tiny.ENCODER, max_positions=32), labels=tiny.LABELS)
    uri = tiny.write_weights(folder, labels=tiny.LABELS)
    words = (folder / "vocab.txt").read_text().split()
    (folder / "vocab.txt").write_text("\n".join([*words[:5], words[6], words[5], *words[7:]]) + "\n")
    return uri


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("labels", "knows the classes O, B-LOC, I-LOC, B-PER, I-ORG, but the data have"),
        ("positions", "has 32 positions, but an example of this run may have 48 tokens"),
        ("tokenizer", "has another tokenizer than this run"),
    ],
)
def test_teachers_that_do_not_fit(config: Config, tmp_path: pathlib.Path, what: str, message: str) -> None:
    uri = write_teacher(tmp_path / "weights", what)
    with pytest.raises(UserError) as caught:
        opened(config, uri)
    assert str(caught.value).startswith(f"config.distil.teacher: {uri!r}") and message in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("run:absent", "config.distil.teacher: 'run:absent': "),
        ("scratch", "config.distil.teacher: 'scratch' is no trained model"),
        ("dir:absent", "config.distil.teacher: 'dir:absent': there is no directory"),
    ],
)
def test_teachers_that_are_not_there(config: Config, uri: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        opened(config, uri)
    assert message in str(caught.value)
