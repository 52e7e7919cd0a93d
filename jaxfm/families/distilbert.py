"""DistilBERT (Sanh et al. 2019): BERT's layers under other names, without types of segments and without a pooler."""

from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families.config_values import SIZES, ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, SPANS, Tensor, linear, norm

_ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.word_embeddings.weight"),
    "embeddings/position/embedding": Tensor("embeddings.position_embeddings.weight"),
    **norm("embeddings/norm", "embeddings.LayerNorm"),
    **linear("layers/attention/query", "transformer.layer.{}.attention.q_lin"),
    **linear("layers/attention/key", "transformer.layer.{}.attention.k_lin"),
    **linear("layers/attention/value", "transformer.layer.{}.attention.v_lin"),
    **linear("layers/attention/output", "transformer.layer.{}.attention.out_lin", inputs=2),
    **norm("layers/attention_norm", "transformer.layer.{}.sa_layer_norm"),
    **linear("layers/ffn/up", "transformer.layer.{}.ffn.lin1"),
    **linear("layers/ffn/down", "transformer.layer.{}.ffn.lin2"),
    **norm("layers/ffn_norm", "transformer.layer.{}.output_layer_norm"),
}
_POOLER = linear("pooler", "pre_classifier")
_KEYS = {**SIZES, "hidden_size": "dim", "num_layers": "n_layers", "num_heads": "n_heads", "ffn_size": "hidden_dim"}
_NORM_EPS = 1e-12  # a constant of transformers' class


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json. A table of sinusoids (`sinusoidal_pos_embds`) is a table of positions as any other."""
    activation = values.activation("activation", "gelu")
    return EncoderConfig(
        **values.sizes(_KEYS),
        max_positions=values.integer("max_positions", "max_position_embeddings", 512),
        type_vocab_size=0,
        norm_eps=_NORM_EPS,
        # transformers has other rates for its heads; jaxfm one for all.
        dropout=values.probability("dropout", 0.1),
        attention_dropout=values.probability("attention_dropout", 0.1),
        initializer_range=values.positive("initializer_range", 0.02),
        activation=activation,
        head_activation=activation,
        pooler="relu",
        tied_decoder=values.boolean("tie_word_embeddings", True),
    )


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert (encoder.norm_placement, encoder.position_embedding) == ("post", "learned") and not encoder.type_vocab_size
    return written_sizes(encoder, _KEYS) | {
        "max_position_embeddings": encoder.max_positions,
        "initializer_range": encoder.initializer_range,
        "activation": written_activation(encoder.activation),
        **dict.fromkeys(("dropout", "qa_dropout", "seq_classif_dropout"), encoder.dropout),
        "attention_dropout": encoder.attention_dropout,
        "sinusoidal_pos_embds": False,
        "tie_word_embeddings": encoder.tied_decoder,
    }


FAMILY = Family(
    name="distilbert",
    architecture="DistilBert",
    prefix="distilbert.",
    encoder=_ENCODER,
    heads={
        "pooler": Head("", _POOLER),
        "token_classes": Head("ForTokenClassification", CLASSIFIER),
        "sequence_classes": Head("ForSequenceClassification", {**_POOLER, **CLASSIFIER}),
        "spans": Head("ForQuestionAnswering", SPANS),
        "vocabulary": vocabulary_head(
            {**linear("transform/dense", "vocab_transform"), **norm("transform/norm", "vocab_layer_norm")},
            weight="vocab_projector.weight",
            bias="vocab_projector.bias",
        ),
    },
    known_extras=OTHER_HEADS,
    read_config=_read_config,
    write_config=_write_config,
    presets={
        "distilbert_base": EncoderConfig(family="distilbert", num_layers=6, type_vocab_size=0, pooler="relu"),
    },
)
