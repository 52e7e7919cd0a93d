"""YOLOS (Fang et al. 2021): ViT with detection tokens beside the patches, each of which finds an object or none."""

import functools
from typing import Any

from jaxfm.core.encoder_config import LARGEST, EncoderConfig, PatchConfig
from jaxfm.families import vit
from jaxfm.families.config_values import IMAGE_SIZES, ConfigValues, is_integer
from jaxfm.families.family import Family, Head
from jaxfm.families.tensors import Tensor, linear
from jaxfm.families.vit import ENCODER, image_encoder, write_config

_TOKENS = {"embeddings/detection_tokens": Tensor("embeddings.detection_tokens", ones=1)}
_NO_MASK = {path: tensor for path, tensor in ENCODER.items() if path != "embeddings/mask_token"}
OBJECTS = Head(
    "ForObjectDetection",
    {
        **linear("classes/first", "class_labels_classifier.layers.0"),
        **linear("classes/second", "class_labels_classifier.layers.1"),
        **linear("head", "class_labels_classifier.layers.2"),
        **linear("boxes/first", "bbox_predictor.layers.0"),
        **linear("boxes/second", "bbox_predictor.layers.1"),
        **linear("box_head", "bbox_predictor.layers.2"),
    },
    unnamed_classes=1,  # "no object", the last one
)


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' YolosConfig, which has positions in each layer.

    These (use_mid_position_embeddings) are refused: YOLOS-tiny has none.
    """
    if values.values.get("use_mid_position_embeddings", True) is not False:
        raise values.error(
            "use_mid_position_embeddings",
            "the encoder here adds positions before the first layer alone (False), as hustvl/yolos-tiny does. Take "
            "that one, or pretrained weights of ViT with config.task.detection_tokens.",
        )
    values.require(qkv_bias=True)
    size = values.side("patch_size", "patch_size", 16)
    height, width = _sides(values)
    if min(height, width) < size:
        raise values.error("image_size", f"its sides must be at least patch_size, {size}.")
    return image_encoder(
        **values.sizes(IMAGE_SIZES),
        patches=PatchConfig(
            size=size,
            channels=values.integer("channels", "num_channels", 3),
            grid=(height // size, width // size),
            detection_tokens=values.integer("detection_tokens", "num_detection_tokens", 100),
        ),
        activation=values.activation("hidden_act", "gelu"),
        norm_eps=values.positive("layer_norm_eps", 1e-12),
        initializer_range=values.positive("initializer_range", 0.02),
        dropout=values.probability("hidden_dropout_prob", 0.0),
        attention_dropout=values.probability("attention_probs_dropout_prob", 0.0),
    )


def _sides(values: ConfigValues) -> tuple[int, int]:
    """Returns height and width of the images, which need not be squares."""
    given = values.values.get("image_size", [512, 864])
    sides: list[Any] = list(given) if isinstance(given, list) and len(given) == 2 else [given, given]
    most = LARGEST["image_size"]
    if not all(is_integer(side) and 1 <= side <= most for side in sides):
        raise values.error("image_size", f"it must be [height, width], integers from 1 to {most:,}.")
    return sides[0], sides[1]


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    patches = encoder.patches
    return write_config(encoder) | {
        "image_size": [side * patches.size for side in patches.grid],  # transformers' class wants both
        "num_detection_tokens": patches.detection_tokens,
        "use_mid_position_embeddings": False,
    }


# Fang et al. 2021, table 1, as hustvl/yolos-tiny has it; and shapes for drawn figures on small machines.
_make = functools.partial(image_encoder, family="yolos", initializer="xavier")
FAMILY = Family(
    name="yolos",
    architecture="Yolos",
    prefix=vit.FAMILY.prefix,
    encoder={**_NO_MASK, **_TOKENS},
    heads={"objects": OBJECTS},
    known_extras=tuple(f"{vit.FAMILY.prefix}pooler.dense.{part}" for part in ("weight", "bias")),
    read_config=_read_config,
    write_config=_write_config,
    presets={
        "yolos_nano": _make(
            patches=PatchConfig(8, grid=(8, 8), detection_tokens=12),
            num_layers=4,
            hidden_size=128,
            num_heads=4,
            ffn_size=512,
        ),
        "yolos_tiny": _make(
            patches=PatchConfig(16, grid=(50, 83), detection_tokens=100),
            num_layers=12,
            hidden_size=192,
            num_heads=3,
            ffn_size=768,
        ),
    },  # fmt: skip
    detector_of=(vit.FAMILY.name, vit.MAE_FAMILY.name),
)
