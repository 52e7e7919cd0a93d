"""Image towers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): ViT under other names."""

from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.errors import UserError
from jaxfm.families.config_values import IMAGE_SIZES, ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family
from jaxfm.families.tensors import Tensor, linear, norm
from jaxfm.families.vit import image_encoder, read_patches, written_patches

CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
# Layers of both, and of their text towers.
LAYERS: dict[str, Tensor] = {
    **norm("common/first_norm", "encoder.layers.0.layer_norm1"),
    **linear("layers/attention/query", "encoder.layers.{}.self_attn.q_proj"),
    **linear("layers/attention/key", "encoder.layers.{}.self_attn.k_proj"),
    **linear("layers/attention/value", "encoder.layers.{}.self_attn.v_proj"),
    **linear("layers/attention/output", "encoder.layers.{}.self_attn.out_proj", inputs=2),
    **linear("layers/ffn/up", "encoder.layers.{}.mlp.fc1"),
    **linear("layers/ffn/down", "encoder.layers.{}.mlp.fc2"),
    **norm("layers/ffn_norm", "encoder.layers.{}.layer_norm2"),
    **norm("layers/next_norm", "encoder.layers.{}.layer_norm1", last="post_layernorm"),
}
_PATCHES: dict[str, Tensor] = {
    "embeddings/kernel": Tensor("embeddings.patch_embedding.weight", conv=True),
    "embeddings/bias": Tensor("embeddings.patch_embedding.bias"),
    "embeddings/position/embedding": Tensor("embeddings.position_embedding.weight"),
}
_SCALES = ("logit_scale", "logit_bias")


def _read_clip(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' CLIPVisionConfig."""
    return image_encoder(
        **{**values.sizes(IMAGE_SIZES), "family": CLIP},
        patches=read_patches(values, bias=False),
        embedding_norm=True,
        activation=values.activation("hidden_act", "quick_gelu"),
        norm_eps=values.positive("layer_norm_eps", 1e-5),
        initializer_range=values.positive("initializer_range", 0.02),
        attention_dropout=values.probability("attention_dropout", 0.0),
    )


def _read_siglip(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' SiglipVisionConfig."""
    return image_encoder(
        **{**values.sizes(IMAGE_SIZES), "family": SIGLIP},
        patches=read_patches(values, class_token=False, pooling="mean"),
        activation=values.activation("hidden_act", "gelu_pytorch_tanh"),
        norm_eps=values.positive("layer_norm_eps", 1e-6),
        attention_dropout=values.probability("attention_dropout", 0.0),
    )


def _of_pair(read: Any, name: str) -> Any:
    """Returns a reader of the image tower of a pair of towers, whose config.json has one for each."""

    def nested(values: ConfigValues) -> EncoderConfig:
        own = values.values.get("vision_config")
        if not isinstance(own, Mapping):
            raise UserError(f"{values.where}: the key 'vision_config' is missing, or is no object.")
        return read(ConfigValues({**own, "model_type": name}, f"{values.where}: vision_config"))

    return nested


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert (encoder.norm_placement, encoder.position_embedding, encoder.norm) == ("pre", "learned", "layer")
    assert encoder.embedding_norm == (encoder.family == CLIP) and encoder.attention_bias and not encoder.dropout
    return (
        written_sizes(encoder, IMAGE_SIZES)
        | written_patches(encoder)
        | {
            "hidden_act": written_activation(encoder.activation),
            "layer_norm_eps": encoder.norm_eps,
            "attention_dropout": encoder.attention_dropout,
        }
        | ({"initializer_range": encoder.initializer_range} if encoder.family == CLIP else {"vision_use_head": False})
    )


_CLIP_ENCODER = {
    **_PATCHES,
    "embeddings/class_token": Tensor("embeddings.class_embedding", ones=-1),
    **norm("embeddings/norm", "pre_layrnorm"),
    **LAYERS,
}
# What a pair of towers has beside its image tower.
_REST = ("text_model.*", "text_projection.*", "visual_projection.*", *_SCALES, "vision_model.head.*")


def _family(name: str, architecture: str, encoder: dict[str, Tensor], read: Any, presets: Any = None) -> Family:
    return Family(
        name=name,
        architecture=architecture,
        prefix="vision_model.",
        encoder=encoder,
        heads={},
        known_extras=(*_REST, "vision_model.embeddings.position_ids", "classifier.*"),
        read_config=read,
        write_config=_write_config,
        presets=presets or {},
    )


def _clip(size: int, layers: int, width: int) -> EncoderConfig:
    patches = PatchConfig(size, grid=(224 // size, 224 // size), bias=False)
    return image_encoder(
        family=CLIP, patches=patches, embedding_norm=True, activation="quick_gelu", norm_eps=1e-5, num_layers=layers,
        hidden_size=width, num_heads=width // 64, ffn_size=4 * width,
    )  # fmt: skip


def _siglip(size: int, side: int, layers: int, width: int, heads: int, ffn_size: int) -> EncoderConfig:
    patches = PatchConfig(size, grid=(side // size, side // size), class_token=False, pooling="mean")
    return image_encoder(
        family=SIGLIP, patches=patches, activation="gelu_tanh", norm_eps=1e-6, num_layers=layers, hidden_size=width,
        num_heads=heads, ffn_size=ffn_size,
    )  # fmt: skip


FAMILY = _family(
    CLIP,
    "CLIPVision",
    _CLIP_ENCODER,
    _read_clip,
    # Radford et al. 2021, table 20.
    {"clip_vit_b32": _clip(32, 12, 768), "clip_vit_b16": _clip(16, 12, 768), "clip_vit_l14": _clip(14, 24, 1024)},
)
SIGLIP_FAMILY = _family(
    SIGLIP,
    "SiglipVision",
    {**_PATCHES, **LAYERS},
    _read_siglip,
    # Zhai et al. 2023: ViT-B/16, and the shape-optimised So400m/14 of Alabdulmohsin et al. 2023.
    {"siglip_b16": _siglip(16, 224, 12, 768, 12, 3072), "siglip_so400m": _siglip(14, 384, 27, 1152, 16, 4304)},
)
# Whole checkpoints of both towers, of which the image tower is read.
CLIP_PAIR = _family("clip", "CLIP", _CLIP_ENCODER, _of_pair(_read_clip, CLIP))
SIGLIP_PAIR = _family("siglip", "Siglip", {**_PATCHES, **LAYERS}, _of_pair(_read_siglip, SIGLIP))
