"""AST (Gong et al. 2021): a vision transformer of patches of a spectrogram, with the second token of DeiT."""

import functools
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.families.config_values import IMAGE_SIZES, ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family, Head
from jaxfm.families.tensors import Tensor, linear, norm
from jaxfm.families.vit import ENCODER, image_encoder, image_presets

_NAME = "audio-spectrogram-transformer"
_PREFIX = "audio_spectrogram_transformer."


def sound_patches(size: int, mels: int, stride: tuple[int, int], frames: int) -> PatchConfig:
    """Returns patches of a side over a number of bands, with a table of positions for as many frames."""
    rows, columns = ((count - size) // step + 1 for count, step in zip((mels, frames), stride, strict=True))
    return PatchConfig(size, 1, (rows, columns), distillation_token=True, mels=mels, stride=stride)


def strip_patches(mels: int, span: int, step: int, frames: int) -> PatchConfig:
    """Returns patches of all bands and `span` frames, `step` frames apart, with positions for as many frames."""
    grid = (1, (frames - span) // step + 1)
    return PatchConfig(mels, 1, grid, distillation_token=True, mels=mels, stride=(mels, step), frames=span)


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' ASTConfig."""
    values.require(qkv_bias=True)
    size = values.side("patch_size", "patch_size", 16)
    mels, frames = values.integer("mels", "num_mel_bins", 128), values.integer("frames", "max_length", 1024)
    for key, count in (("num_mel_bins", mels), ("max_length", frames)):
        if count < size:
            raise values.error(key, f"it must be at least patch_size, {size}.")
    stride = (values.integer("stride", "frequency_stride", 10), values.integer("stride", "time_stride", 10))
    return image_encoder(
        **values.sizes(IMAGE_SIZES),
        patches=sound_patches(size, mels, stride, frames),
        activation=values.activation("hidden_act", "gelu"),
        norm_eps=values.positive("layer_norm_eps", 1e-12),
        initializer_range=values.positive("initializer_range", 0.02),
        dropout=values.probability("hidden_dropout_prob", 0.0),
        attention_dropout=values.probability("attention_probs_dropout_prob", 0.0),
    )


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the values that `_read_config` reads; max_length is what the patches of the table cover."""
    assert (encoder.norm_placement, encoder.norm) == ("pre", "layer")
    assert not encoder.layer_scale and encoder.attention_bias and not encoder.embedding_norm
    patches = encoder.patches
    assert patches.span == patches.size, "transformers' patches are square"
    return written_sizes(encoder, IMAGE_SIZES) | {
        "patch_size": patches.size,
        "num_mel_bins": patches.mels,
        "max_length": (patches.grid[1] - 1) * patches.stride[1] + patches.size,
        "frequency_stride": patches.stride[0],
        "time_stride": patches.stride[1],
        "hidden_act": written_activation(encoder.activation),
        "layer_norm_eps": encoder.norm_eps,
        "initializer_range": encoder.initializer_range,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "qkv_bias": True,
    }


_ENCODER = {
    **{ours: tensor for ours, tensor in ENCODER.items() if not ours.endswith("mask_token")},
    "embeddings/distillation_token": Tensor("embeddings.distillation_token", ones=1),
}
FAMILY = Family(
    name=_NAME,
    architecture="AST",
    prefix=_PREFIX,
    encoder=_ENCODER,
    heads={
        "sound_classes": Head(
            "ForAudioClassification",
            {**norm("head_norm", "classifier.layernorm"), **linear("head", "classifier.dense")},
        ),
    },
    known_extras=("classifier.*",),
    read_config=_read_config,
    write_config=_write_config,
    # Gong et al. 2021, section 2: patches of 16 bands and 16 frames, 10 apart, of ten seconds. ast_tiny and ast_nano
    # are small ones of jaxfm, whose patches lie side by side: 1.3 and 2.6 seconds. The patches of "strips" have all
    # bands and few frames, so that each is a moment of 20 ms: for speech, 2.6 and 10 seconds.
    presets={
        "ast_nano": image_encoder(
            family=_NAME,
            initializer="xavier",
            patches=sound_patches(8, 64, (8, 8), 128),
            num_layers=4,
            hidden_size=64,
            num_heads=4,
            ffn_size=256,
        ),
        "ast_tiny": image_encoder(
            family=_NAME,
            initializer="xavier",
            patches=sound_patches(16, 128, (16, 16), 256),
            num_layers=12,
            hidden_size=192,
            num_heads=3,
            ffn_size=768,
        ),
        "ast_strips_nano": image_encoder(
            family=_NAME,
            initializer="xavier",
            patches=strip_patches(64, 4, 2, 256),
            num_layers=4,
            hidden_size=96,
            num_heads=4,
            ffn_size=384,
        ),
        "ast_strips_small": image_encoder(
            family=_NAME,
            initializer="xavier",
            patches=strip_patches(80, 4, 2, 1024),
            num_layers=12,
            hidden_size=384,
            num_heads=6,
            ffn_size=1536,
        ),
    }
    | image_presets(
        functools.partial(
            image_encoder, family=_NAME, initializer="xavier", patches=sound_patches(16, 128, (10, 10), 1024)
        ),
        {"ast_base": (12, 768, 12)},
    ),
)
