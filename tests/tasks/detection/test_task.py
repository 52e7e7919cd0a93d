"""Objects in images from files to scores, predictions and exports, and what is refused."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.core.objective import LossContext
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.evaluation import average_precision
from jaxfm.models.boxes import corners, generalized_overlap
from jaxfm.models.detector import Found
from jaxfm.models.inputs.augmentation import Augmentation, Moves, augment, image_moves
from jaxfm.models.inputs.image_moves import identity
from jaxfm.models.inputs.patches import _spread_places
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.tasks.detection.objective import (
    DetectionLoss,
    ImageSums,
    batch_sums,
    moved_objects,
    patch_sums,
    total_loss,
)
from jaxfm.tasks.registry import create
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny, tiny_boxes
from tests.training.whole_run import at_step, record_saves, terminate

CHANGED = {"task__augment__flip": True, "task__augment__crop": 0.5, "task__augment__pad_crop": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("detection")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    """A run of some hundred updates: squares of two kinds are found by then, roughly."""
    train(tiny_boxes.detection_config(folder, train__steps=200, optim__learning_rate=3e-3, task__augment__flip=True,
                                eval__every_steps=100, task__threshold=0.3), folder / "run")  # fmt: skip
    return folder / "run"


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        create(config, resolve(config.model))
    return str(caught.value)


def test_a_run_learns_and_leaves_a_sheet_of_its_errors(run: pathlib.Path) -> None:
    pytest.importorskip("pycocotools", reason="the extra boxes is not installed")
    scores = json.loads((run / "report.json").read_text())["splits"]["test"]
    assert scores["ap50"] > 0.05 and scores["ap50"] > scores["ap"] > 0
    assert scores["ap50_small"] == pytest.approx(scores["ap50"])
    assert set(scores["classes"]) == {"dark", "light"} and "ap_large" not in scores
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert len(lines) == tiny.SIZES["test"] and {len(line["gold"]) for line in lines} == {1, 2}
    assert list(run.rglob("*worst_errors*.png"))
    again = evaluate(run, split="test").metrics
    assert {name: again[name] for name in ("ap", "ap50")} == pytest.approx({"ap": scores["ap"], "ap50": scores["ap50"]})


def test_objects_of_an_image_in_its_own_pixels(run: pathlib.Path, folder: pathlib.Path) -> None:
    from PIL import Image

    path = folder / "wide.png"
    Image.open(folder / "boxes" / "test" / "1.png").resize((64, 32)).save(path)
    spec: Any = open_run(run).spec
    result = predict(run, {"image": path})
    assert result["image"] == str(path)
    for each in result["objects"]:
        left, top, right, bottom = each["box"]
        assert 0 <= left < right <= 64 and 0 <= top < bottom <= 32
        assert each["label"] in spec.labels and each["score"] >= spec.threshold
    predictor: Any = open_run(run).predictor()
    encoded = predictor.encode([{"image": StoredImage("wide", path=path)}])
    logits = np.full((1, 1, 4, 3), -5.0, np.float32)
    logits[..., 2] = 5.0
    logits[0, 0, 2] = (5.0, -5.0, -5.0)
    boxes = np.full((1, 1, 4, 4), (0.5, 0.5, 0.25, 0.5), np.float32)
    (found,) = predictor.decode(encoded, {"logits": logits, "boxes": boxes})
    assert found["objects"] == [{"label": "dark", "score": 0.9999, "box": [24.0, 8.0, 40.0, 24.0]}]
    assert predictor.lines(found) == ["wide", "  1.000  dark  (24 8 40 24)"]
    (shown,) = predictor.pictures(encoded, {"logits": logits, "boxes": boxes})
    assert next(iter(shown.values())).shape[2] == 3


def test_an_export_finds_what_the_run_finds(run: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    export(run, tmp_path / "hf")
    model = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "hf").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    spec: Any = open_run(run).spec
    for number in range(3):
        path = folder / "boxes" / "test" / f"{number}.png"
        with torch.no_grad():
            outputs = model(pixel_values=processor(Image.open(path), return_tensors="pt")["pixel_values"])
        (theirs,) = processor.post_process_object_detection(outputs, spec.threshold, [(16, 16)])
        ours = predict(run, {"image": path})["objects"]
        order = np.argsort(-theirs["scores"].numpy(), kind="stable")
        assert [spec.labels[label] for label in theirs["labels"].numpy()[order]] == [each["label"] for each in ours]
        wanted = np.clip(theirs["boxes"].numpy()[order], 0, 16).reshape(-1, 4)
        np.testing.assert_allclose([each["box"] for each in ours] or np.zeros((0, 4)), wanted, atol=0.02)


def test_a_run_can_start_from_another_and_from_an_encoder(
    run: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    again = {"model__preset": "", "model__num_layers": 0, "model__hidden_size": 0, "model__ffn_size": 0}
    again |= {"task__patch_size": 0, "task__small_data": False}
    config = tiny_boxes.detection_config(folder, model__init=f"run:{run}", task__detection_tokens=0, **again)
    _, params = create(config, resolve(config.model))
    assert {name.partition("/")[0] for name in params} == {"encoder", "classes", "boxes", "head", "box_head"}
    pretrained = tmp_path / "masked"
    train(tiny.image_config(tmp_path, "masked_images", train__steps=1, task__image_size=8), pretrained)
    config = tiny_boxes.detection_config(folder, model__init=f"run:{pretrained}", task__image_size=8, **again)
    task, params = create(config, resolve(config.model))
    spec: Any = task.objective.spec
    table = np.asarray(params["encoder/embeddings/position/embedding"])
    assert spec.encoder.family != "vit" and spec.tokens == 4 and len(table) == 1 + 16 + 4
    np.testing.assert_array_equal(table[-4:], 0.0)
    assert {name.partition("/")[0] for name in params} == {"encoder"}


@pytest.mark.slow
def test_a_stopped_run_is_the_run_that_was_not(tmp_path: pathlib.Path) -> None:
    config = tiny_boxes.detection_config(tmp_path, train__steps=6, eval__every_steps=3, model__dropout=0.1, **CHANGED)
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        report = train(config, tmp_path / "whole")
        wanted = dict(saved)
        saved.clear()
        with pytest.MonkeyPatch.context() as stopping:
            at_step(stopping, 4, terminate)
            with pytest.raises(Preempted):
                train(config, tmp_path / "run")
        assert train(config, tmp_path / "run")["splits"] == report["splits"]
        assert saved[6] == wanted[6] and min(saved) < 6


def batch_of(folder: pathlib.Path, **changes: Any) -> tuple[Any, Any, dict[str, jax.Array]]:
    """The objective of a task, a model of random weights, and a batch of eight rows."""
    config = tiny_boxes.detection_config(folder, **changes)
    task, _ = create(config, resolve(config.model))
    rows = task.datasets["train"].take(np.arange(min(8, len(task.datasets["train"]))))
    objective: Any = task.objective
    spec = objective.spec

    def make() -> nnx.Module:
        return spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = tiny.nested(tiny.drawn(make, dataclasses.replace(spec.encoder, initializer_range=0.2), 0))
    model = nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))
    return objective, model, {name: jnp.asarray(values) for name, values in rows.items()}


def test_rows_that_fill_up_a_batch_count_nothing(folder: pathlib.Path) -> None:
    objective, model, batch = batch_of(folder, task__loss__patches=1.0)
    context = LossContext(jax.random.key(0))
    wanted = objective.loss(model, batch, context)
    spec = objective.spec.batch_spec()
    empty = {name: jnp.full((3, *field.shape), field.fill, field.dtype) for name, field in spec.items()}
    found = objective.loss(model, {name: jnp.concatenate([batch[name], empty[name]]) for name in batch}, context)
    assert float(wanted.weight) == float(found.weight) == 8
    np.testing.assert_allclose(found.total, wanted.total, rtol=1e-5)
    for name, value in wanted.metrics.items():
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-5)


def test_the_loss_and_its_gradient_are_the_same_on_four_devices(folder: pathlib.Path) -> None:
    objective, model, batch = batch_of(folder, task__loss__patches=1.0)
    graphdef, state = nnx.split(model)

    def loss(state: Any, batch: Any) -> jax.Array:
        return objective.loss(nnx.merge(graphdef, state), batch, LossContext(jax.random.key(0))).total

    devices = jax.devices()
    if len(devices) < 4:
        pytest.skip("needs four devices")
    wanted, gradient = jax.jit(jax.value_and_grad(loss))(state, batch)
    mesh = meshes.make_mesh(MeshConfig(), devices[:4])
    cut = jax.sharding.NamedSharding(mesh, meshes.spec("batch"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    given = jax.device_put(state, whole), {name: jax.device_put(value, cut) for name, value in batch.items()}
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss)).lower(*given).compile()
        found, sharded = step(*given)
    # Matching is done where the images are: no loop exchanges anything.
    lines = [line for line in str(step.as_text()).splitlines() if "match_objects" in line]
    assert any("while" in line for line in lines) and not any("all-reduce" in line for line in lines)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


def test_boxes_move_with_their_images(folder: pathlib.Path) -> None:
    """A white square on black is where its moved box says, to a pixel of interpolation."""
    objective, _, batch = batch_of(folder)
    patches, side, count = objective.spec.encoder.patches, 16, 64
    draw = np.random.default_rng(0)
    images = np.zeros((count, side, side, 3), np.uint8)
    boxes = np.zeros((count, 1, 1, 4), np.float32)
    for number in range(count):
        (left, top), size = draw.integers(2, 8, 2), int(draw.integers(4, 7))
        images[number, top : top + size, left : left + size] = 255
        boxes[number, 0, 0] = np.asarray([left + size / 2, top + size / 2, size, size]) / side
    from jaxfm.data.images.rows import from_patches, to_patches

    pixels = np.zeros((count, *batch["pixels"].shape[1:]), np.uint8)
    pixels[:, patches.prefix :] = [to_patches(image, 4) for image in images]
    given = {name: jnp.repeat(batch[name][:1], count, axis=0) for name in ("segment_ids", "cells", "grids")}
    given["pixels"] = jnp.asarray(pixels)
    change = Augmentation(flip=True, crop=0.6, pad_crop=1, border="zero")
    key = jax.random.key(3)
    seen = np.asarray(augment(given, change, 4, 3, key, segments=1))[:, patches.prefix :]
    moves = image_moves(given, change, 4, 3, key, segments=1)
    labels, found = moved_objects(jnp.zeros((count, 1, 1), jnp.int32), jnp.asarray(boxes), moves)
    checked = 0
    for number in range(count):
        if int(labels[number, 0, 0]) < 0:
            continue
        middle, half = np.asarray(found[number, 0, 0, :2]) * side, np.asarray(found[number, 0, 0, 2:]) * side / 2
        rows, columns = np.nonzero(from_patches(seen[number], (4, 4), 4)[..., 0] > 127)
        bounds = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        np.testing.assert_allclose([*(middle - half), *(middle + half)], bounds, atol=1.01)
        checked += 1
    assert checked > 50 and len({bool(value) for value in np.asarray(moves.moved.e < 0)[:, 0]}) == 2


def test_what_is_mostly_outside_is_no_longer_looked_for() -> None:
    one = jnp.ones((1, 1))
    moves = Moves(identity(one)._replace(f=jnp.full((1, 1), 9.0)), 10 * one, 10 * one)  # 9 of 10 pixels to the left
    boxes = jnp.asarray([[[[0.95, 0.5, 0.1, 0.2], [0.5, 0.5, 0.9, 0.9], [0.9, 0.5, 0.2, 0.2]]]])
    labels, found = moved_objects(jnp.asarray([[[0, 1, 1]]]), boxes, moves)
    np.testing.assert_array_equal(labels[0, 0], [0, -1, 1])
    np.testing.assert_allclose(found[0, 0, 0], [0.05, 0.5, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(found[0, 0, 2], [0.05, 0.5, 0.1, 0.2], atol=1e-6)


def test_the_loss_at_patches_is_that_of_a_slow_version(folder: pathlib.Path) -> None:
    """Each patch says the smallest object that its middle lies in; the patches of an object count 1 together."""
    objective, model, batch = batch_of(folder, **{"task__resize": "native", "data__packed": True})
    labels, boxes = np.asarray(batch["labels"]), np.array(batch["boxes"])
    objective = dataclasses.replace(objective, weights=DetectionLoss(patches=0.5))
    inner = (labels[..., 0] >= 0) & (labels[..., 1] >= 0)
    assert inner.any()
    boxes[inner, 1] = boxes[inner, 0] * [1, 1, 0.6, 0.6]  # one object inside another
    found = model.found(model.encoder(batch))
    sums = patch_sums(found, batch, jnp.asarray(labels), jnp.asarray(boxes), 0.3)
    log, said = np.asarray(jax.nn.log_softmax(found.logits)), np.asarray(found.boxes)
    chosen: dict[tuple[int, int, int], list[int]] = {}
    none = []
    for row in range(len(labels)):
        for token, (at, segment) in enumerate(
            zip(np.asarray(batch["cells"])[row], np.asarray(batch["segment_ids"])[row], strict=True)
        ):
            if segment == 0 or at[0] < 0:
                continue
            middle = ((at + 0.5) / np.asarray(batch["grids"])[row, token])[::-1]
            inside = []
            for number, (label, box) in enumerate(zip(labels[row, segment - 1], boxes[row, segment - 1], strict=True)):
                first, last = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
                if label >= 0 and (middle >= first).all() and (middle < last).all():
                    inside.append((box[2] * box[3], number))
            if inside:
                chosen.setdefault((row, segment - 1, min(inside)[1]), []).append(token)
            else:
                none.append((row, token))
    wanted = np.zeros(6)
    for row, token in none:
        wanted += [-0.3 * log[row, token, -1], 0.3, 0, 0, 0, 0]
    for (row, segment, number), tokens in chosen.items():
        label, box = labels[row, segment, number], boxes[row, segment, number]
        for token in tokens:
            own = said[row, token]
            overlap = float(generalized_overlap(corners(jnp.asarray(own)), corners(jnp.asarray(box))))
            right = log[row, token].argmax() == label
            each = [-log[row, token, label], 1, np.abs(own - box).sum(), 1 - overlap, 1, right]
            wanted += np.asarray(each, float) / len(tokens)
    np.testing.assert_allclose(np.asarray(sums), wanted, rtol=1e-4)
    assert len(chosen) == float(sums.objects) > len(labels)
    weights = dataclasses.replace(objective.weights, patches=0.0)
    context = LossContext(jax.random.key(0))
    plain = dataclasses.replace(objective, weights=weights).loss(model, batch, context)
    both = objective.loss(model, batch, context)
    own = patch_sums(found, batch, batch["labels"], batch["boxes"], objective.weights.no_object)
    difference = float(both.total - plain.total) / float(plain.weight)
    assert difference == pytest.approx(float(objective.weights.patches * total_loss(own, objective.weights)), rel=1e-4)


def test_detection_tokens_begin_at_places_spread_over_the_image() -> None:
    for count in (1, 4, 5, 16):
        places = np.asarray(_spread_places(PatchConfig(8, grid=(8, 6), detection_tokens=count)))
        assert places.shape == (count, 2) and len(np.unique(places, axis=0)) == count
        assert (places >= -0.5).all() and (places <= np.asarray([7.5, 5.5])).all()
    np.testing.assert_allclose(
        _spread_places(PatchConfig(8, grid=(8, 6), detection_tokens=4)), [[1.5, 1], [1.5, 4], [5.5, 1], [5.5, 4]]
    )


def test_perfect_predictions_have_the_least_loss() -> None:
    labels, boxes = jnp.asarray([1, 0, -1]), jnp.asarray([[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.1, 0.4], [0.0] * 4])
    logits = 50.0 * jax.nn.one_hot(jnp.asarray([2, 0, 2, 1]), 3)
    found = jnp.asarray([[0.5] * 4, boxes[1], [0.1] * 4, boxes[0]])

    def sums_of(found: jax.Array) -> ImageSums:
        given = (Found(logits[None, None], found[None, None]), labels[None, None], boxes[None, None])
        return ImageSums(*(values[0, 0] for values in batch_sums(*given, DetectionLoss())))

    sums = sums_of(found)
    assert float(total_loss(sums, DetectionLoss())) < 1e-4 and float(sums.right) == float(sums.objects) == 2
    worse = sums_of(found.at[3, 0].add(0.1))
    assert float(worse.boxes) == pytest.approx(0.1, abs=1e-5)


def test_without_pycocotools_the_loss_alone_is_scored(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(average_precision, "is_installed", lambda: False)
    report = train(tiny_boxes.detection_config(folder, train__steps=1), tmp_path / "run")
    assert "loss" in report["splits"]["test"] and "ap" not in report["splits"]["test"]
    assert "average precision needs pycocotools" in json.dumps(json.loads((tmp_path / "run/report.json").read_text()))


def test_what_is_refused(folder: pathlib.Path) -> None:
    assert "detr#125" in refusal(tiny_boxes.detection_config(folder, task__small_data=False))
    message = refusal(tiny_boxes.detection_config(folder, task__detection_tokens=1))
    assert "has 2 objects, but the model finds at most 1" in message and "image 1 (1.png)" in message
    assert "reads texts" in refusal(tiny_boxes.detection_config(folder, model__preset="bert_tiny"))
    message = refusal(tiny_boxes.detection_config(folder, data__source="images:x"))
    assert "quickstart, coco:DIR, coco:FILE.json, yolo:DIR" in message
    with pytest.raises(UserError, match=r"resize: .*'crop'"):
        tiny_boxes.detection_config(folder, task__resize="crop")
    with pytest.raises(UserError, match="mixup"):
        tiny_boxes.detection_config(folder, task__augment__mixup=0.5)


def test_packed_images_of_their_own_shapes(folder: pathlib.Path) -> None:
    changes = {"task__resize": "native", "data__packed": True, "task__augment__flip": True}
    objective, model, batch = batch_of(folder, **changes)
    assert objective.spec.segments > 1 and batch["boxes"].shape[1] == objective.spec.segments
    loss = objective.loss(model, batch, LossContext(jax.random.key(0)))
    images = (np.asarray(batch["labels"]) >= 0).any(axis=-1).sum()
    assert float(loss.weight) == images and np.isfinite(float(loss.total))
    single, _, rows = batch_of(folder)
    plain = dataclasses.replace(objective, augmentation=None)
    alone = plain.spec.outputs(model, batch)["boxes"]
    assert single.spec.segments == 1 and rows["labels"].shape[1] == 1 and alone.shape[1] == objective.spec.segments
