"""DeiT (Touvron et al. 2021): ViT with a second token, which learned from a teacher."""

import functools
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.family import Family, Head
from jaxfm.families.tensors import Tensor, linear
from jaxfm.families.vit import ENCODER, IMAGE_CLASSES, image_encoder, image_presets, read_config, write_config


def _read_config(values: ConfigValues) -> EncoderConfig:
    return read_config(values, "deit", distillation_token=True)


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    return write_config(encoder)


FAMILY = Family(
    name="deit",
    architecture="DeiT",
    prefix="deit.",
    encoder={**ENCODER, "embeddings/distillation_token": Tensor("embeddings.distillation_token", ones=1)},
    heads={
        "image_classes": IMAGE_CLASSES,
        "pooler": Head("Model", linear("pooler", "deit.pooler.dense")),
    },
    # The two heads of the class with a teacher are averaged there; a classifier here reads the class token alone.
    known_extras=(
        "deit.embeddings.mask_token",
        "decoder.*",
        "classifier.*",
        "*_classifier.weight",
        "*_classifier.bias",
    ),
    read_config=_read_config,
    write_config=_write_config,
    # Touvron et al. 2021, table 1.
    presets=image_presets(
        functools.partial(
            image_encoder, family="deit", patches=PatchConfig(16, grid=(14, 14), distillation_token=True)
        ),
        {"deit_tiny": (12, 192, 3), "deit_small": (12, 384, 6), "deit_base": (12, 768, 12)},
    ),
)
