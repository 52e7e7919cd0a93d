"""transformers and torch as the oracle: families of images give the same numbers, and files go both ways."""

# B batch, T tokens, C classes

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
from jaxfm.hub.image_models import write_image_model
from jaxfm.hub.image_processors import read_image_processor, write_image_processor
from jaxfm.hub.weights import Checkpoint, read_checkpoint, write_tensors
from jaxfm.models.encoder import Encoder
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.models.inputs.patches import PatchInputs
from jaxfm.parallel import mesh as meshes

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

LABELS = ("a", "b", "c")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16, "patch_size": 4}
# As published configs differ: layer norms' epsilon, the feed-forward part by its width or by a ratio, registers.
OWN: dict[str, dict[str, Any]] = {
    "vit": {"intermediate_size": 48, "layer_norm_eps": 1e-4},
    "deit": {"intermediate_size": 48},
    "dinov2": {"mlp_ratio": 2, "layerscale_value": 0.5},
    "dinov2_with_registers": {"mlp_ratio": 2, "num_register_tokens": 3},
}
CLASSES = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
}


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)


def rows_of(pixels: np.ndarray, prefix: int) -> dict[str, jax.Array]:
    stored = [StoredImage(f"image {index}", array=each) for index, each in enumerate(pixels)]
    rows = build_image_rows(stored, rule="squash", side=16, patch=4, channels=3, prefix=prefix)
    return {name: jnp.asarray(values) for name, values in rows.take(np.arange(len(rows))).items()}


def ours(checkpoint: Checkpoint, pixels: np.ndarray, layout: ImageLayout) -> np.ndarray:
    """Logits [B, C] of the model that a checkpoint fills."""
    encoder = checkpoint.encoder

    def make() -> ImageClassifier:
        rngs = nnx.Rngs(0)
        inputs = PatchInputs(encoder, DEFAULT_BUILD.dtype, rngs, mean=layout.mean, std=layout.std)
        return ImageClassifier(
            encoder, len(LABELS), DEFAULT_BUILD, rngs, pooling=encoder.patches.pooling, segments=1, inputs=inputs
        )

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = flax.traverse_util.unflatten_dict(checkpoint.arrays(), sep="/")
    model = nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))
    return np.asarray(model(rows_of(pixels, encoder.patches.prefix)))[:, 0]


def saved(model_type: str, folder: pathlib.Path) -> Any:
    """A model of transformers with weights that matter, saved."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    config = transformers.AutoConfig.for_model(model_type, **SIZES, **OWN[model_type], **names)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[model_type])(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("model_type", OWN)
def test_logits_and_files(model_type: str, tmp_path: pathlib.Path) -> None:
    model = saved(model_type, tmp_path / "theirs")
    pixels, layout = images(), ImageLayout(16, "squash", 0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    checkpoint = read_checkpoint(tmp_path / "theirs")
    assert checkpoint.heads == ("image_classes",) and checkpoint.labels == LABELS
    scaled = (pixels / 255 - np.asarray(layout.mean)) / np.asarray(layout.std)
    with torch.no_grad():
        theirs = model(torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)).logits.numpy()
    np.testing.assert_allclose(ours(checkpoint, pixels, layout), theirs, atol=2e-5, rtol=1e-5)

    (tmp_path / "ours").mkdir()
    write_tensors(tmp_path / "ours" / "model.safetensors", checkpoint.encoder, "image_classes", checkpoint.arrays())
    first, second = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


@pytest.mark.parametrize("model_type", OWN)
def test_an_export_opens_and_agrees(model_type: str, tmp_path: pathlib.Path) -> None:
    saved(model_type, tmp_path / "theirs")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    layout = ImageLayout(16, "squash", 0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    folder = tmp_path / "ours"
    folder.mkdir()
    write_image_model(
        folder, checkpoint.encoder, head="image_classes", params=checkpoint.arrays(), layout=layout, labels=LABELS
    )
    write_image_processor(folder, layout)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    assert tuple(model.config.id2label.values()) == LABELS
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    pixels = images()
    with torch.no_grad():
        theirs = model(**processor(list(pixels), return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(ours(checkpoint, pixels, layout), theirs, atol=2e-5, rtol=1e-5)
    assert read_image_processor(folder) == layout


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_an_image_tower_has_the_hidden_states_of_transformers(
    model_type: str, pair: bool, tmp_path: pathlib.Path
) -> None:
    own = {**SIZES, "intermediate_size": 48}
    text = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    if pair:
        config = transformers.AutoConfig.for_model(
            model_type, vision_config=own, text_config={**text, "intermediate_size": 16}
        )
        model = transformers.AutoModel.from_config(config).eval()
    else:
        config = transformers.AutoConfig.for_model(f"{model_type}_vision_model", **own)
        model = {"clip": transformers.CLIPVisionModel, "siglip": transformers.SiglipVisionModel}[model_type](config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    encoder = checkpoint.encoder
    pixels = images()
    scaled = torch.tensor(((pixels / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2), dtype=torch.float32)
    tower = (model.vision_model if pair else model).eval()
    with torch.no_grad():
        found = tower(pixel_values=scaled)
    # CLIP normalises the class token alone, here all tokens are.
    theirs = found.pooler_output[:, None] if model_type == "clip" else found.last_hidden_state
    graphdef, _ = meshes.build_abstract(
        lambda: Encoder(encoder, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    params = flax.traverse_util.unflatten_dict(checkpoint.arrays(), sep="/")["encoder"]
    state = nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params))
    hidden = nnx.merge(graphdef, state)(rows_of(pixels, encoder.patches.prefix))
    np.testing.assert_allclose(hidden[:, : theirs.shape[1]], theirs.numpy(), atol=3e-5, rtol=1e-5)


def test_weights_of_masked_pretraining_are_those_of_a_vit(tmp_path: pathlib.Path) -> None:
    decoder = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTMAEConfig(
        **SIZES, intermediate_size=48, **{f"decoder_{name}": value for name, value in decoder.items()}
    )
    torch.manual_seed(0)
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.encoder.family == "vit" and checkpoint.heads == ()
    assert any("decoder" in note for note in checkpoint.notes)
