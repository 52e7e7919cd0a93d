"""ModernBERT (Warner et al. 2024): pre-norm, rotary positions, gated feed-forward, most layers with a local window."""

from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.config_values import ConfigValues, shown, written_activation, written_sizes
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, Tensor, linear, norm

ENCODER: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embeddings.tok_embeddings.weight"),
    **norm("embeddings/norm", "embeddings.norm"),
    **linear("layers/attention/query", "layers.{}.attn.Wqkv", part=0, parts=3),
    **linear("layers/attention/key", "layers.{}.attn.Wqkv", part=1, parts=3),
    **linear("layers/attention/value", "layers.{}.attn.Wqkv", part=2, parts=3),
    **linear("layers/attention/output", "layers.{}.attn.Wo", inputs=2),
    **linear("layers/ffn/up", "layers.{}.mlp.Wi", part=0, parts=2),
    **linear("layers/ffn/gate", "layers.{}.mlp.Wi", part=1, parts=2),
    **linear("layers/ffn/down", "layers.{}.mlp.Wo"),
    **norm("layers/ffn_norm", "layers.{}.mlp_norm"),
    # The norm before a layer's attention belongs here to the layer before it (models.encoder.EncoderLayer).
    **norm("layers/next_norm", "layers.{}.attn_norm", last="final_norm"),
}
_TRANSFORM: dict[str, Tensor] = {**linear("transform/dense", "head.dense"), **norm("transform/norm", "head.norm")}
_CLASSES: dict[str, Tensor] = {**_TRANSFORM, **CLASSIFIER}

# Kind of layer -> key of transformers < 5 and its default.
_ROPE = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}
_WINDOW = 128


def read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' ModernBertConfig."""
    sizes = values.rotary_sizes()
    thetas = {kind: _rope_theta(kind, values) for kind in _ROPE}
    every = _global_every(values, sizes["num_layers"])
    window = values.integer("local_window", "local_attention", _WINDOW, least=2)
    return _encoder(
        **sizes,
        max_positions=values.integer("max_positions", "max_position_embeddings"),
        norm_eps=values.positive("norm_eps", 1e-5),
        # transformers has one rate each for embeddings, feed-forward and head; jaxfm one for all of them.
        dropout=values.probability("mlp_dropout", 0.0),
        attention_dropout=values.probability("attention_dropout", 0.0),
        initializer_range=values.positive("initializer_range", 0.02),
        global_rope_theta=thetas["full_attention"],
        local_rope_theta=thetas["sliding_attention"],
        local_window=window if every > 1 else 0,
        global_every=every,
        activation=values.activation("hidden_activation", "gelu"),
        attention_bias=values.boolean("attention_bias", False),
        ffn_bias=values.boolean("mlp_bias", False),
        norm_bias=values.boolean("norm_bias", False),
        head_activation=values.activation("classifier_activation", "gelu"),
        head_bias=values.boolean("classifier_bias", False),
        tied_decoder=values.boolean("tie_word_embeddings", True),
        decoder_bias=values.boolean("decoder_bias", True),
    )


def _encoder(**fields: Any) -> EncoderConfig:
    """Returns an encoder with what all of this family have in common."""
    return EncoderConfig(
        type_vocab_size=0,
        norm_placement="pre",
        position_embedding="rope",
        gated=True,
        classifier_transform=True,
        **fields,
    )


def _rope_theta(kind: str, found: ConfigValues) -> float:
    """Reads the base of the rotary frequencies; only unscaled ones are computed here."""
    old_key, default = _ROPE[kind]
    values, where = found.values, found.where
    rope = values.get("rope_parameters") or {}
    own = rope.get(kind) or {} if isinstance(rope, Mapping) else None
    if not isinstance(own, Mapping) or set(rope) - set(_ROPE) or values.get("rope_scaling"):
        raise UserError(
            f"{where}: rope_parameters {shown(rope)}, rope_scaling {shown(values.get('rope_scaling'))}; the modernbert "
            "encoder here takes rope_parameters of 'full_attention' and 'sliding_attention' and no rope_scaling."
        )
    if own.get("rope_type", "default") != "default" or set(own) - {"rope_type", "rope_theta"}:
        raise UserError(f"{where}: rope_parameters[{kind!r}] is {shown(own)}; only rope_type 'default' is computed.")
    return found.rope_theta(old_key, default, own.get("rope_theta"))


def _layer_types(layers: int, every: int) -> list[str]:
    return ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]


def _global_every(values: ConfigValues, layers: int) -> int:
    """Reads which layers see the whole segment: every n-th, from the first."""
    kinds = values.values.get("layer_types")
    if kinds is None:
        return values.integer("global_every", "global_attn_every_n_layers", 3)
    if isinstance(kinds, list):
        # n is the index of the second layer that sees everything. Without a second one, any n >= layers says the same.
        whole = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
        every = whole[1] if len(whole) > 1 else layers
        if kinds == _layer_types(layers, every):
            return every
    raise values.error(
        "layer_types",
        f"the modernbert encoder here computes 'full_attention' in every n-th of {layers} layers, from the first, and "
        "'sliding_attention' in the others.",
    )


def write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json, for transformers 5 and before."""
    assert (encoder.norm_placement, encoder.position_embedding, encoder.gated) == ("pre", "rope", True)
    assert encoder.classifier_transform and not encoder.type_vocab_size and not encoder.position_offset
    every = encoder.global_every if encoder.local_window else 1
    thetas = {"full_attention": encoder.global_rope_theta, "sliding_attention": encoder.local_rope_theta}
    return written_sizes(encoder) | {
        "max_position_embeddings": encoder.max_positions,
        "norm_eps": encoder.norm_eps,
        "norm_bias": encoder.norm_bias,
        "initializer_range": encoder.initializer_range,
        "attention_bias": encoder.attention_bias,
        "mlp_bias": encoder.ffn_bias,
        "classifier_bias": encoder.head_bias,
        "decoder_bias": encoder.decoder_bias,
        "tie_word_embeddings": encoder.tied_decoder,
        "hidden_activation": written_activation(encoder.activation),
        "classifier_activation": written_activation(encoder.head_activation),
        **dict.fromkeys(("embedding_dropout", "mlp_dropout", "classifier_dropout"), encoder.dropout),
        "attention_dropout": encoder.attention_dropout,
        "local_attention": encoder.local_window or _WINDOW,  # no layer reads it where every layer sees everything
        "layer_types": _layer_types(encoder.num_layers, every),
        "rope_parameters": {kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in thetas.items()},
        # The same for transformers < 5.
        "global_attn_every_n_layers": every,
        "global_rope_theta": encoder.global_rope_theta,
        "local_rope_theta": encoder.local_rope_theta,
        # Without these keys transformers takes ids of ModernBERT's own tokenizer, which this vocabulary may not have.
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }


def shape(layers: int, width: int, ffn_size: int) -> EncoderConfig:
    """Returns the shape of a published encoder, but for its sizes."""
    return _encoder(
        family="modernbert",
        vocab_size=50368,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        ffn_size=ffn_size,
        max_positions=8192,
        norm_eps=1e-5,
        dropout=0.0,
        attention_dropout=0.0,
        local_window=_WINDOW,
        global_every=3,
        attention_bias=False,
        ffn_bias=False,
        norm_bias=False,
        head_bias=False,
    )


FAMILY = Family(
    name="modernbert",
    architecture="ModernBert",
    prefix="model.",
    encoder=ENCODER,
    heads={
        "token_classes": Head("ForTokenClassification", _CLASSES),
        "sequence_classes": Head("ForSequenceClassification", _CLASSES, pooling_key="classifier_pooling"),
        "spans": Head("ForQuestionAnswering", {**_TRANSFORM, **linear("spans", "classifier")}),
        "vocabulary": vocabulary_head(_TRANSFORM, weight="decoder.weight", bias="decoder.bias"),
    },
    known_extras=OTHER_HEADS,
    read_config=read_config,
    write_config=write_config,
    presets={
        "modern_tiny": shape(3, 192, 288),  # not published: jaxfm's own, which learns something in minutes on a CPU
        "modern_base": shape(22, 768, 1152),
        "modern_large": shape(28, 1024, 2624),
    },
)
