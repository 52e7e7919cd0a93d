"""MPNet (Song et al. 2020): BERT's layers with a bias by relative positions, and RoBERTa's positions and heads."""

import dataclasses
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families import bert, roberta
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.family import Family
from jaxfm.families.tensors import OTHER_HEADS, Tensor, linear, norm

_ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.word_embeddings.weight"),
    "embeddings/position/embedding": Tensor("embeddings.position_embeddings.weight"),
    **norm("embeddings/norm", "embeddings.LayerNorm"),
    "common/relative/embedding": Tensor("encoder.relative_attention_bias.weight"),
    **linear("layers/attention/query", "encoder.layer.{}.attention.attn.q"),
    **linear("layers/attention/key", "encoder.layer.{}.attention.attn.k"),
    **linear("layers/attention/value", "encoder.layer.{}.attention.attn.v"),
    **linear("layers/attention/output", "encoder.layer.{}.attention.attn.o", inputs=2),
    **norm("layers/attention_norm", "encoder.layer.{}.attention.LayerNorm"),
    **linear("layers/ffn/up", "encoder.layer.{}.intermediate.dense"),
    **linear("layers/ffn/down", "encoder.layer.{}.output.dense"),
    **norm("layers/ffn_norm", "encoder.layer.{}.output.LayerNorm"),
}
# Constants of transformers' class: positions count from 2, whatever pad_token_id says, and so do the buckets.
_OFFSET, _BUCKETS, _DISTANCE = 2, 32, 128
_OWN: dict[str, Any] = {
    "type_vocab_size": 0,
    "relative_positions": "bias",
    "relative_buckets": _BUCKETS,
    "relative_distance": _DISTANCE,
}


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json."""
    values.require(relative_attention_num_buckets=_BUCKETS)
    encoder = bert.read_config(values, position_offset=_OFFSET, head_activation="gelu", type_vocab_size=0)
    return dataclasses.replace(encoder, **_OWN)


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns BERT's values but for types, and the buckets."""
    written = bert.write_config(encoder) | {"relative_attention_num_buckets": encoder.relative_buckets}
    return {key: value for key, value in written.items() if key != "type_vocab_size"}


FAMILY = Family(
    name="mpnet",
    architecture="MPNet",
    prefix="mpnet.",
    encoder=_ENCODER,
    heads={
        **roberta.CLASS_HEADS,
        "vocabulary": roberta.VOCABULARY,
    },
    known_extras=(
        "mpnet.embeddings.position_ids",
        "mpnet.pooler.dense.weight",
        "mpnet.pooler.dense.bias",
        *OTHER_HEADS,
    ),
    read_config=_read_config,
    write_config=_write_config,
    presets={
        "mpnet_base": EncoderConfig(family="mpnet", vocab_size=30527, position_offset=_OFFSET, norm_eps=1e-5, **_OWN),
    },
)
