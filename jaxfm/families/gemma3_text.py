"""Gemma 3 as an encoder (EmbeddingGemma, Vera et al. 2025): bidirectional, norms before and after each part."""

from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families import eurobert
from jaxfm.families.config_values import ConfigValues, shown, written_sizes
from jaxfm.families.family import Family
from jaxfm.families.tensors import OTHER_HEADS, Tensor, norm

_ENCODER: dict[str, Tensor] = {
    **eurobert.LLAMA_LAYERS,
    **norm("layers/attention/query_norm", "layers.{}.self_attn.q_norm"),
    **norm("layers/attention/key_norm", "layers.{}.self_attn.k_norm"),
    **norm("layers/attention_output_norm", "layers.{}.post_attention_layernorm"),
    **norm("layers/ffn_norm", "layers.{}.pre_feedforward_layernorm"),
    **norm("layers/ffn_output_norm", "layers.{}.post_feedforward_layernorm"),
}
# Kind of layer -> key of transformers < 5 and its default.
_ROPE = {"full_attention": ("rope_theta", 1_000_000.0), "sliding_attention": ("rope_local_base_freq", 10_000.0)}


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' Gemma3TextConfig."""
    if not values.boolean("use_bidirectional_attention", False):
        raise values.error(
            "use_bidirectional_attention",
            "this is a decoder; encoders of this family (EmbeddingGemma) have true.",
        )
    sizes = values.sizes()
    heads, kv_heads = sizes["num_heads"], values.integer("num_kv_heads", "num_key_value_heads", 4)
    if heads % kv_heads:
        raise values.error("num_key_value_heads", f"it must divide num_attention_heads, {heads}.")
    head_size = values.integer("head_size", "head_dim", 256)
    values.require(query_pre_attn_scalar=head_size, attn_logit_softcapping=None)
    if head_size % 2:
        raise values.error("head_dim", "it must be even: rotary positions turn pairs.")
    every, first = _global_layers(values, sizes["num_layers"])
    thetas = {kind: _rope_theta(kind, values) for kind in _ROPE}
    return EncoderConfig(
        **sizes,
        max_positions=values.integer("max_positions", "max_position_embeddings", 131_072),
        type_vocab_size=0,
        norm_eps=values.positive("rms_norm_eps", 1e-6),
        dropout=0.0,
        attention_dropout=values.probability("attention_dropout", 0.0),
        initializer_range=values.positive("initializer_range", 0.02),
        embedding_norm=False,
        embedding_scale=float(sizes["hidden_size"] ** 0.5),
        norm="rms",
        norm_scale_offset=1.0,
        first_norm=True,
        norm_placement="pre_and_post",
        head_size=0 if head_size * heads == sizes["hidden_size"] else head_size,
        num_kv_heads=0 if kv_heads == heads else kv_heads,
        qk_norm=True,
        position_embedding="rope",
        global_rope_theta=thetas["full_attention"],
        local_rope_theta=thetas["sliding_attention"],
        # |i - j| < window // 2 + 1 in transformers' class; here at most window // 2.
        local_window=values.integer("local_window", "sliding_window", 4096, least=2) if every > 1 else 0,
        global_every=every,
        global_first=first,
        activation=values.activation("hidden_activation", "gelu_pytorch_tanh"),
        gated=True,
        attention_bias=values.boolean("attention_bias", False),
        ffn_bias=False,
        vocabulary_transform=False,
        tied_decoder=values.boolean("tie_word_embeddings", True),
        decoder_bias=False,
    )


def _rope_theta(kind: str, values: ConfigValues) -> float:
    """Reads the base of the rotary frequencies; only unscaled ones are computed here."""
    old_key, default = _ROPE[kind]
    rope = values.values.get("rope_parameters") or {}
    own = rope.get(kind) or {} if isinstance(rope, Mapping) else None
    if (
        not isinstance(own, Mapping)
        or own.get("rope_type", "default") != "default"
        or values.values.get("rope_scaling")
    ):
        raise UserError(
            f"{values.where}: rope_parameters {shown(rope)}, rope_scaling {shown(values.values.get('rope_scaling'))}; "
            "only rope_type 'default' is computed here."
        )
    return values.rope_theta(old_key, default, own.get("rope_theta"))


def _layer_types(layers: int, every: int, first: int) -> list[str]:
    return ["full_attention" if layer % every == first else "sliding_attention" for layer in range(layers)]


def _global_layers(values: ConfigValues, layers: int) -> tuple[int, int]:
    """Returns n and k: the layers k, k + n ... see the whole segment."""
    kinds = values.values.get("layer_types")
    if kinds is None:
        every = values.integer("global_every", "sliding_window_pattern", 6)
        return every, every - 1
    if isinstance(kinds, list) and "full_attention" in kinds:
        whole = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
        every = whole[1] - whole[0] if len(whole) > 1 else max(layers, whole[0] + 1)
        if kinds == _layer_types(layers, every, whole[0]) and whole[0] < every:
            return every, whole[0]
    raise values.error(
        "layer_types",
        f"the encoder here computes 'full_attention' in every n-th of {layers} layers, else 'sliding_attention'.",
    )


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert (encoder.norm_placement, encoder.norm, encoder.qk_norm) == ("pre_and_post", "rms", True)
    every, first = (encoder.global_every, encoder.global_first) if encoder.local_window else (1, 0)
    thetas = {"full_attention": encoder.global_rope_theta, "sliding_attention": encoder.local_rope_theta}
    return written_sizes(encoder) | {
        "num_key_value_heads": encoder.kv_heads,
        "head_dim": encoder.head_dim,
        "query_pre_attn_scalar": encoder.head_dim,
        "max_position_embeddings": encoder.max_positions,
        "rms_norm_eps": encoder.norm_eps,
        "attention_dropout": encoder.attention_dropout,
        "initializer_range": encoder.initializer_range,
        "rope_parameters": {kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in thetas.items()},
        "sliding_window": encoder.local_window or 4096,  # no layer reads it where every layer sees everything
        "layer_types": _layer_types(encoder.num_layers, every, first),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": encoder.attention_bias,
        "tie_word_embeddings": encoder.tied_decoder,
        "use_bidirectional_attention": True,
        # Without these keys transformers takes ids of Gemma's own tokenizer, which this vocabulary may not have.
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }


FAMILY = Family(
    name="gemma3_text",
    architecture="Gemma3Text",
    prefix="model.",
    encoder=_ENCODER,
    heads={},
    known_extras=OTHER_HEADS,
    read_config=_read_config,
    write_config=_write_config,
    presets={
        "embedding_gemma": EncoderConfig(
            family="gemma3_text", vocab_size=262_144, hidden_size=768, num_layers=24, num_heads=3, ffn_size=1152,
            max_positions=2048, type_vocab_size=0, norm_eps=1e-6, dropout=0.0, attention_dropout=0.0,
            embedding_norm=False, embedding_scale=768**0.5, norm="rms", norm_scale_offset=1.0, first_norm=True,
            norm_placement="pre_and_post", num_kv_heads=1, qk_norm=True, position_embedding="rope",
            global_rope_theta=1_000_000.0, local_rope_theta=10_000.0, local_window=512, global_every=6, global_first=5,
            activation="gelu_tanh", gated=True, attention_bias=False, ffn_bias=False, vocabulary_transform=False,
            decoder_bias=False,
        ),
    },
)  # fmt: skip
