"""How wide fresh kernels are."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.families.registry import preset
from jaxfm.families.vit import image_encoder
from jaxfm.models.encoder import Encoder
from jaxfm.models.initializers import kernel_init
from jaxfm.models.inputs.patches import PatchInputs, sine_positions
from jaxfm.parallel.mesh import initialise

# A normal distribution cut at two deviations has this share of its deviation.
CUT = 0.8796
SHAPE = (300, 200)


def drawn(config: EncoderConfig, **more: bool) -> np.ndarray:
    return np.asarray(kernel_init(config, *SHAPE, **more)(jax.random.key(0), SHAPE, np.float32))


def test_normal_kernels_are_narrower_where_they_write_to_the_residual_stream() -> None:
    config = EncoderConfig(initializer_range=0.05, num_layers=8)
    assert drawn(config).std() == pytest.approx(0.05 * CUT, rel=0.01)
    assert drawn(config, residual=True).std() == pytest.approx(0.05 * CUT / 4, rel=0.01)


def test_xavier_kernels_go_by_their_inputs_and_outputs() -> None:
    config = EncoderConfig(initializer="xavier", num_layers=8)
    found = drawn(config)
    assert found.std() == pytest.approx(math.sqrt(2 / sum(SHAPE)), rel=0.01)
    assert np.abs(found).max() <= math.sqrt(6 / sum(SHAPE)) and abs(found.mean()) < 1e-3
    np.testing.assert_array_equal(drawn(config, residual=True), found)


@pytest.mark.parametrize("initializer", ["normal", "xavier"])
def test_every_kernel_of_an_encoder_of_images_is_drawn_so(initializer: str) -> None:
    config = image_encoder(
        family="vit", patches=PatchConfig(4, grid=(2, 2)), num_layers=2, hidden_size=64, num_heads=4, ffn_size=256
    )
    config = dataclasses.replace(config, initializer=initializer)

    def make() -> nnx.Module:
        rngs = nnx.Rngs(0)
        return Encoder(config, DEFAULT_BUILD, rngs, PatchInputs(config, DEFAULT_BUILD.dtype, rngs))

    params = jax.jit(lambda: initialise(make))()
    attention, ffn = params["layers"]["attention"], params["layers"]["ffn"]
    found = {
        "patches": params["embeddings"]["kernel"],
        "query": attention["query"]["kernel"],
        "output": attention["output"]["kernel"],
        "up": ffn["up"]["kernel"],
        "down": ffn["down"]["kernel"],
    }
    if initializer == "normal":
        wanted = dict.fromkeys(found, 0.02 * CUT) | dict.fromkeys(("output", "down"), 0.02 * CUT / 2)
    else:
        sizes = {"patches": 48 + 64, "query": 128, "output": 128, "up": 320, "down": 320}
        wanted = {name: math.sqrt(2 / size) for name, size in sizes.items()}
    for name, kernel in found.items():
        assert np.std(kernel) == pytest.approx(wanted[name], rel=0.04), name
    table = params["embeddings"]["position"]["embedding"]
    if initializer == "normal":
        assert np.std(table) == pytest.approx(0.02 * CUT, rel=0.2)
    else:  # zero for the class token, then the waves of each place
        cells = jnp.asarray([[[0, 0], [0, 1], [1, 0], [1, 1]]])
        np.testing.assert_array_equal(table, np.concatenate([np.zeros((1, 64)), sine_positions(cells, 64)[0]]))


def test_encoders_of_images_from_scratch_are_drawn_as_their_papers_say() -> None:
    assert {preset(name).initializer for name in ("vit_nano", "vit_cifar", "vit_base")} == {"xavier"}
    assert preset("bert_base").initializer == preset("dinov2_small").initializer == "normal"
