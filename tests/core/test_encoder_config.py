import dataclasses

import jax
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import preset, presets
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes
from jaxfm.training.state import count_parameters

# Parameters of the encoder without its pooler, from the sizes alone (D width, L layers, F = 4 D, V vocabulary):
# embeddings (V + 512 + 2) D + 2 D; a layer 4 (D^2 + D) + 2 D F + F + D + 4 D. The modern ones without biases, positions
# and types: V D + D; a layer 4 D^2 + 3 D F + 2 D (149 and 395 million in the paper).
MILLIONS = {
    "bert_tiny": 4.37, "bert_mini": 11.10, "bert_small": 28.50, "bert_base": 108.89, "bert_large": 334.09,
    "modern_tiny": 10.61, "modern_base": 149.01, "modern_large": 394.78, "xlmr_xl": 3475.93,
}  # fmt: skip


@pytest.mark.parametrize("name", presets())
def test_parameters_of_a_preset(name: str) -> None:
    config = preset(name)
    _, abstract = meshes.build_abstract(lambda: Encoder(config, nnx.Rngs(0)), meshes.make_mesh(MeshConfig()))
    assert round(count_parameters(abstract, config) / 1e6, 2) == MILLIONS[name]
    # What pads the vocabulary to a multiple of 128 is no parameter: nothing depends on it.
    assert config.padded_vocab_size % 128 == 0 <= config.padded_vocab_size - config.vocab_size < 128
    padding = (config.padded_vocab_size - config.vocab_size) * config.hidden_size
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) - count_parameters(abstract, config) == padding
    assert config.head_dim == (80 if name == "xlmr_xl" else 64)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"config\.model\.preset: 'bert_bse' .*Did you mean 'bert_base'\?"):
        preset("bert_bse")


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(AssertionError, match="multiple of num_heads"):
        dataclasses.replace(EncoderConfig(), num_heads=7)
