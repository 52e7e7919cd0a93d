"""Vision transformer (Dosovitskiy et al. 2021), and what families of images share with it."""

import functools
from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.families.config_values import IMAGE_SIZES, ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family, Head
from jaxfm.families.tensors import CLASSIFIER, Tensor, linear, norm

PATCHES: dict[str, Tensor] = {
    "embeddings/kernel": Tensor("embeddings.patch_embeddings.projection.weight", conv=True),
    "embeddings/bias": Tensor("embeddings.patch_embeddings.projection.bias"),
    "embeddings/class_token": Tensor("embeddings.cls_token", ones=1),
    "embeddings/position/embedding": Tensor("embeddings.position_embeddings", ones=1),
}
_LAYERS: dict[str, Tensor] = {
    **norm("common/first_norm", "encoder.layer.0.layernorm_before"),
    **linear("layers/attention/query", "encoder.layer.{}.attention.attention.query"),
    **linear("layers/attention/key", "encoder.layer.{}.attention.attention.key"),
    **linear("layers/attention/value", "encoder.layer.{}.attention.attention.value"),
    **linear("layers/attention/output", "encoder.layer.{}.attention.output.dense", inputs=2),
    **linear("layers/ffn/up", "encoder.layer.{}.intermediate.dense"),
    **linear("layers/ffn/down", "encoder.layer.{}.output.dense"),
    **norm("layers/ffn_norm", "encoder.layer.{}.layernorm_after"),
    **norm("layers/next_norm", "encoder.layer.{}.layernorm_before", last="layernorm"),
}
MASK_TOKEN = {"embeddings/mask_token": Tensor("embeddings.mask_token", ones=1)}
ENCODER = {**PATCHES, **MASK_TOKEN, **_LAYERS}
IMAGE_CLASSES = Head("ForImageClassification", CLASSIFIER)


def read_patches(values: ConfigValues, **own: Any) -> PatchConfig:
    """Reads sizes and channels; `own` are the fields of PatchConfig that the family decides."""
    size, image = values.side("patch_size", "patch_size", 16), values.side("image_size", "image_size", 224)
    if image < size:
        raise values.error("image_size", f"it must be at least patch_size, {size}.")
    return PatchConfig(
        size=size,
        channels=values.integer("channels", "num_channels", 3),
        grid=(image // size, image // size),
        **own,
    )


def written_patches(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the values that `read_patches` reads."""
    patches = encoder.patches
    height, width = (side * patches.size for side in patches.grid)
    return {
        "image_size": height if height == width else [height, width],
        "patch_size": patches.size,
        "num_channels": patches.channels,
    }


def image_encoder(**fields: Any) -> EncoderConfig:
    """Returns an encoder of patches: norm before each part, no text."""
    fixed = {
        "vocab_size": 0,
        "type_vocab_size": 0,
        "embedding_norm": False,
        "norm_placement": "pre",
        "first_norm": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
    }
    found = EncoderConfig(**{**fixed, **fields})
    rows, columns = found.patches.grid
    return EncoderConfig(**{**fixed, **fields, "max_positions": found.patches.prefix + rows * columns})


def read_config(values: ConfigValues, family: str = "vit", **own: Any) -> EncoderConfig:
    """Reads config.json of ViT and of families with the same keys; defaults are those of transformers' ViTConfig."""
    values.require(qkv_bias=True)
    sizes = values.sizes(IMAGE_SIZES)
    return image_encoder(
        **{**sizes, "family": family},
        patches=read_patches(values, **own),
        activation=values.activation("hidden_act", "gelu"),
        norm_eps=values.positive("layer_norm_eps", 1e-12),
        initializer_range=values.positive("initializer_range", 0.02),
        dropout=values.probability("hidden_dropout_prob", 0.0),
        attention_dropout=values.probability("attention_probs_dropout_prob", 0.0),
    )


def write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json, for ViT and families with the same keys."""
    assert (encoder.norm_placement, encoder.position_embedding, encoder.norm) == ("pre", "learned", "layer")
    assert not encoder.layer_scale and encoder.attention_bias and not encoder.embedding_norm
    return (
        written_sizes(encoder, IMAGE_SIZES)
        | written_patches(encoder)
        | {
            "hidden_act": written_activation(encoder.activation),
            "layer_norm_eps": encoder.norm_eps,
            "initializer_range": encoder.initializer_range,
            "hidden_dropout_prob": encoder.dropout,
            "attention_probs_dropout_prob": encoder.attention_dropout,
            "qkv_bias": True,
        }
    )


def image_presets(make: Any, shapes: Mapping[str, tuple[int, int, int]]) -> dict[str, EncoderConfig]:
    """Returns name -> encoder of (layers, width, heads), the feed-forward part four times as wide."""
    return {
        name: make(num_layers=layers, hidden_size=width, num_heads=heads, ffn_size=4 * width)
        for name, (layers, width, heads) in shapes.items()
    }


def _small_presets() -> dict[str, EncoderConfig]:
    """Returns shapes for images of 8 to 36 pixels: patches of 2 to 4."""
    make = functools.partial(image_encoder, family="vit", initializer="xavier")
    nano, mini = PatchConfig(2, channels=1, grid=(4, 4)), PatchConfig(4, grid=(8, 8))
    cifar = PatchConfig(4, grid=(9, 9))
    return {
        "vit_nano": make(patches=nano, num_layers=4, hidden_size=64, num_heads=4, ffn_size=256),
        "vit_mini": make(patches=mini, num_layers=6, hidden_size=128, num_heads=4, ffn_size=512),
        "vit_cifar": make(patches=cifar, num_layers=12, hidden_size=192, num_heads=12, ffn_size=384),
    }


FAMILY = Family(
    name="vit",
    architecture="ViT",
    prefix="vit.",
    encoder=ENCODER,
    heads={
        "image_classes": IMAGE_CLASSES,
        "pooler": Head("Model", linear("pooler", "vit.pooler.dense")),
    },
    known_extras=(
        "vit.embeddings.mask_token",
        "decoder.*",  # of masked pretraining
        "classifier.weight",
        "classifier.bias",
    ),
    read_config=read_config,
    write_config=write_config,
    # Touvron et al. 2021 (DeiT), table 1 (tiny, small), Dosovitskiy et al. 2021, table 1 (base, large); smaller ones
    # for small images on small machines; vit_cifar has the size of Tan 2024 (arXiv 2402.03752), 3.6 million.
    presets=_small_presets()
    | image_presets(
        functools.partial(image_encoder, family="vit", initializer="xavier", patches=PatchConfig(16, grid=(14, 14))),
        {
            "vit_tiny": (12, 192, 3),
            "vit_small": (12, 384, 6),
            "vit_base": (12, 768, 12),
            "vit_large": (24, 1024, 16),
        },
    ),
)
# Weights of masked pretraining are those of the same encoder; transformers has no classifier over its own class.
MAE_FAMILY = Family(
    name="vit_mae",
    architecture="ViTMAE",
    prefix="vit.",
    encoder=ENCODER,
    heads={},
    known_extras=FAMILY.known_extras,
    read_config=read_config,
    write_config=write_config,
)
