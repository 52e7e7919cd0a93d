"""ELECTRA (Clark et al. 2020): BERT's encoder, and the only classes with a head of replaced-token detection."""

import dataclasses
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families import bert, roberta
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import OTHER_HEADS, Tensor, linear, norm

_VOCABULARY = vocabulary_head(
    {
        **linear("transform/dense", "generator_predictions.dense"),
        **norm("transform/norm", "generator_predictions.LayerNorm"),
    },
    weight="generator_lm_head.weight",
    bias="generator_lm_head.bias",
    causal_suffix="ForCausalLM",
)
_REPLACED_TOKENS: dict[str, Tensor] = {
    **linear("detector/dense", "discriminator_predictions.dense"),
    **linear("detector/head", "discriminator_predictions.dense_prediction"),
}


def read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; ELECTRA small has embeddings narrower than its layers."""
    encoder = bert.read_config(values, pooler="gelu", head_activation="gelu")
    # transformers' default is 128, whatever the width.
    size = values.integer("embedding_size", "embedding_size", 128)
    return dataclasses.replace(encoder, embedding_size=0 if size == encoder.hidden_size else size)


def write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns BERT's values and the width of the embeddings."""
    return bert.write_config(encoder) | {"embedding_size": encoder.embedding_width}


FAMILY = Family(
    name="electra",
    sights=bert.SIGHTS,
    architecture="Electra",
    prefix="electra.",
    encoder={**bert.ENCODER, **linear("embeddings/projection", "embeddings_project")},
    heads={
        **roberta.CLASS_HEADS,
        "vocabulary": _VOCABULARY,
        "replaced_tokens": Head("ForPreTraining", _REPLACED_TOKENS),
    },
    known_extras=(
        "electra.embeddings.position_ids",
        "sequence_summary.summary.weight",
        "sequence_summary.summary.bias",
        *OTHER_HEADS,
    ),
    read_config=read_config,
    write_config=write_config,
    discriminator_of=(bert.FAMILY.name,),
)
