"""The loss: beside NumPy, whatever the rows, the micro-batches and the devices; labels that a source annotates."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.tasks.zero_shot_ner.decoding import sigmoid
from jaxfm.tasks.zero_shot_ner.task import ZeroShotNerTask
from jaxfm.training.initial import resolve
from jaxfm.training.setup import set_up
from tests import tiny
from tests.tiny_records import Sentence


def create(folder: pathlib.Path, **overrides: Any) -> ZeroShotNerTask:
    config = tiny.zero_shot_config(folder, **overrides)
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, ZeroShotNerTask)
    return task


def persons_alone(count: int, seed: int) -> list[Sentence]:
    """Sentences in which places are not marked."""
    return [
        (words, [tag.replace("PER", "person") if tag.endswith("PER") else "O" for tag in tags])
        for words, tags in tiny.sentences(count, seed)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a second source, "persons", which annotates persons alone."""
    folder = tmp_path_factory.mktemp("objective")
    for seed, split in enumerate(("train", "valid", "test")):
        tiny.write_conll(folder / "persons" / f"{split}.conll", persons_alone(20, 10 + seed))
    return folder


def two_sources(folder: pathlib.Path, **overrides: Any) -> ZeroShotNerTask:
    return create(folder, task__more_sources=f"conll:{folder / 'persons'}", model__dropout=0.0, **overrides)


def built(task: ZeroShotNerTask) -> Any:
    graphdef, abstract = build_abstract(
        lambda: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig())
    )
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * draw.normal(size=leaf.shape).astype(np.float32), abstract)
    return nnx.merge(graphdef, params)


def batch_of(task: ZeroShotNerTask, split: str) -> dict[str, jax.Array]:
    rows = task.datasets[split]
    return {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}


def test_the_loss_is_that_of_numpy_over_annotated_labels_whatever_the_rows(folder: pathlib.Path) -> None:
    totals = []
    for packed in (True, False):
        task = two_sources(folder, data__packed=packed, data__row_length=64, task__negative_labels="old town, near")
        spec, objective, model = task.objective.spec, task.objective, built(task)
        assert spec.labels == ("LOC", "PER") and spec.negatives == ("old town", "near")
        assert objective.annotated_SC.tolist() == [[True, True, True, True], [False, True, True, True]]
        batch = batch_of(task, "test")

        @nnx.jit
        def computed(model: Any, objective: Any = objective, batch: Any = batch) -> Any:
            loss = objective.loss(model, batch, LossContext(jax.random.key(0)))
            return loss, objective.logits(model, batch), objective.outputs(model, batch)

        loss, logits, outputs = jax.device_get(computed(model))
        logits = task.encoded["test"].per_span(np.asarray(logits, np.float64))
        gold = task.encoded["test"].per_span(np.asarray(batch["labels"]))
        total, spans = 0.0, 0
        for number, (logits_SC, gold_S) in enumerate(zip(logits, gold, strict=True)):
            of_persons = number >= len(logits) - 20
            one_hot = np.arange(1, 5) == gold_S[:, None]
            losses_SC = -np.where(one_hot, np.log(sigmoid(logits_SC)), np.log(sigmoid(-logits_SC)))
            total += losses_SC[:, 1 if of_persons else 0 :].sum()
            spans += len(gold_S)
            assert not of_persons or set(gold_S.tolist()) <= {0, 2}  # "person" is the label that PER is
        assert float(loss.total) == pytest.approx(total, rel=1e-4) and float(loss.weight) == spans
        metrics = task.scorer("test").metrics(outputs)
        assert metrics["loss"] == pytest.approx(total / spans, rel=1e-4)
        right, count = loss.metrics["accuracy"]
        assert metrics["accuracy"] == pytest.approx(float(right / count))
        best = task.encoded["test"].per_span(outputs["label"])
        assert all((labels == 1).all() for labels in best[-20:])  # persons alone are looked for where they are known
        assert any((labels == 0).any() for labels in best[:-20])
        totals.append(float(loss.total))
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)


MESHES = (
    (4, {"train__accumulate": 2, "parallel__mesh__fsdp": 2}),
    (1, {"train__accumulate": 2}),
    (4, {}),
    (4, {"parallel__mesh__sequence": 2}),
)


@pytest.mark.parametrize("meshes", [MESHES[:1], pytest.param(MESHES[1:], marks=pytest.mark.slow)])
def test_micro_batches_and_meshes_train_alike(folder: pathlib.Path, meshes: Any) -> None:
    found = []
    for devices, changes in ((1, {}), *meshes):
        config = tiny.zero_shot_config(
            folder, task__more_sources=f"conll:{folder / 'persons'}", model__dropout=0.0, train__steps=2,
            train__batch_size=8, data__row_length=64, optim__learning_rate=1e-3, **changes,
        )  # fmt: skip
        task, loaded = registry.create(config, resolve(config.model))
        mesh = make_mesh(config.parallel.mesh, jax.devices()[:devices])
        setup = set_up(config, task, loaded, mesh)
        losses = []
        for stepped in setup.session.steps(setup.initial_state(), setup.batches.iterate(0, 2)):
            sums = jax.device_get(stepped.sums)
            losses.append(float(sums["loss"][0] / sums["loss"][1]))
        found.append(losses)
    assert len({*found[0]}) == 2
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=2e-5)


def test_labels_are_part_of_the_fingerprint(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    texts = tmp_path / "labels.json"
    texts.write_text('{"PER": "met"}')
    one, other = create(folder), create(folder, task__label_texts=str(texts))
    assert one.objective.spec.texts == ("location", "person") and other.objective.spec.texts == ("location", "met")
    assert one.datasets["train"].fingerprint() != other.datasets["train"].fingerprint()
    assert one.datasets["train"].fingerprint() == create(folder).datasets["train"].fingerprint()


def test_calibration_is_the_threshold_unless_it_is_given(folder: pathlib.Path) -> None:
    task = create(folder)
    outputs = jax.device_get(task.objective.outputs(built(task), batch_of(task, "valid")))
    fitted = task.scorer("valid").calibrate(outputs)
    assert set(fitted) == {"threshold"}
    report = task.scorer("valid").report(outputs, fitted)
    assert report.metrics["f1"] == task.scorer("valid").metrics(outputs)["f1"] > 0
    assert report.scores["threshold"] == fitted["threshold"]
    given = create(folder, task__threshold=0.7).scorer("valid")
    assert given.calibrate(outputs) == {} and given.report(outputs).scores["threshold"] == 0.7


def test_sources_that_cannot_be_learned_from_are_refused(folder: pathlib.Path) -> None:
    from jaxfm.errors import UserError

    tiny.write_conll(folder / "empty" / "train.conll", [(["a", "town"], ["O", "O"])] * 3)
    tiny.write_conll(folder / "other" / "train.conll", [(["ada"], ["B-PER"]), (["ada", "met"], ["B-PER", "O"])] * 9)
    tiny.write_conll(folder / "other" / "test.conll", [(["ada"], ["B-PRE"])])
    tiny.write_conll(folder / "testless" / "test.conll", [(["ada"], ["B-PER"])])
    for changes, message in (
        ({"task__more_sources": f"conll:{folder / 'empty'}"}, r"empty: has no entity at all"),
        ({"task__more_sources": f"conll:{folder / 'other'}"}, r"test.conll:1: the type 'PRE' does not occur"),
        ({"task__more_sources": f"conll:{folder / 'testless'}"}, r"config.task.more_sources: .* has no split 'train'"),
        ({"task__more_sources": f"conll:{folder / 'data'}"}, "names a source twice"),
        ({"task__negative_labels": "town,person"}, "negative_labels: 'person' is named twice, or is what is read"),
        ({"task__label_length": 5}, r"config.task.label_length: the text of the label 'LOC' has \d+ tokens"),
    ):
        with pytest.raises(UserError, match=message):
            create(folder, **changes)
