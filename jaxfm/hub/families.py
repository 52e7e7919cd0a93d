"""Literal tables: where each tensor of a Hugging Face checkpoint goes, and what its config.json means.

One `Family` a model_type. A family that differs only in prefix, positions or head names is a new entry, not new code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.presets import EncoderConfig


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor's name in the checkpoint and how many leading axes of ours are inputs of a linear map.

    inputs = 0: same layout. inputs = n: theirs is [out, in]; ours has n axes of inputs, then those of outputs.
    """

    name: str
    inputs: int = 0


def _linear(ours: str, theirs: str, inputs: int = 1) -> dict[str, Tensor]:
    return {f"{ours}/kernel": Tensor(f"{theirs}.weight", inputs), f"{ours}/bias": Tensor(f"{theirs}.bias")}


def _norm(ours: str, theirs: str) -> dict[str, Tensor]:
    return {f"{ours}/scale": Tensor(f"{theirs}.weight"), f"{ours}/bias": Tensor(f"{theirs}.bias")}


# Ours -> theirs, {} standing for the layer; relative to "encoder/" here and to the family's prefix there.
_BERT_ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.word_embeddings.weight"),
    "embeddings/position/embedding": Tensor("embeddings.position_embeddings.weight"),
    "embeddings/type/embedding": Tensor("embeddings.token_type_embeddings.weight"),
    **_norm("embeddings/norm", "embeddings.LayerNorm"),
    **_linear("layers/attention/query", "encoder.layer.{}.attention.self.query"),
    **_linear("layers/attention/key", "encoder.layer.{}.attention.self.key"),
    **_linear("layers/attention/value", "encoder.layer.{}.attention.self.value"),
    **_linear("layers/attention/output", "encoder.layer.{}.attention.output.dense", inputs=2),
    **_norm("layers/attention_norm", "encoder.layer.{}.attention.output.LayerNorm"),
    **_linear("layers/ffn/up", "encoder.layer.{}.intermediate.dense"),
    **_linear("layers/ffn/down", "encoder.layer.{}.output.dense"),
    **_norm("layers/ffn_norm", "encoder.layer.{}.output.LayerNorm"),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """How one model_type of transformers maps onto the encoder.

    Attributes:
      prefix: of the encoder's tensors in checkpoints that carry a head ("bert."); bare encoders have none.
      encoder: our parameter -> their tensor.
      known_extras: tensors that such checkpoints may carry and that the encoder does not use (full names).
      architecture: transformers' class name up to the head, as in "Bert" + "ForTokenClassification".
    """

    prefix: str
    encoder: Mapping[str, Tensor]
    known_extras: tuple[str, ...]
    architecture: str


_HEADS = ("classifier.weight", "classifier.bias", "qa_outputs.weight", "qa_outputs.bias")

FAMILIES: dict[str, Family] = {
    "bert": Family(
        prefix="bert.",
        encoder=_BERT_ENCODER,
        known_extras=(
            "bert.embeddings.position_ids",  # a buffer that transformers < 4.31 saved
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "cls.predictions.bias",
            "cls.predictions.transform.dense.weight",
            "cls.predictions.transform.dense.bias",
            "cls.predictions.transform.LayerNorm.weight",
            "cls.predictions.transform.LayerNorm.bias",
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
            "cls.seq_relationship.weight",
            "cls.seq_relationship.bias",
            *_HEADS,
        ),
        architecture="Bert",
    ),
    "roberta": Family(
        prefix="roberta.",
        encoder=_BERT_ENCODER,
        known_extras=(
            "roberta.embeddings.position_ids",
            "roberta.pooler.dense.weight",
            "roberta.pooler.dense.bias",
            "lm_head.bias",
            "lm_head.dense.weight",
            "lm_head.dense.bias",
            "lm_head.layer_norm.weight",
            "lm_head.layer_norm.bias",
            "lm_head.decoder.weight",
            "lm_head.decoder.bias",
            "classifier.dense.weight",
            "classifier.dense.bias",
            "classifier.out_proj.weight",
            "classifier.out_proj.bias",
            *_HEADS,
        ),
        architecture="Roberta",
    ),
}
# Same tensors, same function; only transformers' class differs.
FAMILIES["xlm-roberta"] = dataclasses.replace(FAMILIES["roberta"], architecture="XLMRoberta")

# Values of config.json for which the encoder computes the same function; anything else is refused.
_REQUIRED = {"hidden_act": ("gelu",), "position_embedding_type": ("absolute",), "is_decoder": (False,)}


def encoder_config(values: Mapping[str, Any], where: str) -> EncoderConfig:
    """Reads a transformers config.json.

    Args:
      values: the parsed file.
      where: its path, for messages.

    Raises:
      UserError: a model_type without a name table, or a value that would change the function computed.
    """
    family = values.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{where}: model_type {family!r} is not supported. {did_you_mean(str(family), FAMILIES)}")
    for key, allowed in _REQUIRED.items():
        if values.get(key, allowed[0]) not in allowed:
            raise UserError(f"{where}: {key} is {values[key]!r}; the {family} encoder here computes {allowed[0]!r}.")
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if isinstance(width, int) and isinstance(heads, int) and (heads < 1 or width % heads):
        raise UserError(f"{where}: hidden_size {width} is not a multiple of num_attention_heads {heads}.")
    offset = 0 if family == "bert" else int(values.get("pad_token_id", 1)) + 1
    try:
        return EncoderConfig(
            family=family,
            vocab_size=values["vocab_size"],
            hidden_size=values["hidden_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=values["num_attention_heads"],
            ffn_size=values["intermediate_size"],
            max_positions=values["max_position_embeddings"] - offset,
            position_offset=offset,
            type_vocab_size=values["type_vocab_size"],
            norm_eps=values.get("layer_norm_eps", 1e-12),
            dropout=values.get("hidden_dropout_prob", 0.1),
            attention_dropout=values.get("attention_probs_dropout_prob", 0.1),
            initializer_range=values.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise UserError(f"{where}: the key {error.args[0]!r} is missing.") from error


def hf_config(config: EncoderConfig, *, head: str, pad_token_id: int, labels: tuple[str, ...]) -> dict[str, Any]:
    """Returns what config.json must say for transformers to build the same model.

    `head` is the rest of transformers' class name, e.g. "ForTokenClassification".
    """
    return {
        "architectures": [f"{FAMILIES[config.family].architecture}{head}"],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "type_vocab_size": config.type_vocab_size,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": pad_token_id,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "dtype": "float32",
    }
