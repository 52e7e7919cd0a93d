"""CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023): towers of images and of texts, alone and in pairs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig, PatchConfig
from jaxfm.core.towers import TowersConfig
from jaxfm.errors import UserError
from jaxfm.families.config_values import IMAGE_SIZES, ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family, TowerPair
from jaxfm.families.tensors import Tensor, linear, norm
from jaxfm.families.vit import image_encoder, read_patches, written_patches

CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
CLIP_TEXT, SIGLIP_TEXT = "clip_text_model", "siglip_text_model"
# Published configs leave out what transformers' classes have by default: sizes of ViT-B/32 and ViT-B/16.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    CLIP: {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    CLIP_TEXT: {
        "vocab_size": 49408, "hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8,
        "intermediate_size": 2048, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    SIGLIP: {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    },
    SIGLIP_TEXT: {
        "vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
}  # fmt: skip
_PROJECTED = 512  # numbers of a vector, where config.json does not say it


def _layers(last: str) -> dict[str, Tensor]:
    """Returns the layers of all towers, whose last norm has a name of its own."""
    return {
        **norm("common/first_norm", "encoder.layers.0.layer_norm1"),
        **linear("layers/attention/query", "encoder.layers.{}.self_attn.q_proj"),
        **linear("layers/attention/key", "encoder.layers.{}.self_attn.k_proj"),
        **linear("layers/attention/value", "encoder.layers.{}.self_attn.v_proj"),
        **linear("layers/attention/output", "encoder.layers.{}.self_attn.out_proj", inputs=2),
        **linear("layers/ffn/up", "encoder.layers.{}.mlp.fc1"),
        **linear("layers/ffn/down", "encoder.layers.{}.mlp.fc2"),
        **norm("layers/ffn_norm", "encoder.layers.{}.layer_norm2"),
        **norm("layers/next_norm", "encoder.layers.{}.layer_norm1", last=last),
    }


_SIGLIP_ENCODER: dict[str, Tensor] = {
    "embeddings/kernel": Tensor("embeddings.patch_embedding.weight", conv=True),
    "embeddings/bias": Tensor("embeddings.patch_embedding.bias"),
    "embeddings/position/embedding": Tensor("embeddings.position_embedding.weight"),
    **_layers("post_layernorm"),
}
_CLIP_ENCODER = {
    **_SIGLIP_ENCODER,
    "embeddings/class_token": Tensor("embeddings.class_embedding", ones=-1),
    **norm("embeddings/norm", "pre_layrnorm"),
}
_TEXT_ENCODER = {
    "embeddings/word/embedding": Tensor("embeddings.token_embedding.weight"),
    "embeddings/position/embedding": Tensor("embeddings.position_embedding.weight"),
    **_layers("final_layer_norm"),
}
_SCALES = ("logit_scale", "logit_bias")
_POSITION_IDS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")


def _complete(values: ConfigValues) -> ConfigValues:
    """Returns the values with those that the family's class has by default."""
    return ConfigValues({**_DEFAULTS[values.family], **values.values}, values.where)


def _read_clip(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' CLIPVisionConfig."""
    values = _complete(values)
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
    values = _complete(values)
    return image_encoder(
        **{**values.sizes(IMAGE_SIZES), "family": SIGLIP},
        patches=read_patches(values, class_token=False, pooling="mean"),
        activation=values.activation("hidden_act", "gelu_pytorch_tanh"),
        norm_eps=values.positive("layer_norm_eps", 1e-6),
        attention_dropout=values.probability("attention_dropout", 0.0),
    )


def _text_encoder(**fields: Any) -> EncoderConfig:
    """Returns an encoder of texts as both have it; only CLIP's is causal, only SigLIP's reads padding."""
    fixed: dict[str, Any] = {
        "type_vocab_size": 0,
        "embedding_norm": False,
        "norm_placement": "pre",
        "first_norm": True,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "sight": CAUSAL if fields["family"] == CLIP_TEXT else FULL,
        "reads_padding": fields["family"] == SIGLIP_TEXT,
    }
    return EncoderConfig(**{**fixed, **fields})


def _read_text(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' CLIPTextConfig and SiglipTextConfig."""
    values = _complete(values)
    return _text_encoder(
        **values.sizes(),
        max_positions=values.integer("max_positions", "max_position_embeddings"),
        activation=values.activation("hidden_act", "quick_gelu"),
        norm_eps=values.positive("layer_norm_eps", 1e-5),
        initializer_range=values.positive("initializer_range", 0.02),
        attention_dropout=values.probability("attention_dropout", 0.0),
    )


def _of_pair(values: ConfigValues, key: str, name: str) -> ConfigValues:
    """Returns the values of one tower of a pair, whose config.json has an object for each."""
    own = values.values.get(key)
    if not isinstance(own, Mapping):
        raise UserError(f"{values.where}: the key {key!r} is missing, or is no object.")
    # Configs of older transformers repeat the object under this key, which wins.
    again = values.values.get(f"{key}_dict")
    own = {**own, **again} if isinstance(again, Mapping) else own
    return ConfigValues({**own, "model_type": name}, f"{values.where}: {key}")


def _write_common(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the values that all towers have."""
    assert (encoder.norm_placement, encoder.position_embedding, encoder.norm) == ("pre", "learned", "layer")
    assert encoder.attention_bias and not encoder.dropout and not encoder.layer_scale
    return {
        "hidden_act": written_activation(encoder.activation),
        "layer_norm_eps": encoder.norm_eps,
        "attention_dropout": encoder.attention_dropout,
    }


def _write_image(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the values of config.json of an image tower."""
    assert encoder.embedding_norm == (encoder.family == CLIP)
    own = {"initializer_range": encoder.initializer_range} if encoder.family == CLIP else {"vision_use_head": False}
    return written_sizes(encoder, IMAGE_SIZES) | written_patches(encoder) | _write_common(encoder) | own


def _write_text(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the values of config.json of a text tower."""
    kind = (encoder.sight == CAUSAL, encoder.reads_padding)
    assert kind == (encoder.family == CLIP_TEXT, encoder.family == SIGLIP_TEXT) and not encoder.embedding_norm
    own = {"max_position_embeddings": encoder.max_positions, "initializer_range": encoder.initializer_range}
    return written_sizes(encoder) | _write_common(encoder) | own


def _family(
    name: str,
    architecture: str,
    encoder: dict[str, Tensor],
    read: Callable[[ConfigValues], EncoderConfig],
    write: Callable[[EncoderConfig], dict[str, Any]] = _write_image,
    presets: Mapping[str, EncoderConfig] | None = None,
) -> Family:
    text = encoder is _TEXT_ENCODER
    # What a pair of towers has beside this one.
    other = "vision_model.*" if text else "text_model.*"
    return Family(
        name=name,
        architecture=architecture,
        prefix="text_model." if text else "vision_model.",
        encoder=encoder,
        heads={},
        known_extras=(
            *("text_projection.*", "visual_projection.*", "text_model.head.*", "vision_model.head.*", "classifier.*"),
            *(other, *_SCALES, *_POSITION_IDS),
        ),
        read_config=read,
        write_config=write,
        presets=presets or {},
        sights=(CAUSAL,) if name == CLIP_TEXT else (FULL,),
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


def _text(name: str, **values: Any) -> EncoderConfig:
    """Returns the text tower that a config.json of these values describes."""
    return _read_text(ConfigValues({"model_type": name, **values}, name))


FAMILY = _family(
    CLIP,
    "CLIPVision",
    _CLIP_ENCODER,
    _read_clip,
    # Radford et al. 2021, table 20.
    presets={
        "clip_vit_b32": _clip(32, 12, 768),
        "clip_vit_b16": _clip(16, 12, 768),
        "clip_vit_l14": _clip(14, 24, 1024),
    },
)
SIGLIP_FAMILY = _family(
    SIGLIP,
    "SiglipVision",
    _SIGLIP_ENCODER,
    _read_siglip,
    # Zhai et al. 2023: ViT-B/16, and the shape-optimised So400m/14 of Alabdulmohsin et al. 2023.
    presets={"siglip_b16": _siglip(16, 224, 12, 768, 12, 3072), "siglip_so400m": _siglip(14, 384, 27, 1152, 16, 4304)},
)
TEXT_FAMILY = _family(
    CLIP_TEXT,
    "CLIPText",
    _TEXT_ENCODER,
    _read_text,
    _write_text,
    # Those beside ViT-B and ViT-L.
    {
        "clip_text_b": _text(CLIP_TEXT),
        "clip_text_l": _text(CLIP_TEXT, hidden_size=768, num_attention_heads=12, intermediate_size=3072),
    },
)
SIGLIP_TEXT_FAMILY = _family(
    SIGLIP_TEXT, "SiglipText", _TEXT_ENCODER, _read_text, _write_text, {"siglip_text_b": _text(SIGLIP_TEXT)}
)
# Whole checkpoints of both towers, where only the image tower is wanted.
CLIP_PAIR = _family("clip", "CLIP", _CLIP_ENCODER, lambda values: _read_clip(_of_pair(values, "vision_config", CLIP)))
SIGLIP_PAIR = _family(
    "siglip", "Siglip", _SIGLIP_ENCODER, lambda values: _read_siglip(_of_pair(values, "vision_config", SIGLIP))
)


def _clip_towers(image: EncoderConfig, text: EncoderConfig) -> TowersConfig:
    return TowersConfig(image, text, image_pooling="cls", text_pooling="last", dimension=_PROJECTED)


def _siglip_towers(image: EncoderConfig, text: EncoderConfig) -> TowersConfig:
    return TowersConfig(
        image, text, image_pooling="map", text_pooling="last", dimension=image.hidden_size, image_projection=False,
        text_bias=True, bias=True,
    )  # fmt: skip


def _read_clip_towers(values: ConfigValues) -> TowersConfig:
    image = _read_clip(_of_pair(values, "vision_config", CLIP))
    towers = _clip_towers(image, _read_text(_of_pair(values, "text_config", CLIP_TEXT)))
    return dataclasses.replace(towers, dimension=values.integer("hidden_size", "projection_dim", _PROJECTED))


def _read_siglip_towers(values: ConfigValues) -> TowersConfig:
    of_image, of_text = _of_pair(values, "vision_config", SIGLIP), _of_pair(values, "text_config", SIGLIP_TEXT)
    of_image.require(vision_use_head=True)
    image, text = _read_siglip(of_image), _read_text(of_text)
    projected = of_text.values.get("projection_size") or text.hidden_size
    if projected != image.hidden_size:
        raise of_text.error("projection_size", f"it must be the width of the image tower, {image.hidden_size}.")
    return _siglip_towers(image, text)


def _written_towers(towers: TowersConfig) -> dict[str, dict[str, Any]]:
    return {
        "vision_config": {"model_type": towers.image.family} | _write_image(towers.image),
        "text_config": {"model_type": towers.text.family} | _write_text(towers.text),
    }


def _write_clip_towers(towers: TowersConfig) -> dict[str, Any]:
    found = {name: {**own, "projection_dim": towers.dimension} for name, own in _written_towers(towers).items()}
    return {**found, "projection_dim": towers.dimension}


def _write_siglip_towers(towers: TowersConfig) -> dict[str, Any]:
    found = _written_towers(towers)
    found["vision_config"]["vision_use_head"] = True
    found["text_config"]["projection_size"] = towers.dimension
    return dict(found)


_HEAD = "vision_model.head"
# The attention of torch, whose three maps are one tensor.
_POOL_ATTENTION = {
    f"image_pool/{ours}/{kind}": Tensor(f"{_HEAD}.attention.in_proj_{theirs}", inputs, part, 3)
    for part, ours in enumerate(("query", "key", "value"))
    for kind, theirs, inputs in (("kernel", "weight", 1), ("bias", "bias", 0))
}
CLIP_TOWERS = TowerPair(
    name="clip",
    architecture="CLIPModel",
    image=FAMILY,
    text=TEXT_FAMILY,
    tensors={
        "image_projection/kernel": Tensor("visual_projection.weight", 1),
        "text_projection/kernel": Tensor("text_projection.weight", 1),
        "log_scale": Tensor("logit_scale"),
    },
    known_extras=_POSITION_IDS,
    towers=_clip_towers,
    read_config=_read_clip_towers,
    write_config=_write_clip_towers,
    end_token=True,
    masks_padding=True,
)
SIGLIP_TOWERS = TowerPair(
    name="siglip",
    architecture="SiglipModel",
    image=SIGLIP_FAMILY,
    text=SIGLIP_TEXT_FAMILY,
    tensors={
        "image_pool/probe": Tensor(f"{_HEAD}.probe", ones=2),
        **_POOL_ATTENTION,
        **linear("image_pool/output", f"{_HEAD}.attention.out_proj", inputs=2),
        **norm("image_pool/norm", f"{_HEAD}.layernorm"),
        **linear("image_pool/ffn/up", f"{_HEAD}.mlp.fc1"),
        **linear("image_pool/ffn/down", f"{_HEAD}.mlp.fc2"),
        **linear("text_projection", "text_model.head"),
        "log_scale": Tensor("logit_scale", ones=1),
        "bias": Tensor("logit_bias", ones=1),
    },
    known_extras=_POSITION_IDS,
    towers=_siglip_towers,
    read_config=_read_siglip_towers,
    write_config=_write_siglip_towers,
    end_token=False,
    masks_padding=False,
)
