"""transformers and torch as the oracle of detectors: classes, boxes, the loss, and files both ways."""

import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.initial import ImageLayout
from jaxfm.data.images.rows import build_image_rows
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.hub.image_models import write_image_model
from jaxfm.hub.image_processors import read_image_processor, write_detection_processor
from jaxfm.hub.weights import Checkpoint, read_checkpoint, write_tensors
from jaxfm.models.detector import Detector, Found
from jaxfm.models.inputs.patches import PatchInputs
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.detection.objective import DetectionLoss, ImageSums, batch_sums, total_loss

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

LABELS = ("a", "b", "c")
LAYOUT = ImageLayout(16, "squash", 0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, pathlib.Path]:
    """A tiny YOLOS with weights that matter, and the folder that it is saved in."""
    folder = tmp_path_factory.mktemp("theirs")
    config = transformers.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=[16, 16],
        patch_size=4, num_detection_tokens=5, use_mid_position_embeddings=False, layer_norm_eps=1e-4,
        id2label=dict(enumerate(LABELS)), label2id={name: index for index, name in enumerate(LABELS)},
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.YolosForObjectDetection(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(folder)
    return model, folder


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


def scaled(pixels: np.ndarray) -> Any:
    values = (pixels / 255 - np.asarray(LAYOUT.mean)) / np.asarray(LAYOUT.std)
    return torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32)


def ours(checkpoint: Checkpoint, pixels: np.ndarray, *, packed: bool = False) -> Found:
    """What the model that a checkpoint fills says of images, [E, 1, ...], or of all of them in one row."""
    encoder, prefix = checkpoint.encoder, checkpoint.encoder.patches.prefix
    stored = [StoredImage(f"image {index}", array=each) for index, each in enumerate(pixels)]
    length = len(pixels) * (prefix + 16) if packed else 0
    rows = build_image_rows(
        stored, rule="squash", side=16, patch=4, channels=3, prefix=prefix, row_length=length, packed=packed
    )
    batch = {name: jnp.asarray(values) for name, values in rows.take(np.arange(len(rows))).items()}

    def make() -> Detector:
        rngs = nnx.Rngs(0)
        inputs = PatchInputs(encoder, DEFAULT_BUILD.dtype, rngs, mean=LAYOUT.mean, std=LAYOUT.std)
        segments = len(pixels) if packed else 1
        return Detector(encoder, len(LABELS), DEFAULT_BUILD, rngs, segments=segments, inputs=inputs)

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = flax.traverse_util.unflatten_dict(checkpoint.arrays(), sep="/")
    model = nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))
    found = model(batch)
    row, segment = rows.example_locations.T
    return Found(found.logits[row, segment], found.boxes[row, segment])


@pytest.mark.parametrize("packed", [False, True])
def test_classes_and_boxes(theirs: tuple[Any, pathlib.Path], packed: bool) -> None:
    """Several images in a row say what each says in its own."""
    model, folder = theirs
    checkpoint = read_checkpoint(folder)
    assert checkpoint.heads == ("objects",) and checkpoint.labels == LABELS
    found = ours(checkpoint, images(), packed=packed)
    with torch.no_grad():
        wanted = model(scaled(images()))
    np.testing.assert_allclose(found.logits, wanted.logits.numpy(), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted.pred_boxes.numpy(), atol=2e-6, rtol=1e-5)


def test_files_go_both_ways(theirs: tuple[Any, pathlib.Path], tmp_path: pathlib.Path) -> None:
    _, folder = theirs
    checkpoint = read_checkpoint(folder)
    write_tensors(tmp_path / "model.safetensors", checkpoint.encoder, "objects", checkpoint.arrays())
    first, second = (safetensors.numpy.load_file(each / "model.safetensors") for each in (folder, tmp_path))
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


def test_an_export_opens_and_agrees(theirs: tuple[Any, pathlib.Path], tmp_path: pathlib.Path) -> None:
    checkpoint = read_checkpoint(theirs[1])
    write_image_model(
        tmp_path, checkpoint.encoder, head="objects", params=checkpoint.arrays(), layout=LAYOUT, labels=LABELS
    )
    write_detection_processor(tmp_path, LAYOUT)
    model = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path).eval()
    assert tuple(model.config.id2label.values()) == LABELS
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted = model(pixel_values=processor(list(images()), return_tensors="pt")["pixel_values"])
    found = ours(checkpoint, images())
    np.testing.assert_allclose(found.logits, wanted.logits.numpy(), atol=2e-5, rtol=1e-5)
    assert read_image_processor(tmp_path) == LAYOUT


def test_the_loss_is_that_of_transformers(theirs: tuple[Any, pathlib.Path]) -> None:
    model, folder = theirs
    draw = np.random.default_rng(1)
    counts, most = (3, 0, 5), 5  # objects of each image, one of which has none
    labels = np.full((3, most), -1, np.int32)
    boxes = np.zeros((3, most, 4), np.float32)
    for image, count in enumerate(counts):
        labels[image, :count] = draw.integers(0, len(LABELS), count)
        boxes[image, :count] = draw.uniform(0.2, 0.5, (count, 4))
    given = [
        {"class_labels": torch.tensor(labels[at, :count], dtype=torch.int64), "boxes": torch.tensor(boxes[at, :count])}
        for at, count in enumerate(counts)
    ]
    with torch.no_grad():
        wanted = model(scaled(images()), labels=given)
    found, weights = ours(read_checkpoint(folder), images()), DetectionLoss()
    given_rows = Found(*(values[:, None] for values in found))
    each = batch_sums(given_rows, jnp.asarray(labels)[:, None], jnp.asarray(boxes)[:, None], weights)
    sums = ImageSums(*(values.sum() for values in each))
    parts = {name: float(value) for name, value in wanted.loss_dict.items()}
    np.testing.assert_allclose(sums.classes / sums.class_weight, parts["loss_ce"], rtol=1e-5)
    np.testing.assert_allclose(sums.boxes / sums.objects, parts["loss_bbox"], rtol=1e-5)
    np.testing.assert_allclose(sums.overlap / sums.objects, parts["loss_giou"], rtol=1e-5)
    np.testing.assert_allclose(total_loss(sums, weights), float(wanted.loss), rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_mid_position_embeddings", True, "adds positions before the first layer alone"),
        ("image_size", [16, "x"], r"image_size is \[16, \"x\"\]; it must be \[height, width\]"),
        ("image_size", [2, 16], "must be at least patch_size, 4"),
        ("qkv_bias", False, "computes True"),
    ],
)
def test_what_is_not_computed_is_refused(
    theirs: tuple[Any, pathlib.Path], tmp_path: pathlib.Path, key: str, value: Any, message: str
) -> None:
    values = json.loads((theirs[1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path)


def test_images_need_not_be_squares(tmp_path: pathlib.Path) -> None:
    """The published table has 50 x 83 entries; of the size that it was made for, an image reads its own."""
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[8, 16],
        patch_size=4, num_detection_tokens=2, use_mid_position_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.YolosForObjectDetection(config).save_pretrained(tmp_path)
    patches = read_checkpoint(tmp_path).encoder.patches
    assert patches.grid == (2, 4) and patches.detection_tokens == 2 and patches.prefix == 3
