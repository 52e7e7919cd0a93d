import dataclasses

import jax
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.families import registry
from jaxfm.families.registry import FAMILIES, preset, presets
from jaxfm.hub.config_json import hf_config
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes
from jaxfm.training.state import count_parameters
from tests.families import toy

# Parameters of the encoder without its pooler, from the sizes alone (D width, L layers, F = 4 D, V vocabulary):
# embeddings (V + 512 + 2) D + 2 D; a layer 4 (D^2 + D) + 2 D F + F + D + 4 D. The modern ones without biases, positions
# and types: V D + D; a layer 4 D^2 + 3 D F + 2 D (149 and 395 million in the paper). Of DeBERTa v3, ESM-2 and EuroBERT
# likewise, with 512 D + 2 D of the table of distances, a norm more before the first layer, narrower keys; of ALBERT one
# layer and embeddings of 128. Published: 184 M (deberta-v3-base), 212 M, 608 M (EuroBERT), 12 M (albert-base with its
# heads), 308 M (EmbeddingGemma with two dense layers), 650 M (ESM-2).
MILLIONS = {
    "bert_tiny": 4.37, "bert_mini": 11.10, "bert_small": 28.50, "bert_base": 108.89, "bert_large": 334.09,
    "modern_tiny": 10.61, "modern_base": 149.01, "modern_large": 394.78, "xlmr_xl": 3475.93,
    "distilbert_base": 66.36, "mpnet_base": 108.90, "albert_base": 11.09, "albert_large": 16.63, "albert_xlarge": 54.53,
    "albert_xxlarge": 205.81, "deberta_v3_xsmall": 70.68, "deberta_v3_small": 141.30, "deberta_v3_base": 183.83,
    "deberta_v3_large": 434.01, "mdeberta_v3_base": 278.22, "eurobert_210m": 211.77, "eurobert_610m": 607.87,
    "eurobert_2b": 2107.59, "esm2_8m": 7.41, "esm2_35m": 33.27, "esm2_150m": 147.73, "esm2_650m": 649.40,
    "esm2_3b": 2832.44, "embedding_gemma": 302.86, "neobert": 221.67,
    # Of images: P^2 C D + D for the patches, a row for each position, tokens before them. Published: 5.7 M (DeiT-Ti),
    # 86 M (ViT-B, both with their heads), 87 M (DINOv2-B), 0.4 B (SigLIP So400m).
    "yolos_nano": 0.83, "yolos_tiny": 6.32,
    "vit_nano": 0.20, "vit_mini": 1.20, "vit_cifar": 3.59, "vit_tiny": 5.52, "vit_small": 21.67, "vit_base": 85.80,
    "vit_large": 303.30, "deit_tiny": 5.52, "deit_small": 21.67, "deit_base": 85.80, "dinov2_small": 22.06,
    "dinov2_base": 86.58, "dinov2_large": 304.37, "dinov2_small_with_registers": 22.06,
    "dinov2_base_with_registers": 86.58, "dinov2_large_with_registers": 304.37, "clip_vit_b32": 87.46,
    "clip_vit_b16": 85.80, "clip_vit_l14": 303.18, "siglip_b16": 85.80, "siglip_so400m": 412.99,
    # Text towers: V D + P D, a layer 12 D^2 + 13 D, a norm of 2 D at the end. Published: 63 M (CLIP ViT-B,
    # without the projection).
    "clip_text_b": 63.17, "clip_text_l": 123.06, "siglip_text_b": 109.68,
    # Sound: as ViT with two tokens and a position for each place of a patch. Published: 87 M (AST, with 527 classes).
    "ast_nano": 0.21, "ast_tiny": 5.41, "ast_strips_nano": 0.48, "ast_strips_small": 21.62, "ast_base": 86.19,
}  # fmt: skip


@pytest.mark.parametrize("name", presets())
def test_parameters_of_a_preset(name: str) -> None:
    config = preset(name)
    _, abstract = meshes.build_abstract(
        lambda: Encoder(config, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    assert round(count_parameters(abstract, config) / 1e6, 2) == MILLIONS[name]
    # What pads the vocabulary to a multiple of 128 is no parameter: nothing depends on it.
    assert config.padded_vocab_size % 128 == 0 <= config.padded_vocab_size - config.vocab_size < 128
    padding = (config.padded_vocab_size - config.vocab_size) * config.embedding_width
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) - count_parameters(abstract, config) == padding
    assert config.head_dim in (16, 24, 32, 64, 72, 80, 128, 256)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"config\.model\.preset: 'bert_bse' .*Did you mean 'bert_base'\?"):
        preset("bert_bse")


def test_a_preset_belongs_to_its_family() -> None:
    for name, family in FAMILIES.items():
        assert family.name == name and {shape.family for shape in family.presets.values()} <= {name}


@pytest.mark.parametrize("name", ["xlm-roberta-xl", ""])
def test_a_shape_without_tables_is_not_written(name: str) -> None:
    encoder = dataclasses.replace(preset("xlmr_xl"), family=name)
    with pytest.raises(UserError) as caught:
        hf_config(encoder, head="vocabulary", pad_token_id=1, labels=())
    assert str(caught.value).startswith(f"an encoder of family {name!r} cannot be written for transformers")
    assert ", ".join(FAMILIES) in str(caught.value)


def test_a_head_that_the_family_lacks_is_not_written() -> None:
    for head in ("replaced_tokens", "pooler"):
        with pytest.raises(UserError, match=f"no class with a head of {head} over a modernbert encoder, only "):
            hf_config(preset("modern_tiny"), head=head, pad_token_id=0, labels=())


def test_which_family_detects_replaced_tokens() -> None:
    own = {name: registry.discriminator_family(name) for name in (*FAMILIES, "xlm-roberta-xl", "")}
    assert {name: found for name, found in own.items() if found} == {"bert": "electra", "electra": "electra"}
    assert registry.classes_with("replaced_tokens") == ["ElectraForPreTraining"]


def test_a_family_is_registered_once() -> None:
    with toy.registered() as family:
        assert registry.family("toy") is family and "toy_tiny" in presets()
        for again in (family, dataclasses.replace(family, name="other")):
            with pytest.raises(AssertionError, match="already registered"):
                registry.register(again)
    assert "toy" not in FAMILIES and "toy_tiny" not in presets()
