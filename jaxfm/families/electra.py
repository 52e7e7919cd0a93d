"""ELECTRA (Clark et al. 2020): BERT's encoder, and the only classes with a head of replaced-token detection."""

from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families import bert, roberta
from jaxfm.families.config_values import ConfigValues, shown
from jaxfm.families.family import Family, Head
from jaxfm.families.tensors import OTHER_HEADS, WORD_EMBEDDING, Tensor, linear, norm

_MASKED_LM: dict[str, Tensor] = {
    **linear("transform/dense", "generator_predictions.dense"),
    **norm("transform/norm", "generator_predictions.LayerNorm"),
    "decoder/bias": Tensor("generator_lm_head.bias"),
}
_REPLACED_TOKENS: dict[str, Tensor] = {
    **linear("detector/dense", "discriminator_predictions.dense"),
    **linear("detector/head", "discriminator_predictions.dense_prediction"),
}


def read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; embeddings of another width than the layers' are refused."""
    encoder = bert.read_config(values, pooler="gelu")
    # transformers' default is 128, whatever the width.
    if (size := values.values.get("embedding_size", 128)) != encoder.hidden_size:
        raise UserError(
            f"{values.where}: embedding_size is {shown(size)} and hidden_size {encoder.hidden_size}; the electra "
            "encoder here has no projection between them, so both must be the same (as in electra-base and "
            "electra-large)."
        )
    return encoder


def write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns BERT's values and the width of the embeddings."""
    return bert.write_config(encoder) | {"embedding_size": encoder.hidden_size}


FAMILY = Family(
    name="electra",
    architecture="Electra",
    prefix="electra.",
    encoder=bert.ENCODER,
    heads={
        **roberta.CLASS_HEADS,
        "vocabulary": Head("ForMaskedLM", _MASKED_LM, tied={"generator_lm_head.weight": WORD_EMBEDDING}),
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
