"""DINOv2 (Oquab et al. 2024), with registers (Darcet et al. 2024) or without: ViT with a learned scale of each part."""

import functools
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.families.config_values import IMAGE_SIZES, ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family
from jaxfm.families.tensors import Tensor, linear, norm
from jaxfm.families.vit import IMAGE_CLASSES, PATCHES, image_encoder, image_presets, read_patches, written_patches

_SIZES = {field: key for field, key in IMAGE_SIZES.items() if field != "ffn_size"}
_ENCODER: dict[str, Tensor] = {
    **PATCHES,
    "embeddings/mask_token": Tensor("embeddings.mask_token"),
    **norm("common/first_norm", "encoder.layer.0.norm1"),
    **linear("layers/attention/query", "encoder.layer.{}.attention.attention.query"),
    **linear("layers/attention/key", "encoder.layer.{}.attention.attention.key"),
    **linear("layers/attention/value", "encoder.layer.{}.attention.attention.value"),
    **linear("layers/attention/output", "encoder.layer.{}.attention.output.dense", inputs=2),
    "layers/attention_scale/scale": Tensor("encoder.layer.{}.layer_scale1.lambda1"),
    **linear("layers/ffn/up", "encoder.layer.{}.mlp.fc1"),
    **linear("layers/ffn/down", "encoder.layer.{}.mlp.fc2"),
    "layers/ffn_scale/scale": Tensor("encoder.layer.{}.layer_scale2.lambda1"),
    **norm("layers/ffn_norm", "encoder.layer.{}.norm2"),
    **norm("layers/next_norm", "encoder.layer.{}.norm1", last="layernorm"),
}


def _read_config(values: ConfigValues, registers: int = 0) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' Dinov2Config.

    The gated feed-forward part of the giant model has other tensors and is refused.
    """
    values.require(qkv_bias=True, use_swiglu_ffn=False, use_mask_token=True, apply_layernorm=True)
    sizes = values.sizes(_SIZES)
    ratio = values.number("mlp_ratio", 4, rule="a number above 0 and at most 64", holds=lambda value: 0 < value <= 64)
    return image_encoder(
        **sizes,
        ffn_size=int(sizes["hidden_size"] * ratio),
        patches=read_patches(values, registers=registers, mask_token=True, pooling="cls_mean"),
        activation=values.activation("hidden_act", "gelu"),
        norm_eps=values.positive("layer_norm_eps", 1e-6),
        initializer_range=values.positive("initializer_range", 0.02),
        dropout=values.probability("hidden_dropout_prob", 0.0),
        attention_dropout=values.probability("attention_probs_dropout_prob", 0.0),
        layer_scale=values.positive("layerscale_value", 1.0),
    )


def _read_with_registers(values: ConfigValues) -> EncoderConfig:
    return _read_config(values, values.integer("registers", "num_register_tokens", 4, least=0))


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert (encoder.norm_placement, encoder.position_embedding, encoder.norm) == ("pre", "learned", "layer")
    assert encoder.layer_scale and encoder.attention_bias and not encoder.gated and not encoder.embedding_norm
    registers = {"num_register_tokens": encoder.patches.registers} if encoder.family == _WITH_REGISTERS else {}
    return (
        written_sizes(encoder, _SIZES)
        | written_patches(encoder)
        | registers
        | {
            "mlp_ratio": _ratio(encoder),
            "hidden_act": written_activation(encoder.activation),
            "layer_norm_eps": encoder.norm_eps,
            "initializer_range": encoder.initializer_range,
            "hidden_dropout_prob": encoder.dropout,
            "attention_probs_dropout_prob": encoder.attention_dropout,
            "layerscale_value": encoder.layer_scale,
            "qkv_bias": True,
            "use_swiglu_ffn": False,
        }
    )


def _ratio(encoder: EncoderConfig) -> float:
    """Returns the width of the feed-forward part as transformers has it, a multiple of hidden_size."""
    ratio = encoder.ffn_size / encoder.hidden_size
    return int(ratio) if ratio.is_integer() else ratio


_WITH_REGISTERS = "dinov2_with_registers"
# Oquab et al. 2024, table 16; images of 518 pixels.
_SHAPES = {"small": (12, 384, 6), "base": (12, 768, 12), "large": (24, 1024, 16)}


def _family(name: str, architecture: str, registers: int, read: Any, preset: str) -> Family:
    patches = PatchConfig(14, grid=(37, 37), registers=registers, mask_token=True, pooling="cls_mean")
    make = functools.partial(image_encoder, family=name, patches=patches, layer_scale=1.0, norm_eps=1e-6)
    tokens = {"embeddings/registers": Tensor("embeddings.register_tokens", ones=1)} if registers else {}
    return Family(
        name=name,
        architecture=architecture,
        prefix=f"{name}.",
        encoder={**_ENCODER, **tokens},
        heads={"image_classes": IMAGE_CLASSES},
        known_extras=("classifier.weight", "classifier.bias"),
        read_config=read,
        write_config=_write_config,
        presets=image_presets(make, {preset.format(size): shape for size, shape in _SHAPES.items()}),
    )


FAMILY = _family("dinov2", "Dinov2", 0, _read_config, "dinov2_{}")
WITH_REGISTERS = _family(_WITH_REGISTERS, "Dinov2WithRegisters", 4, _read_with_registers, "dinov2_{}_with_registers")
