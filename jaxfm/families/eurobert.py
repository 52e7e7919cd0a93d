"""EuroBERT (Boizard et al. 2025): RMSNorm before each part, rotary positions, SwiGLU, keys shared by heads."""

from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.config_values import ConfigValues, shown, written_activation, written_sizes
from jaxfm.families.family import Family, Head, vocabulary_head
from jaxfm.families.tensors import CLASSIFIER, OTHER_HEADS, Tensor, linear, norm

# Of Llama's kind, and so of other families'.
LLAMA_LAYERS: dict[str, Tensor] = {
    "embeddings/word/embedding": Tensor("embed_tokens.weight"),
    **norm("common/first_norm", "layers.0.input_layernorm"),
    **linear("layers/attention/query", "layers.{}.self_attn.q_proj"),
    **linear("layers/attention/key", "layers.{}.self_attn.k_proj"),
    **linear("layers/attention/value", "layers.{}.self_attn.v_proj"),
    **linear("layers/attention/output", "layers.{}.self_attn.o_proj", inputs=2),
    **linear("layers/ffn/up", "layers.{}.mlp.gate_proj"),  # theirs is the gate that the activation is applied to
    **linear("layers/ffn/gate", "layers.{}.mlp.up_proj"),
    **linear("layers/ffn/down", "layers.{}.mlp.down_proj"),
    **norm("layers/ffn_norm", "layers.{}.post_attention_layernorm"),
    # The norm before a layer's attention belongs here to the layer before it (models.encoder.EncoderLayer).
    **norm("layers/next_norm", "layers.{}.input_layernorm", last="norm"),
}
_POOLER = linear("pooler", "dense")
_THETA = 10_000.0  # where config.json says nothing; the published files have 250,000


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' EuroBertConfig."""
    sizes = values.sizes()
    heads = sizes["num_heads"]
    kv_heads = values.values.get("num_key_value_heads")
    kv_heads = heads if kv_heads is None else values.integer("num_kv_heads", "num_key_value_heads")
    if heads % kv_heads:
        raise values.error("num_key_value_heads", f"it must divide num_attention_heads, {heads}.")
    head_size = values.values.get("head_dim")
    head_size = 0 if head_size is None else values.integer("head_size", "head_dim")
    if (head_size or sizes["hidden_size"] // heads) % 2:
        raise UserError(f"{values.where}: head_dim must be even: rotary positions turn pairs.")
    bias = values.boolean("mlp_bias", False)
    return _encoder(
        **sizes,
        head_size=0 if head_size * heads == sizes["hidden_size"] else head_size,
        num_kv_heads=0 if kv_heads == heads else kv_heads,
        max_positions=values.integer("max_positions", "max_position_embeddings", 8192),
        norm_eps=values.positive("rms_norm_eps", 1e-5),
        attention_dropout=values.probability("attention_dropout", 0.0),
        initializer_range=values.positive("initializer_range", 0.02),
        global_rope_theta=unscaled_theta(values, _THETA),
        activation=values.activation("hidden_act", "silu"),
        attention_bias=values.boolean("attention_bias", False),
        ffn_bias=bias,
        tied_decoder=values.boolean("tie_word_embeddings", False),
        decoder_bias=bias,
    )


def unscaled_theta(values: ConfigValues, default: float) -> float:
    """Returns the base of the rotary frequencies of a config with one kind of layers, which must be unscaled."""
    rope = values.values.get("rope_parameters") or {}
    scaled = values.values.get("rope_scaling")
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default" or scaled:
        raise UserError(
            f"{values.where}: rope_parameters {shown(rope)}, rope_scaling {shown(scaled)}; only rope_type 'default' is "
            "computed here."
        )
    return values.rope_theta("rope_theta", default, rope.get("rope_theta"))


def _encoder(**fields: Any) -> EncoderConfig:
    return EncoderConfig(
        type_vocab_size=0,
        embedding_norm=False,
        norm="rms",
        norm_placement="pre",
        first_norm=True,
        position_embedding="rope",
        gated=True,
        dropout=0.0,
        pooler="gelu",
        pooler_on_mean=True,
        vocabulary_transform=False,
        **fields,
    )


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert (encoder.norm_placement, encoder.norm, encoder.position_embedding, encoder.gated) == (
        "pre",
        "rms",
        "rope",
        True,
    )
    return written_sizes(encoder) | {
        "num_key_value_heads": encoder.kv_heads,
        "head_dim": encoder.head_dim,
        "max_position_embeddings": encoder.max_positions,
        "rms_norm_eps": encoder.norm_eps,
        "attention_dropout": encoder.attention_dropout,
        "initializer_range": encoder.initializer_range,
        "rope_parameters": {"rope_type": "default", "rope_theta": encoder.global_rope_theta},
        "hidden_act": written_activation(encoder.activation),
        "attention_bias": encoder.attention_bias,
        "mlp_bias": encoder.ffn_bias,
        "tie_word_embeddings": encoder.tied_decoder,
        # Without these keys transformers takes ids of EuroBERT's own tokenizer, which this vocabulary may not have.
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }


def _preset(layers: int, width: int, heads: int, kv_heads: int, ffn_size: int) -> EncoderConfig:
    return _encoder(
        family="eurobert",
        vocab_size=128256,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=0 if heads == kv_heads else kv_heads,
        ffn_size=ffn_size,
        max_positions=8192,
        norm_eps=1e-5,
        attention_dropout=0.0,
        global_rope_theta=250_000.0,
        activation="silu",
        attention_bias=False,
        ffn_bias=False,
        tied_decoder=False,
        decoder_bias=False,
    )


FAMILY = Family(
    name="eurobert",
    architecture="EuroBert",
    prefix="model.",
    encoder=LLAMA_LAYERS,
    heads={
        "token_classes": Head("ForTokenClassification", CLASSIFIER),
        "sequence_classes": Head(
            "ForSequenceClassification",
            {**_POOLER, **CLASSIFIER},
            pooling_key="classifier_pooling",
            poolings={"cls": "bos", "mean": "mean"},
        ),
        "vocabulary": vocabulary_head({}, weight="lm_head.weight", bias="lm_head.bias"),
    },
    known_extras=OTHER_HEADS,
    read_config=_read_config,
    write_config=_write_config,
    # Boizard et al. 2025, table 1.
    presets={
        "eurobert_210m": _preset(12, 768, 12, 12, 3072),
        "eurobert_610m": _preset(26, 1152, 18, 6, 4096),
        "eurobert_2b": _preset(32, 2304, 18, 6, 6144),
    },
)
