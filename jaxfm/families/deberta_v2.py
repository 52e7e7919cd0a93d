"""DeBERTa v2 and v3 (He et al. 2021; 2023): BERT's layers with disentangled attention, mostly without positions."""

import dataclasses
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families import bert
from jaxfm.families.config_values import ConfigValues, is_integer, shown, written_activation
from jaxfm.families.family import Family, Head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, SPANS, Tensor, linear, norm

_ENCODER: dict[str, Tensor] = {
    **bert.ENCODER,
    "common/relative/embedding": Tensor("encoder.rel_embeddings.weight"),
    **norm("common/relative/norm", "encoder.LayerNorm"),
    **linear("layers/attention/query", "encoder.layer.{}.attention.self.query_proj"),
    **linear("layers/attention/key", "encoder.layer.{}.attention.self.key_proj"),
    **linear("layers/attention/value", "encoder.layer.{}.attention.self.value_proj"),
    **linear("layers/attention/position_key", "encoder.layer.{}.attention.self.pos_key_proj"),
    **linear("layers/attention/position_query", "encoder.layer.{}.attention.self.pos_query_proj"),
}
_POOLER = linear("pooler", "pooler.dense")
_TERMS = ("c2p", "p2c")


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' DebertaV2Config."""
    values.require(relative_attention=True)
    if "relative_attention" not in values.values:
        raise values.error("relative_attention", "without it there is no DeBERTa; write true.")
    if values.values.get("conv_kernel_size", 0):
        raise values.error(
            "conv_kernel_size",
            "the convolution that DeBERTa v2 xlarge and xxlarge have in their first layer is not computed here; "
            "DeBERTa v3 has none.",
        )
    types = values.integer("type_vocab_size", "type_vocab_size", 0, least=0)
    own = ConfigValues({"layer_norm_eps": 1e-7, **values.values}, values.where)
    encoder = bert.read_config(own, type_vocab_size=types)
    if (width := values.values.get("embedding_size", encoder.hidden_size)) != encoder.hidden_size:
        raise values.error(
            "embedding_size",
            f"the embeddings here have the width of the layers, {encoder.hidden_size}, not {shown(width)}.",
        )
    learned = values.boolean("position_biased_input", True)
    largest = _size(values, "max_relative_positions", -1)
    return dataclasses.replace(
        encoder,
        position_embedding="learned" if learned else "none",
        relative_positions="disentangled",
        relative_buckets=max(_size(values, "position_buckets", -1), 0),
        relative_distance=largest if largest > 0 else encoder.max_positions,
        relative_norm="layer_norm" in _words(values, "norm_rel_ebd", "none"),
        relative_terms=_terms(values),
        relative_maps=not values.boolean("share_att_key", False),
        pooler=values.activation("pooler_hidden_act", "gelu"),
    )


def _terms(values: ConfigValues) -> tuple[str, ...]:
    found = _words(values, "pos_att_type", "")
    if unknown := [word for word in found if word not in _TERMS]:
        raise values.error("pos_att_type", f"the terms computed here are {' and '.join(_TERMS)}, not {unknown[0]!r}.")
    if not found:
        raise values.error("pos_att_type", "attention to positions needs 'c2p', 'p2c', or both.")
    return tuple(term for term in _TERMS if term in found)


def _words(values: ConfigValues, key: str, default: str) -> list[str]:
    """Returns words that are a list, or one string with bars between them."""
    found = values.values.get(key, default)
    found = found.lower().split("|") if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise values.error(key, "it must be words with | between them.")
    return [word.strip() for word in found if word.strip()]


def _size(values: ConfigValues, key: str, default: int) -> int:
    """Returns a number of positions; -1 stands for none."""
    found = values.values.get(key, default)
    if not is_integer(found) or not -1 <= found <= 1_000_000:
        raise UserError(f"{values.where}: {key} is {shown(found)}; it must be an integer from -1 to 1,000,000.")
    return found


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    learned = dataclasses.replace(encoder, position_embedding="learned")
    return bert.write_config(learned) | {
        "relative_attention": True,
        "position_buckets": encoder.relative_buckets or -1,
        "max_relative_positions": encoder.relative_distance,
        "norm_rel_ebd": "layer_norm" if encoder.relative_norm else "none",
        "pos_att_type": list(encoder.relative_terms),
        "share_att_key": not encoder.relative_maps,
        "position_biased_input": encoder.position_embedding == "learned",
        "pooler_hidden_act": written_activation(encoder.pooler),
        "pooler_hidden_size": encoder.hidden_size,
        "pooler_dropout": 0.0,
        "conv_kernel_size": 0,
        "legacy": True,  # the form of the masked-LM head whose tensors are written
    }


def _preset(layers: int, width: int, vocab_size: int = 128100) -> EncoderConfig:
    return EncoderConfig(
        family="deberta-v2",
        vocab_size=vocab_size,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        ffn_size=4 * width,
        type_vocab_size=0,
        norm_eps=1e-7,
        position_embedding="none",
        relative_positions="disentangled",
        relative_buckets=256,
        relative_distance=512,
        relative_norm=True,
        relative_terms=_TERMS,
        pooler="gelu",
    )


FAMILY = Family(
    name="deberta-v2",
    architecture="DebertaV2",
    prefix="deberta.",
    encoder=_ENCODER,
    heads={
        "token_classes": Head("ForTokenClassification", CLASSIFIER),
        "sequence_classes": Head("ForSequenceClassification", {**_POOLER, **CLASSIFIER}),
        "spans": Head("ForQuestionAnswering", SPANS),
        "vocabulary": bert.VOCABULARY,
    },
    known_extras=(
        "deberta.embeddings.position_ids",
        "deberta.embeddings.position_embeddings.weight",  # of v3's files, where nothing reads them
        *(f"mask_predictions.{name}" for name in ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")),
        *(f"mask_predictions.classifier.{name}" for name in ("weight", "bias")),
        *OTHER_HEADS,
    ),
    read_config=_read_config,
    write_config=_write_config,
    # He et al. 2023, table 2 of the repository: 12 layers of 384 and of 768, 24 of 1024.
    presets={
        "deberta_v3_xsmall": _preset(12, 384),
        "deberta_v3_small": _preset(6, 768),
        "deberta_v3_base": _preset(12, 768),
        "deberta_v3_large": _preset(24, 1024),
        "mdeberta_v3_base": _preset(12, 768, 251000),
    },
    # The published files keep their head under these names, with `legacy: false`.
    renamed={
        "lm_predictions.lm_head.dense.": "cls.predictions.transform.dense.",
        "lm_predictions.lm_head.LayerNorm.": "cls.predictions.transform.LayerNorm.",
        "lm_predictions.lm_head.bias": "cls.predictions.bias",
    },
)
