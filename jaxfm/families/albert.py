"""ALBERT (Lan et al. 2020): BERT with narrow embeddings and one set of weights for all layers of a group."""

import dataclasses
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families import bert
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, SPANS, Tensor, linear, norm

_LAYER = "encoder.albert_layer_groups.{}.albert_layers.0"
_ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.word_embeddings.weight"),
    "embeddings/position/embedding": Tensor("embeddings.position_embeddings.weight"),
    "embeddings/type/embedding": Tensor("embeddings.token_type_embeddings.weight"),
    **norm("embeddings/norm", "embeddings.LayerNorm"),
    **linear("embeddings/projection", "encoder.embedding_hidden_mapping_in"),
    **linear("layers/attention/query", f"{_LAYER}.attention.query"),
    **linear("layers/attention/key", f"{_LAYER}.attention.key"),
    **linear("layers/attention/value", f"{_LAYER}.attention.value"),
    **linear("layers/attention/output", f"{_LAYER}.attention.dense", inputs=2),
    **norm("layers/attention_norm", f"{_LAYER}.attention.LayerNorm"),
    **linear("layers/ffn/up", f"{_LAYER}.ffn"),
    **linear("layers/ffn/down", f"{_LAYER}.ffn_output"),
    **norm("layers/ffn_norm", f"{_LAYER}.full_layer_layer_norm"),
}
_POOLER = linear("pooler", "albert.pooler")


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; layers are divided into groups of the same size."""
    values.require(inner_group_num=1)
    defaults = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = bert.read_config(ConfigValues({**defaults, **values.values}, values.where))
    groups = values.integer("layer_groups", "num_hidden_groups", 1)
    if encoder.num_layers % groups:
        rule = f"the {encoder.num_layers} layers (num_hidden_layers) here are divided into groups of one size."
        raise values.error("num_hidden_groups", rule)
    size = values.integer("embedding_size", "embedding_size", 128)
    if size == encoder.hidden_size:
        raise UserError(
            f"{values.where}: embedding_size and hidden_size are both {size}; transformers' class has a linear map "
            "between them all the same, which the albert encoder here has for different widths only."
        )
    return dataclasses.replace(encoder, layer_groups=groups, embedding_size=size)


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns BERT's values, the groups and the width of the embeddings."""
    return bert.write_config(encoder) | {
        "embedding_size": encoder.embedding_width,
        "num_hidden_groups": encoder.layer_groups,
        "inner_group_num": 1,
        "classifier_dropout_prob": encoder.dropout,
    }


def _preset(layers: int, width: int, heads: int) -> EncoderConfig:
    return EncoderConfig(
        family="albert",
        vocab_size=30000,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        ffn_size=4 * width,
        embedding_size=128,
        layer_groups=1,
        activation="gelu_tanh",
        head_activation="gelu_tanh",
        dropout=0.0,
        attention_dropout=0.0,
    )


FAMILY = Family(
    name="albert",
    architecture="Albert",
    prefix="albert.",
    encoder=_ENCODER,
    heads={
        "token_classes": Head("ForTokenClassification", CLASSIFIER),
        "sequence_classes": Head("ForSequenceClassification", {**_POOLER, **CLASSIFIER}),
        "spans": Head("ForQuestionAnswering", SPANS),
        "vocabulary": vocabulary_head(
            {**linear("transform/dense", "predictions.dense"), **norm("transform/norm", "predictions.LayerNorm")},
            weight="predictions.decoder.weight",
            bias="predictions.bias",
            copy="predictions.decoder.bias",
        ),
        "pooler": Head("Model", _POOLER),
    },
    known_extras=("sop_classifier.classifier.weight", "sop_classifier.classifier.bias", *OTHER_HEADS),
    read_config=_read_config,
    write_config=_write_config,
    # Lan et al. 2020, table 1.
    presets={
        "albert_base": _preset(12, 768, 12),
        "albert_large": _preset(24, 1024, 16),
        "albert_xlarge": _preset(24, 2048, 16),
        "albert_xxlarge": _preset(12, 4096, 64),
    },
)
