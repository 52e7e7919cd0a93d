"""NeoBERT (Le Breton et al. 2025): RMSNorm before each part, rotary positions, SwiGLU, no biases.

transformers has no such class: its repositories bring their own code, under which files written here open too.
"""

from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families.config_values import ConfigValues, written_sizes
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, Tensor, linear, norm

_LAYER = "transformer_encoder.{}"


def _qkv(part: int, *, pairs: bool) -> Tensor:
    return Tensor(f"{_LAYER}.qkv.weight", inputs=1, part=part, parts=3, by_head=True, pairs=pairs)


_ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("encoder.weight"),
    **norm("common/first_norm", "transformer_encoder.0.attention_norm"),
    "layers/attention/query/kernel": _qkv(0, pairs=True),
    "layers/attention/key/kernel": _qkv(1, pairs=True),
    "layers/attention/value/kernel": _qkv(2, pairs=False),
    **linear("layers/attention/output", f"{_LAYER}.wo", inputs=2),
    **linear("layers/ffn/up", f"{_LAYER}.ffn.w12", part=0, parts=2),
    **linear("layers/ffn/gate", f"{_LAYER}.ffn.w12", part=1, parts=2),
    **linear("layers/ffn/down", f"{_LAYER}.ffn.w3"),
    **norm("layers/ffn_norm", f"{_LAYER}.ffn_norm"),
    # The norm before a layer's attention belongs here to the layer before it (models.encoder.EncoderLayer).
    **norm("layers/next_norm", f"{_LAYER}.attention_norm", last="layer_norm"),
}
_MULTIPLE = 8


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json. Its intermediate_size is that of a layer without a gate: two thirds of it are computed."""
    sizes = values.rotary_sizes()
    sizes["ffn_size"] = -(-int(2 * sizes["ffn_size"] / 3) // _MULTIPLE) * _MULTIPLE
    if not sizes["ffn_size"]:
        raise values.error("intermediate_size", "two thirds of it must be at least 1.")
    return _encoder(
        **sizes,
        max_positions=values.integer("max_positions", "max_length", 1024),
        norm_eps=values.positive("norm_eps", 1e-6),
        initializer_range=values.positive("decoder_init_range", 0.02),
        # Their head has its own rate, the encoder none; jaxfm one for both.
        dropout=values.probability("classifier_dropout", 0.0),
    )


def _encoder(**fields: Any) -> EncoderConfig:
    return EncoderConfig(
        type_vocab_size=0,
        attention_dropout=0.0,
        embedding_norm=False,
        norm="rms",
        norm_placement="pre",
        first_norm=True,
        position_embedding="rope",
        global_rope_theta=10_000.0,
        activation="silu",
        gated=True,
        attention_bias=False,
        ffn_bias=False,
        vocabulary_transform=False,
        tied_decoder=False,
        **fields,
    )


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert (encoder.norm_placement, encoder.norm, encoder.position_embedding, encoder.gated) == (
        "pre",
        "rms",
        "rope",
        True,
    )
    return written_sizes(encoder) | {
        "intermediate_size": encoder.ffn_size * 3 // 2,
        "max_length": encoder.max_positions,
        "norm_eps": encoder.norm_eps,
        **dict.fromkeys(("embedding_init_range", "decoder_init_range"), encoder.initializer_range),
        "classifier_dropout": encoder.dropout,
    }


FAMILY = Family(
    name="neobert",
    architecture="NeoBERT",
    prefix="model.",
    encoder=_ENCODER,
    heads={
        "sequence_classes": Head("ForSequenceClassification", {**linear("pooler", "dense"), **CLASSIFIER}),
        "vocabulary": vocabulary_head({}, weight="decoder.weight", bias="decoder.bias", suffix="LMHead"),
    },
    known_extras=("model.freqs_cis", *OTHER_HEADS),
    read_config=_read_config,
    write_config=_write_config,
    # Le Breton et al. 2025, table 1.
    presets={
        "neobert": _encoder(
            family="neobert", num_layers=28, ffn_size=2048, max_positions=4096, norm_eps=1e-5, dropout=0.0
        ),
    },
    bare_suffix="",
)
