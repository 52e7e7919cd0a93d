"""A model of hidden patches from files to scores, pictures and an encoder for others."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.core.objective import LossContext
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.models.masked_images import hidden_patches
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks.masked_images.pictures import reconstruction
from jaxfm.tasks.registry import create
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    train(tiny.image_config(folder, "masked_images", task__ratio=0.5), folder / "run")
    return folder / "run"


def test_a_run_learns_and_draws_what_it_predicts(run: pathlib.Path) -> None:
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in metrics if line["split"] == "valid"]
    assert losses[-1] < losses[0]
    assert (run / "plots" / "test_reconstructions.png").stat().st_size > 10_000
    spec: Any = open_run(run).spec
    assert spec.visible == 1 + 8 and spec.row_length == 17 and spec.decoder_size == 32


def test_the_loss_is_that_of_hidden_patches(folder: pathlib.Path) -> None:
    for normalized in (True, False):
        config = tiny.image_config(folder, "masked_images", task__ratio=0.5, task__normalize_target=normalized)
        task, _ = create(config, resolve(config.model))
        objective: Any = task.objective
        batch = task.datasets["valid"].take(np.arange(3))
        layout = objective.spec.layout

        class Zero:
            class encoder:  # noqa: N801
                class embeddings:  # noqa: N801
                    @staticmethod
                    def normalize(pixels: Any, layout: Any = layout) -> Any:
                        return (pixels / 255.0 - layout.mean[0]) / layout.std[0]

                    @staticmethod
                    def denormalize(values: Any) -> Any:
                        return values.astype(np.uint8)

            def __call__(self, batch: Any, hidden: Any, key: Any = None) -> Any:
                return np.zeros(batch["pixels"].shape, np.float32)

        found = objective.outputs(Zero(), batch)
        hidden = np.asarray(hidden_patches(batch, batch["noise"], 0.5))
        target = (batch["pixels"] / 255.0 - layout.mean[0]) / layout.std[0]
        if normalized:
            target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        wanted = ((target**2).mean(-1) * hidden).sum(-1)
        np.testing.assert_allclose(found["error"][:, 0], wanted, rtol=2e-5)
        np.testing.assert_array_equal(found["hidden_patches"][:, 0], hidden.sum(-1))
        loss = objective.loss(Zero(), batch, LossContext(jax.random.key(0)))
        assert int(loss.weight) == 3 * 8


@pytest.mark.parametrize("method", ["mae", "simmim"])
def test_rows_of_several_images_have_the_loss_of_each(folder: pathlib.Path, method: str) -> None:
    config = tiny.image_config(
        folder, "masked_images", data__packed=True, data__row_length=60, task__resize="native", task__method=method,
        task__ratio=0.5,
    )  # fmt: skip
    task, _ = create(config, resolve(config.model))
    spec: Any = task.objective.spec
    assert spec.segments == 3 and spec.visible == (60 if method == "simmim" else 3 + 57 - (28 - 2))
    assert task.datasets["valid"].spec["noise"].shape == (60,)


def test_hidden_patches_are_the_same_in_every_evaluation(folder: pathlib.Path) -> None:
    config = tiny.image_config(folder, "masked_images")
    noise = [create(config, resolve(config.model))[0].datasets["valid"].take(np.arange(4))["noise"] for _ in range(2)]
    np.testing.assert_array_equal(*noise)
    assert len(np.unique(noise[0])) == noise[0].size


def test_a_reconstruction_keeps_what_was_seen(run: pathlib.Path, folder: pathlib.Path) -> None:
    predictor: Any = open_run(run).predictor()
    path = next((folder / "images" / "test").rglob("*.png"))
    encoded = predictor.encode([{"image": StoredImage(str(path), path=path)}])
    rows = encoded.rows
    batch = rows.take(np.arange(1))
    hidden = np.asarray(hidden_patches(batch, batch["noise"], 0.5))
    outputs = {
        "predicted": np.full((1, *batch["pixels"].shape[1:]), 7, np.uint8),
        "hidden": hidden,
        "error": np.asarray([[4.0]]),
        "hidden_patches": np.asarray([[8]]),
    }
    found = reconstruction(rows, outputs, 0)
    image = rows.image(0)
    np.testing.assert_array_equal(found["image"], image)
    replaced = (found["predicted"] != image).any(axis=-1)
    assert 0 < replaced.sum() <= 8 * 4 and (found["predicted"][replaced] == 7).all()
    assert (found["seen"][~replaced] == image[~replaced]).mean() > 0.9
    (result,) = predictor.decode(encoded, outputs)
    assert result == {"image": str(path), "loss": 0.5, "hidden": 8}
    assert predictor.lines(result)[1].strip() == "mean squared error 0.500 of 8 hidden patches"


def test_the_encoder_goes_on_as_a_classifier(run: pathlib.Path, folder: pathlib.Path) -> None:
    config = tiny.image_config(folder, model__init=f"run:{run}", model__preset="")
    task, params = create(config, resolve(config.model))
    assert {name.partition("/")[0] for name in params} == {"encoder"}
    assert any("weights not used" in note for note in task.notes)


def test_the_encoder_is_exported(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    export(run, tmp_path / "hf")
    values = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert values["architectures"] == ["ViTModel"] and values["image_size"] == 8 and values["num_channels"] == 1
    processor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 8, "width": 8}


def test_what_is_refused(folder: pathlib.Path) -> None:
    for change, words in (
        ({"task__augment__mixup": 0.5}, "mixes labels, and this task has none"),
        ({"task__decoder_size": 30}, "take 28"),
        ({"model__preset": "bert_tiny"}, "reads images"),
    ):
        config = tiny.image_config(folder, "masked_images", **change)
        with pytest.raises(UserError, match=words):
            create(config, resolve(config.model))
