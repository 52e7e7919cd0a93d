"""What the last layer attends to, beside transformers and image by image."""

import dataclasses
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.attention_maps import last_attention
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes
from tests.models.inputs.test_patches import SHAPE, batch_of, model, pictures


@pytest.mark.parametrize(
    ("positions", "class_token"),
    [
        ("rope", True),
        ("learned", False),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("learned", True), ("rope", False))),
    ],
)
def test_images_of_a_row_are_as_alone(positions: str, class_token: bool) -> None:
    patches = dataclasses.replace(SHAPE.patches, class_token=class_token, registers=0, pooling="mean")
    config = dataclasses.replace(SHAPE, patches=patches, position_embedding=positions)
    encoder, images = model(config), pictures((6, 8), (4, 6))
    together = last_attention(encoder, batch_of([images], config, 24))[0]
    start = 0
    for image in images:
        count = patches.prefix + image.shape[0] * image.shape[1] // 4
        alone = last_attention(encoder, batch_of([[image]], config, count))[0]
        np.testing.assert_allclose(together[start : start + count], alone, atol=1e-6)
        np.testing.assert_allclose(alone.sum(), 1.0, rtol=1e-5)
        start += count


def test_weights_are_those_of_transformers(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=8,
            patch_size=2, attn_implementation="eager", initializer_range=0.5,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    (image,) = pictures((8, 8))
    with torch.no_grad():
        scaled = torch.tensor(((image / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None], dtype=torch.float32)
        wanted = theirs(scaled, output_attentions=True).attentions[-1][0, :, 0].mean(0).numpy()
    graphdef, _ = meshes.build_abstract(
        lambda: Encoder(checkpoint.encoder, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    params = flax.traverse_util.unflatten_dict(checkpoint.arrays(), sep="/")["encoder"]
    encoder = nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))
    found = last_attention(encoder, batch_of([[image]], checkpoint.encoder, 17))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
