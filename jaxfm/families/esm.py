"""ESM-2 (Lin et al. 2023): proteins; pre-norm, rotary positions, masks that are dropped from the input."""

from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families import bert, roberta
from jaxfm.families.config_values import ConfigValues, written_sizes
from jaxfm.families.family import Family, vocabulary_head
from jaxfm.families.tensors import OTHER_HEADS, Tensor, linear, norm

_ENCODER: dict[str, Tensor] = {
    **{ours: tensor for ours, tensor in bert.ENCODER.items() if "norm/" not in ours and "/type/" not in ours},
    **norm("embeddings/norm", "embeddings.layer_norm"),
    **norm("common/first_norm", "encoder.layer.0.attention.LayerNorm"),
    **norm("layers/ffn_norm", "encoder.layer.{}.LayerNorm"),
    # The norm before a layer's attention belongs here to the layer before it (models.encoder.EncoderLayer).
    **norm("layers/next_norm", "encoder.layer.{}.attention.LayerNorm", last="encoder.emb_layer_norm_after"),
}
_ROTARY = {"rotary": "rope", "absolute": "learned"}


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' EsmConfig."""
    values.require(is_decoder=False, is_folding_model=False)
    kind = values.word("position_embedding_type", "absolute", of=_ROTARY)
    sizes = values.rotary_sizes() if kind == "rotary" else values.sizes()
    offset = roberta.first_position(values) if kind == "absolute" else 0
    before = values.values.get("emb_layer_norm_before")
    drops = values.boolean("token_dropout", False)
    return EncoderConfig(
        **sizes,
        max_positions=values.integer("max_positions", "max_position_embeddings", 1026, least=1 + offset) - offset,
        position_offset=offset,
        type_vocab_size=0,
        norm_eps=values.positive("layer_norm_eps", 1e-12),
        dropout=values.probability("hidden_dropout_prob", 0.1),
        attention_dropout=values.probability("attention_probs_dropout_prob", 0.1),
        initializer_range=values.positive("initializer_range", 0.02),
        embedding_norm=before is not None and values.boolean("emb_layer_norm_before", False),
        token_dropout_id=values.integer("token_id", "mask_token_id", least=0) if drops else -1,
        norm_placement="pre",
        first_norm=True,
        position_embedding=_ROTARY[kind],
        global_rope_theta=values.rope_theta("rope_theta", 10_000.0),
        tied_decoder=values.boolean("tie_word_embeddings", True),
    )


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    assert encoder.norm_placement == "pre" and encoder.first_norm and not encoder.type_vocab_size
    names = {ours: theirs for theirs, ours in _ROTARY.items()}
    return written_sizes(encoder) | {
        "max_position_embeddings": encoder.max_positions + encoder.position_offset,
        "layer_norm_eps": encoder.norm_eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "initializer_range": encoder.initializer_range,
        "emb_layer_norm_before": encoder.embedding_norm,
        "token_dropout": encoder.token_dropout_id >= 0,
        "mask_token_id": encoder.token_dropout_id if encoder.token_dropout_id >= 0 else None,
        "position_embedding_type": names[encoder.position_embedding],
        "rope_theta": encoder.global_rope_theta,
        "is_folding_model": False,
        "tie_word_embeddings": encoder.tied_decoder,
    }


def _preset(layers: int, width: int, heads: int) -> EncoderConfig:
    return EncoderConfig(
        family="esm",
        vocab_size=33,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        ffn_size=4 * width,
        max_positions=1026,
        type_vocab_size=0,
        norm_eps=1e-5,
        dropout=0.0,
        attention_dropout=0.0,
        embedding_norm=False,
        token_dropout_id=32,
        norm_placement="pre",
        first_norm=True,
        position_embedding="rope",
        global_rope_theta=10_000.0,
    )


FAMILY = Family(
    name="esm",
    architecture="Esm",
    prefix="esm.",
    encoder=_ENCODER,
    heads={
        **{kind: head for kind, head in roberta.CLASS_HEADS.items() if kind != "spans"},
        "vocabulary": vocabulary_head(
            {**linear("transform/dense", "lm_head.dense"), **norm("transform/norm", "lm_head.layer_norm")},
            weight="lm_head.decoder.weight",
            bias="lm_head.bias",
        ),
    },
    known_extras=(
        "esm.embeddings.position_ids",
        "esm.embeddings.position_embeddings.weight",
        "esm.*rotary_embeddings.inv_freq",  # a constant, once a layer in older files
        "esm.contact_head.regression.weight",
        "esm.contact_head.regression.bias",
        "esm.pooler.dense.weight",
        "esm.pooler.dense.bias",
        *OTHER_HEADS,
    ),
    read_config=_read_config,
    write_config=_write_config,
    # Lin et al. 2023, supplementary table 1.
    presets={
        "esm2_8m": _preset(6, 320, 20),
        "esm2_35m": _preset(12, 480, 20),
        "esm2_150m": _preset(30, 640, 20),
        "esm2_650m": _preset(33, 1280, 20),
        "esm2_3b": _preset(36, 2560, 40),
    },
)
