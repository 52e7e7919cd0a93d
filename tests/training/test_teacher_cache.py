"""Outputs of a teacher that are kept with the rows, against those of a step."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.objective import LearnsFromTeachers, LossContext
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.distillation import LOGITS
from jaxfm.training.initial import find_teachers, resolve
from jaxfm.training.session import run_build
from jaxfm.training.setup import set_up
from jaxfm.training.teacher_cache import taught_rows
from tests import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tagger that learns from weights of random numbers, with the head of its tags."""
    folder = tmp_path_factory.mktemp("cache")
    teacher = tiny.write_weights(folder / "teacher", labels=tiny.LABELS, seed=3)
    return tiny.config(
        folder, distil__teacher=teacher, distil__cache=True, model__dropout=0.0, data__cache=str(folder / "kept")
    )


def test_rows_bring_what_the_teacher_would_say(config: Config) -> None:
    task, loaded = registry.create(config, resolve(config.model))
    mesh = make_mesh(config.parallel.mesh)
    found = []
    for cached in (True, False):
        setup = set_up(tiny.replaced(config, distil__cache=cached), task, loaded, mesh, find_teachers(config))
        state, batch = setup.initial_state(), setup.batches.batch(0)
        arrays = {name: jnp.asarray(value) for name, value in batch.items()}
        session = setup.session
        assert (LOGITS in arrays) == cached and bool(jax.tree.leaves(session.constants)) != cached
        context = LossContext(jax.random.key(0), constants=session.constants)
        found.append(
            jax.jit(lambda p, b, c, s=session: s.objective.loss(nnx.merge(s.graphdef, p), b, c))(
                state.params, arrays, context
            )
        )
        assert setup.constants_hash
    np.testing.assert_allclose(found[0].total, found[1].total, rtol=1e-6)
    assert found[0].metrics["loss_soft"][0] > 0.1


def test_a_file_is_read_again_and_a_damaged_one_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = registry.create(config, resolve(config.model))
    mesh, rows, objective = make_mesh(config.parallel.mesh), task.datasets["train"], task.objective
    assert isinstance(objective, LearnsFromTeachers)
    known = find_teachers(config)
    build, _ = run_build(config, objective, mesh)
    made = taught_rows(config, objective, known, rows, build, mesh)
    assert made.path.parent == pathlib.Path(config.data.cache) / "teachers"
    assert made.fingerprint() == rows.fingerprint() and len(made) == len(rows)

    def fails(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("jaxfm.training.teacher_cache._logits", fails)
    again = taught_rows(config, objective, known, rows, build, mesh)
    index = np.asarray([3, 0])
    np.testing.assert_array_equal(again.take(index)[LOGITS], made.logits[index])
    # Other weights are another file.
    other = tiny.write_weights(made.path.parent.parent / "other", labels=tiny.LABELS, seed=4)
    with pytest.raises(AssertionError, match="computed again"):
        taught_rows(config, objective, find_teachers(tiny.replaced(config, distil__teacher=other)), rows, build, mesh)
    content = bytearray(made.path.read_bytes())
    content[-1] ^= 1
    for damaged in (bytes(content), bytes(content[:-9])):
        made.path.write_bytes(damaged)
        with pytest.raises(UserError, match="Remove it: it is made anew"):
            taught_rows(config, objective, known, rows, build, mesh)
