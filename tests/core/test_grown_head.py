"""Heads that grow: which labels they have, which rows are kept bit for bit, and of which tasks."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.core.grown_head import can_grow, head_labels, takes_head, taught_labels
from jaxfm.core.initial import Initial
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training import initial
from jaxfm.training.paths import flat
from jaxfm.training.setup import prepare
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("grown_head")


def test_labels_of_a_head(folder: pathlib.Path) -> None:
    plain = tiny.classification_config(folder)
    grows = tiny.replaced(plain, model__grow_head=True)
    assert head_labels(plain, ("b", "a"), ("a", "b"))[0] == ("b", "a")
    assert head_labels(plain, ("a", "b"), ("b", "c")) == (("b", "c"), "new")
    assert head_labels(grows, (), ("b", "c")) == (("b", "c"), "new")
    labels, note = head_labels(grows, ("a", "b"), ("b", "c"))
    assert labels == ("a", "b", "c")
    assert note == "loaded, with 2 classes, 1 of them not in the data, and 1 new (c)"
    assert head_labels(grows, ("a", "b", "c"), ("c", "a")) == (
        ("a", "b", "c"), "loaded, with 3 classes, 1 of them not in the data, and none new",
    )  # fmt: skip
    assert takes_head(grows, ("a", "b"), labels) and not takes_head(plain, ("a", "b"), labels)
    assert takes_head(plain, labels, labels) and not takes_head(grows, ("b", "a"), labels)
    assert not takes_head(grows, (), labels)
    assert taught_labels(("a", "b"), labels) == ("a", "b") and taught_labels(("c", "a"), labels) == labels


# The labels of the tiny sources are LOC and PER: of these models, one of them and others.
@pytest.mark.parametrize(
    ("make", "loaded", "labels", "options"),
    [
        (tiny.classification_config, ("PER", "DATE", "TIME"), ("PER", "DATE", "TIME", "LOC"),
         {"exits__every": 1}),
        (tiny.config, ("O", "B-X", "I-X", "B-PER", "I-PER"), ("O", "B-X", "I-X", "B-PER", "I-PER", "B-LOC", "I-LOC"),
         {"task__head": "crf"}),
    ],
)  # fmt: skip
def test_rows_of_old_labels_are_bit_equal(
    folder: pathlib.Path, make: Any, loaded: tuple[str, ...], labels: tuple[str, ...], options: dict[str, Any]
) -> None:
    config = make(folder, model__grow_head=True, **options)
    first = initial.resolve(config.model)
    mesh = make_mesh(config.parallel.mesh)
    draw = np.random.default_rng(5)

    def params_of(first: Initial, config: Any = config) -> tuple[Any, dict[str, np.ndarray]]:
        task, given = registry.create(config, first)
        state = prepare(config, task, given, mesh).initial_state()
        return task, {path: np.asarray(leaf) for path, leaf in flat(state.params).items()}

    _, plain = params_of(first, tiny.replaced(config, model__grow_head=False))
    old = len(loaded)

    def smaller(value: np.ndarray, path: str) -> np.ndarray:
        if path.startswith("encoder/"):
            return value
        shape = [old if size in (2, 5) and axis >= value.ndim - (2 if "pairs" in path else 1) else size
                 for axis, size in enumerate(value.shape)]  # fmt: skip
        return draw.standard_normal(shape).astype(np.float32)

    heads = {path: smaller(value, path) for path, value in plain.items()}
    task, grown = params_of(Initial(first.encoder, heads, loaded, first.tokenizer, ()))
    assert task.objective.spec.labels == labels
    assert any("loaded, with" in note and "new (" in note for note in task.notes)
    parts = [path for path in grown if not path.startswith("encoder/") and len(labels) in grown[path].shape]
    assert {"head/kernel", "head/bias"} <= set(parts)
    assert len(parts) == (4 if make is tiny.classification_config else 5)  # an early head; the three of a chain
    for path in parts:
        before = heads[path]
        places = tuple(slice(0, size) for size in before.shape)
        np.testing.assert_array_equal(grown[path][places].view(np.uint32), before.view(np.uint32), err_msg=path)
        assert before.shape != grown[path].shape
    fresh = grown["head/kernel"][:, old:]
    assert 0.01 < fresh.std() < 0.5 and not np.any(grown["head/bias"][old:])  # drawn as a new head is
    with pytest.raises(AssertionError):  # an encoder never grows
        bad = {**heads, "encoder/embeddings/norm/scale": heads["encoder/embeddings/norm/scale"][:3]}
        params_of(Initial(first.encoder, bad, loaded, first.tokenizer, ()))


def test_heads_that_cannot_grow(folder: pathlib.Path) -> None:
    config = tiny.embedding_config(folder, model__grow_head=True)
    with pytest.raises(UserError, match="grow_head: heads of the task 'embedding' have no rows of labels"):
        registry.create(config, initial.resolve(config.model))
    config = tiny.classification_config(folder, "regression", model__grow_head=True)
    assert not can_grow(registry.definition("classification"), config)
    with pytest.raises(UserError, match="grow_head: config.task.kind is 'regression', whose head gives one number"):
        registry.create(config, initial.resolve(config.model))
    assert can_grow(registry.definition("ner"), tiny.config(folder))
    assert len(jax.devices()) == 4
