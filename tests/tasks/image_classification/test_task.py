"""A classifier of images from files to scores, predictions and exports, and what it refuses."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.objective import LossContext
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.models.heads import pool_images
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks.image_classification.task import ImageClassificationDefinition
from jaxfm.tasks.registry import create
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny
from tests.models.inputs.test_patches import SHAPE, batch_of, pictures

CLASSES = ("dark", "light")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    train(tiny.image_config(folder, eval__metric="accuracy", task__augment__flip=True), folder / "run")
    return folder / "run"


def refusal(config: Config) -> str:
    with pytest.raises(UserError) as caught:
        create(config, resolve(config.model))
    return str(caught.value)


def test_a_run_learns_and_leaves_a_sheet_of_its_errors(run: pathlib.Path) -> None:
    report = json.loads((run / "report.json").read_text())
    assert report["splits"]["test"]["accuracy"] > 0.9
    spec: Any = open_run(run).spec
    assert spec.labels == CLASSES and spec.layout.side == 8 and len(spec.layout.mean) == 1
    assert spec.row_length == 17 and spec.segments == 1
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert {line["gold"] for line in lines} == set(CLASSES)
    assert all(line["image"].endswith(".png") for line in lines)


def test_predictions_are_those_of_the_evaluation(run: pathlib.Path) -> None:
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    opened = open_run(run)
    predictor: Any = opened.predictor()
    images = [StoredImage(line["origin"], path=pathlib.Path(line["origin"])) for line in lines]
    encoded = predictor.encode([{"image": image} for image in images])
    assert not predictor.reads_texts and len(encoded.rows) == len(lines)
    logits = np.zeros((len(lines), 1, 2), np.float32)
    logits[:, 0, 0] = 1.0
    results = predictor.decode(encoded, {"outputs": logits})
    assert {result["label"] for result in results} == {"dark"}
    assert predictor.lines(results[0])[0] == lines[0]["origin"]


def test_an_export_has_the_logits_of_the_run(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    export(run, tmp_path / "hf")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    lines = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    spec: Any = open_run(run).spec
    pixels = np.stack([np.asarray(Image.open(line["origin"]).convert("L"), np.float32) for line in lines])
    scaled = (pixels[:, None] / 255 - spec.layout.mean[0]) / spec.layout.std[0]
    with torch.no_grad():
        logits = model(torch.tensor(scaled, dtype=torch.float32)).logits.numpy()
    assert [CLASSES[index] for index in logits.argmax(axis=-1)] == [line["predicted"] for line in lines]


def test_a_run_can_start_from_another(run: pathlib.Path, folder: pathlib.Path) -> None:
    config = tiny.image_config(folder, model__init=f"run:{run}", model__preset="")
    initial = resolve(config.model)
    assert initial.images is not None and initial.images.side == 8 and initial.tokenizer is None
    task, params = create(config, initial)
    assert {name.partition("/")[0] for name in params} == {"encoder", "head"}
    assert task.objective.spec.layout == initial.images  # type: ignore[attr-defined]


def test_mixed_labels_are_a_mean_of_losses(folder: pathlib.Path) -> None:
    """Losses are linear in the target: mixed ones are those of the two labels, by their shares."""
    config = tiny.image_config(folder, task__augment__mixup=1.0)
    task, _ = create(config, resolve(config.model))
    objective: Any = task.objective

    class Fixed:
        encoder = type("Encoder", (), {"embeddings": None})()

        def __call__(self, batch: Any, key: Any = None) -> jax.Array:
            return jnp.asarray([[[2.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 3.0]]])

    rows = task.datasets["train"].take(np.arange(4))
    labels = rows["labels"] = np.asarray([[0], [1], [1], [0]], np.int32)
    from jaxfm.tasks import image_batches
    from jaxfm.tasks.image_classification import objective as module

    share = jnp.asarray([0.3, 0.3, 0.9, 0.9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "augmented", lambda *_, **__: (rows, image_batches.Partner(share)))
        loss = objective.loss(Fixed(), rows, LossContext(jax.random.key(0)))
    log_probs = np.log(
        np.exp([[2, 0], [0, 1], [1, 1], [0, 3]]) / np.exp([[2, 0], [0, 1], [1, 1], [0, 3]]).sum(-1, keepdims=True)
    )
    own, other = labels[:, 0], labels[[1, 0, 3, 2], 0]
    wanted = [
        -(1 - part) * log_probs[row, own[row]] - part * log_probs[row, other[row]]
        for row, part in enumerate(np.asarray(share))
    ]
    np.testing.assert_allclose(loss.total, np.sum(wanted), rtol=1e-5)
    np.testing.assert_allclose(loss.weight, 4.0)


def test_pooling() -> None:
    config = dataclasses.replace(SHAPE, patches=dataclasses.replace(SHAPE.patches, registers=1))
    batch = batch_of([pictures((4, 4), (2, 6))], config, 14)
    x_BTD = jnp.asarray(np.random.default_rng(0).standard_normal((1, 14, 3)), jnp.float32)
    # Tokens 0 to 5: class token, register, four patches; 6 to 10 likewise with three.
    np.testing.assert_allclose(pool_images(x_BTD, batch, "cls", 3)[0], [x_BTD[0, 0], x_BTD[0, 6], np.zeros(3)])
    means = [x_BTD[0, 2:6].mean(axis=0), x_BTD[0, 8:11].mean(axis=0), np.zeros(3)]
    np.testing.assert_allclose(pool_images(x_BTD, batch, "mean", 3)[0], means, atol=1e-6)
    both = pool_images(x_BTD, batch, "cls_mean", 3)
    np.testing.assert_allclose(both[0, 1], np.concatenate([x_BTD[0, 6], means[1]]), atol=1e-6)


def test_what_is_refused(folder: pathlib.Path) -> None:
    config = tiny.image_config(folder)
    assert "task.patch_size=3: does not divide" in refusal(tiny.image_config(folder, task__patch_size=3))
    assert "reads texts, and this task reads images" in refusal(tiny.image_config(folder, model__preset="bert_tiny"))
    assert "fewer than 16" in refusal(tiny.image_config(folder, task__patch_size=4))
    assert "Take auto, or at least 17" in refusal(tiny.image_config(folder, data__row_length=16))
    initial = resolve(config.model)
    bare = dataclasses.replace(preset("vit_nano"), patches=dataclasses.replace(
        preset("vit_nano").patches, class_token=False, pooling="mean"))  # fmt: skip
    with pytest.raises(UserError, match=r"pooling: is 'cls', but this encoder has no class token"):
        asked = tiny.image_config(folder, task__pooling="cls")
        ImageClassificationDefinition().create(asked, dataclasses.replace(initial, encoder=bare))
    weights = tiny.image_config(folder, model__init="dir:weights", model__preset="", task__patch_size=4)
    with pytest.raises(UserError, match=r"task.patch_size: is 4, but the weights have 2"):
        ImageClassificationDefinition().create(weights, initial)


def test_rows_of_several_images(folder: pathlib.Path) -> None:
    config = tiny.image_config(folder, data__packed=True, task__resize="native", data__row_length=60)
    task, _ = create(config, resolve(config.model))
    spec: Any = task.objective.spec
    assert spec.segments == 3 and task.datasets["train"].spec["labels"].shape == (3,)
    rows = task.datasets["train"].take(np.arange(2))
    assert rows["segment_ids"].max() == 3 and (rows["labels"] >= 0).sum() == 6


def test_a_check_names_copies_and_broken_files(tmp_path: pathlib.Path) -> None:
    config = tiny.image_config(tmp_path)
    folder = tmp_path / "images"
    (folder / "test" / "dark" / "copy.png").write_bytes((folder / "train" / "dark" / "0.png").read_bytes())
    (folder / "train" / "dark" / "broken.png").write_bytes(b"\x89PNG")
    found = {each.check: each for each in ImageClassificationDefinition().check(config, resolve(config.model)).findings}
    assert found["broken images"].level == "error" and "broken.png" in found["broken images"].examples[0]
    assert found["copies"].level == "warning" and "copy.png" in found["copies"].examples[0]
    assert found["balance"].level == "ok" and found["sizes"].level == "ok"
