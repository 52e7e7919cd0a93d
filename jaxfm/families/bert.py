"""BERT (Devlin et al. 2019), and what families share that differ from it in names only."""

from typing import Any

from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig
from jaxfm.families.config_values import ConfigValues, written_activation, written_sizes
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, SPANS, Tensor, linear, norm

# Ours -> theirs, {} standing for the layer.
ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.word_embeddings.weight"),
    "embeddings/position/embedding": Tensor("embeddings.position_embeddings.weight"),
    "embeddings/type/embedding": Tensor("embeddings.token_type_embeddings.weight"),
    **norm("embeddings/norm", "embeddings.LayerNorm"),
    **linear("layers/attention/query", "encoder.layer.{}.attention.self.query"),
    **linear("layers/attention/key", "encoder.layer.{}.attention.self.key"),
    **linear("layers/attention/value", "encoder.layer.{}.attention.self.value"),
    **linear("layers/attention/output", "encoder.layer.{}.attention.output.dense", inputs=2),
    **norm("layers/attention_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    **linear("layers/ffn/up", "encoder.layer.{}.intermediate.dense"),
    **linear("layers/ffn/down", "encoder.layer.{}.output.dense"),
    **norm("layers/ffn_norm", "encoder.layer.{}.output.LayerNorm"),
}
_POOLER = linear("pooler", "bert.pooler.dense")
VOCABULARY = vocabulary_head(
    {
        **linear("transform/dense", "cls.predictions.transform.dense"),
        **norm("transform/norm", "cls.predictions.transform.LayerNorm"),
    },
    weight="cls.predictions.decoder.weight",
    bias="cls.predictions.bias",
    copy="cls.predictions.decoder.bias",
    causal_suffix="LMHeadModel",
)


def read_config(
    values: ConfigValues,
    position_offset: int = 0,
    pooler: str = "tanh",
    head_activation: str | None = None,
    type_vocab_size: int | None = None,
) -> EncoderConfig:
    """Reads the config.json of BERT and of families that differ in these values only.

    `head_activation` is that of the transform before the vocabulary; None: that of the layers. `type_vocab_size` None:
    as the file says, which must have it.
    """
    sizes = values.sizes()
    # transformers 5 computes no other positions either.
    values.require(position_embedding_type="absolute", add_cross_attention=False)
    activation = values.activation("hidden_act", "gelu")
    return EncoderConfig(
        **sizes,
        sight=CAUSAL if values.boolean("is_decoder", False) else FULL,
        activation=activation,
        head_activation=activation if head_activation is None else head_activation,
        tied_decoder=values.boolean("tie_word_embeddings", True),
        max_positions=values.integer("max_positions", "max_position_embeddings", least=1 + position_offset)
        - position_offset,
        position_offset=position_offset,
        type_vocab_size=values.integer("type_vocab_size", "type_vocab_size")
        if type_vocab_size is None
        else type_vocab_size,
        norm_eps=values.positive("layer_norm_eps", 1e-12),
        pooler=pooler,
        dropout=values.probability("hidden_dropout_prob", 0.1),
        attention_dropout=values.probability("attention_probs_dropout_prob", 0.1),
        initializer_range=values.positive("initializer_range", 0.02),
    )


def write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json, for BERT and families with the same keys."""
    assert (encoder.norm_placement, encoder.position_embedding, encoder.norm) == ("post", "learned", "layer")
    assert (
        encoder.attention_bias and encoder.norm_bias and not encoder.local_window and not encoder.classifier_transform
    )
    return written_sizes(encoder) | {
        "max_position_embeddings": encoder.max_positions + encoder.position_offset,
        "type_vocab_size": encoder.type_vocab_size,
        "layer_norm_eps": encoder.norm_eps,
        "initializer_range": encoder.initializer_range,
        "hidden_act": written_activation(encoder.activation),
        "tie_word_embeddings": encoder.tied_decoder,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        **({"is_decoder": True} if encoder.sight == CAUSAL else {}),
    }


def _preset(layers: int, width: int) -> EncoderConfig:
    return EncoderConfig(family="bert", hidden_size=width, num_layers=layers, num_heads=width // 64, ffn_size=4 * width)


# Of families whose classes are BERT's under other names.
SIGHTS = (FULL, CAUSAL)

FAMILY = Family(
    name="bert",
    sights=SIGHTS,
    architecture="Bert",
    prefix="bert.",
    encoder=ENCODER,
    heads={
        "token_classes": Head("ForTokenClassification", CLASSIFIER),
        "sequence_classes": Head("ForSequenceClassification", {**_POOLER, **CLASSIFIER}),
        "spans": Head("ForQuestionAnswering", SPANS),
        "vocabulary": VOCABULARY,
        "pooler": Head("Model", _POOLER),
    },
    known_extras=(
        "bert.embeddings.position_ids",  # a buffer that transformers < 4.31 saved
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
        *OTHER_HEADS,
    ),
    read_config=read_config,
    write_config=write_config,
    # Devlin et al. 2019 (base, large), Turc et al. 2019, "Well-Read Students Learn Better", table 1 (smaller ones).
    presets={
        "bert_tiny": _preset(2, 128),
        "bert_mini": _preset(4, 256),
        "bert_small": _preset(4, 512),
        "bert_base": _preset(12, 768),
        "bert_large": _preset(24, 1024),
    },
)
