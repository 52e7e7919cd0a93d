"""RoBERTa (Liu et al. 2019): BERT's encoder without its pooler, positions counted from after the padding's."""

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families import bert
from jaxfm.families.config_values import LARGEST, ConfigValues, is_integer, shown
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, SPANS, Tensor, linear, norm

VOCABULARY = vocabulary_head(
    {**linear("transform/dense", "lm_head.dense"), **norm("transform/norm", "lm_head.layer_norm")},
    weight="lm_head.decoder.weight",
    bias="lm_head.bias",
    copy="lm_head.decoder.bias",
    causal_suffix="ForCausalLM",
)
_POOLER = linear("pooler", "classifier.dense")
_SEQUENCE_CLASSES: dict[str, Tensor] = {**_POOLER, **linear("head", "classifier.out_proj")}
# Heads for classes, which other families have under the same names.
CLASS_HEADS = {
    "pooler": Head("", _POOLER),  # of classifiers whose classes have no names; the encoder's class alone has none
    "token_classes": Head("ForTokenClassification", CLASSIFIER),
    "sequence_classes": Head("ForSequenceClassification", _SEQUENCE_CLASSES),
    "spans": Head("ForQuestionAnswering", SPANS),
}


def read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; the first position is pad_token_id + 1."""
    return bert.read_config(values, position_offset=first_position(values), head_activation="gelu")


def first_position(values: ConfigValues) -> int:
    """Returns the row of the position table that a text's first token has."""
    pad = values.values.get("pad_token_id", 1)
    if not is_integer(pad) or not 0 <= pad < LARGEST["vocab_size"]:
        raise UserError(
            f"{values.where}: pad_token_id is {shown(pad)}; {values.family} counts positions from pad_token_id + 1, so "
            "it must be an integer (1 in the published checkpoints)."
        )
    return pad + 1


FAMILY = Family(
    name="roberta",
    sights=bert.SIGHTS,
    architecture="Roberta",
    prefix="roberta.",
    encoder=bert.ENCODER,
    heads={
        **CLASS_HEADS,
        "vocabulary": VOCABULARY,
    },
    known_extras=(
        "roberta.embeddings.position_ids",
        "roberta.pooler.dense.weight",
        "roberta.pooler.dense.bias",
        *OTHER_HEADS,
    ),
    read_config=read_config,
    write_config=bert.write_config,
)
