"""Literal tables: where each tensor of a Hugging Face checkpoint goes, and what config.json says of what jaxfm writes.

One `Family` a model_type. A family that differs only in prefix, positions or head names is a new entry, not new code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor's name in the checkpoint and how ours is laid out in it.

    Attributes:
      name: {} stands for the layer.
      inputs: how many leading axes of ours are inputs of a linear map. 0: same layout. n: theirs is [out, in]; ours
        has n axes of inputs, then those of outputs.
      part: which of the `parts` that theirs has along its first axis is ours.
      parts: how many of ours lie in the one tensor.
      last: what our last layer is called; the others then count from 1 there ({} is the layer behind ours).
    """

    name: str
    inputs: int = 0
    part: int = 0
    parts: int = 1
    last: str = ""

    @property
    def layered(self) -> bool:
        """Whether there is one tensor a layer, stacked in ours."""
        return "{}" in self.name

    def names(self, num_layers: int) -> list[str]:
        """Returns the names of all layers in order, or the one name."""
        if self.last:
            return [*(self.name.format(layer) for layer in range(1, num_layers)), self.last]
        return [self.name.format(layer) for layer in range(num_layers if self.layered else 1)]


def _linear(ours: str, theirs: str, inputs: int = 1, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
    return {
        f"{ours}/kernel": Tensor(f"{theirs}.weight", inputs, part, parts),
        f"{ours}/bias": Tensor(f"{theirs}.bias", 0, part, parts),
    }


def _norm(ours: str, theirs: str, last: str = "") -> dict[str, Tensor]:
    names = {"scale": "weight", "bias": "bias"}
    return {f"{ours}/{o}": Tensor(f"{theirs}.{t}", last=last and f"{last}.{t}") for o, t in names.items()}


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


_MODERN_ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.tok_embeddings.weight"),
    **_norm("embeddings/norm", "embeddings.norm"),
    **_linear("layers/attention/query", "layers.{}.attn.Wqkv", part=0, parts=3),
    **_linear("layers/attention/key", "layers.{}.attn.Wqkv", part=1, parts=3),
    **_linear("layers/attention/value", "layers.{}.attn.Wqkv", part=2, parts=3),
    **_linear("layers/attention/output", "layers.{}.attn.Wo", inputs=2),
    **_linear("layers/ffn/up", "layers.{}.mlp.Wi", part=0, parts=2),
    **_linear("layers/ffn/gate", "layers.{}.mlp.Wi", part=1, parts=2),
    **_linear("layers/ffn/down", "layers.{}.mlp.Wo"),
    **_norm("layers/ffn_norm", "layers.{}.mlp_norm"),
    # The norm before a layer's attention is the layer's before it here (models.encoder.EncoderLayer).
    **_norm("layers/next_norm", "layers.{}.attn_norm", last="final_norm"),
}

# The head of masked-LM checkpoints, full names. Its decoder is the word embedding.
_BERT_MASKED_LM: dict[str, Tensor] = {
    **_linear("transform/dense", "cls.predictions.transform.dense"),
    **_norm("transform/norm", "cls.predictions.transform.LayerNorm"),
    "decoder/bias": Tensor("cls.predictions.bias"),
}
_ROBERTA_MASKED_LM: dict[str, Tensor] = {
    **_linear("transform/dense", "lm_head.dense"),
    **_norm("transform/norm", "lm_head.layer_norm"),
    "decoder/bias": Tensor("lm_head.bias"),
}
_MODERN_MASKED_LM: dict[str, Tensor] = {
    **_linear("transform/dense", "head.dense"),
    **_norm("transform/norm", "head.norm"),
    "decoder/bias": Tensor("decoder.bias"),
}
_ELECTRA_MASKED_LM: dict[str, Tensor] = {
    **_linear("transform/dense", "generator_predictions.dense"),
    **_norm("transform/norm", "generator_predictions.LayerNorm"),
    "decoder/bias": Tensor("generator_lm_head.bias"),
}
# The last layer of ForTokenClassification and the like, full names.
CLASSIFIER_HEAD = _linear("head", "classifier")
# The heads of ForSequenceClassification, full names.
_BERT_POOLED: dict[str, Tensor] = {**_linear("pooler", "bert.pooler.dense"), **CLASSIFIER_HEAD}
_ROBERTA_POOLED: dict[str, Tensor] = {
    **_linear("pooler", "classifier.dense"),
    **_linear("head", "classifier.out_proj"),
}
# The head of replaced-token detection (ForPreTraining), full names.
_ELECTRA_DETECTOR: dict[str, Tensor] = {
    **_linear("detector/dense", "discriminator_predictions.dense"),
    **_linear("detector/head", "discriminator_predictions.dense_prediction"),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """How one model_type of transformers maps onto the encoder.

    Attributes:
      prefix: of the encoder's tensors in checkpoints that carry a head ("bert."); bare encoders have none.
      encoder: our parameter -> their tensor; those of biases that a config leaves out are not looked for.
      masked_lm: the same for the head of masked-LM checkpoints.
      tied: tensors that such checkpoints may carry although they must equal one of our parameters.
      known_extras: tensors that such checkpoints may carry and that nothing here uses (full names).
      architecture: transformers' class name up to the head, as in "Bert" + "ForTokenClassification".
      pooled: as masked_lm, for the head of classes of whole examples that reads each one's first token; empty where it
        is the transform of masked_lm and the token classifier's last layer.
      detector: as masked_lm, for the head of replaced-token detection; empty where transformers has no such class.
    """

    prefix: str
    encoder: Mapping[str, Tensor]
    masked_lm: Mapping[str, Tensor]
    tied: Mapping[str, str]
    known_extras: tuple[str, ...]
    architecture: str
    pooled: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    detector: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


WORD_EMBEDDING = "encoder/embeddings/word/embedding"
_HEADS = ("classifier.weight", "classifier.bias", "qa_outputs.weight", "qa_outputs.bias")

FAMILIES: dict[str, Family] = {
    "bert": Family(
        prefix="bert.",
        encoder=_BERT_ENCODER,
        masked_lm=_BERT_MASKED_LM,
        tied={"cls.predictions.decoder.weight": WORD_EMBEDDING, "cls.predictions.decoder.bias": "decoder/bias"},
        known_extras=(
            "bert.embeddings.position_ids",  # a buffer that transformers < 4.31 saved
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "cls.seq_relationship.weight",
            "cls.seq_relationship.bias",
            *_HEADS,
        ),
        architecture="Bert",
        pooled=_BERT_POOLED,
    ),
    "roberta": Family(
        prefix="roberta.",
        encoder=_BERT_ENCODER,
        masked_lm=_ROBERTA_MASKED_LM,
        tied={"lm_head.decoder.weight": WORD_EMBEDDING, "lm_head.decoder.bias": "decoder/bias"},
        known_extras=(
            "roberta.embeddings.position_ids",
            "roberta.pooler.dense.weight",
            "roberta.pooler.dense.bias",
            "classifier.dense.weight",
            "classifier.dense.bias",
            "classifier.out_proj.weight",
            "classifier.out_proj.bias",
            *_HEADS,
        ),
        architecture="Roberta",
        pooled=_ROBERTA_POOLED,
    ),
    "modernbert": Family(
        prefix="model.",
        encoder=_MODERN_ENCODER,
        masked_lm=_MODERN_MASKED_LM,
        tied={"decoder.weight": WORD_EMBEDDING},
        known_extras=_HEADS,
        architecture="ModernBert",
    ),
    "electra": Family(
        prefix="electra.",
        encoder=_BERT_ENCODER,
        masked_lm=_ELECTRA_MASKED_LM,
        tied={"generator_lm_head.weight": WORD_EMBEDDING},
        known_extras=(
            "electra.embeddings.position_ids",
            "sequence_summary.summary.weight",
            "sequence_summary.summary.bias",
            "classifier.dense.weight",
            "classifier.dense.bias",
            "classifier.out_proj.weight",
            "classifier.out_proj.bias",
            *_HEADS,
        ),
        architecture="Electra",
        pooled=_ROBERTA_POOLED,
        detector=_ELECTRA_DETECTOR,
    ),
}
# Same tensors, same function; only transformers' class differs.
FAMILIES["xlm-roberta"] = dataclasses.replace(FAMILIES["roberta"], architecture="XLMRoberta")


def present(table: Mapping[str, Tensor], config: EncoderConfig) -> dict[str, Tensor]:
    """Returns the entries of `table` without those of biases that `config` leaves out."""

    def has(ours: str) -> bool:
        *_, module, name = ours.split("/")
        if name != "bias" or module in ("head", "decoder"):
            return True
        return config.norm_bias if module.endswith("norm") else config.linear_bias

    return {ours: tensor for ours, tensor in table.items() if has(ours)}


def hf_config(config: EncoderConfig, *, head: str, pad_token_id: int, labels: tuple[str, ...]) -> dict[str, Any]:
    """Returns what config.json must say for transformers to build the same model.

    `head` is the rest of transformers' class name: "ForTokenClassification", "ForMaskedLM" or "ForPreTraining".

    Raises:
      UserError: a family without a name table.
    """
    if config.family not in FAMILIES:
        raise UserError(
            f"an encoder of family {config.family!r} cannot be written for transformers, which computes another "
            f"function under that name; those that can: {', '.join(FAMILIES)}."
        )
    values = {
        "architectures": [f"{FAMILIES[config.family].architecture}{head}"],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "initializer_range": config.initializer_range,
        "pad_token_id": pad_token_id,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "dtype": "float32",
    }
    return values | (_modern_values(config) if config.family == "modernbert" else _bert_values(config))


def _bert_values(config: EncoderConfig) -> dict[str, Any]:
    assert (config.norm_placement, config.position_embedding, config.ffn) == ("post", "learned", "gelu")
    assert config.linear_bias and config.norm_bias and not config.local_window and not config.classifier_transform
    own = {"embedding_size": config.hidden_size} if config.family == "electra" else {}
    return own | {
        "type_vocab_size": config.type_vocab_size,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
    }


def _modern_values(config: EncoderConfig) -> dict[str, Any]:
    assert (config.norm_placement, config.position_embedding, config.ffn) == ("pre", "rope", "geglu")
    assert config.classifier_transform and not config.type_vocab_size and not config.position_offset
    every = config.global_every if config.local_window else 1
    thetas = {"full_attention": config.global_rope_theta, "sliding_attention": config.local_rope_theta}
    return {
        "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias,
        **dict.fromkeys(("attention_bias", "mlp_bias", "classifier_bias"), config.linear_bias),
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        **dict.fromkeys(("embedding_dropout", "mlp_dropout", "classifier_dropout"), config.dropout),
        "attention_dropout": config.attention_dropout,
        "local_attention": config.local_window or 128,  # without a window there is no layer that reads it
        "layer_types": [
            "sliding_attention" if layer % every else "full_attention" for layer in range(config.num_layers)
        ],
        "rope_parameters": {kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in thetas.items()},
        # The same for transformers < 5.
        "global_attn_every_n_layers": every,
        "global_rope_theta": config.global_rope_theta,
        "local_rope_theta": config.local_rope_theta,
        # Else ids of ModernBERT's own tokenizer, which this vocabulary may not have.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }
