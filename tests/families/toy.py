"""A family that only tests know: rotary positions with post-norm, other keys in config.json, other tensor names."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families.config_values import ConfigValues, written_sizes
from jaxfm.families.family import Family, Head
from jaxfm.families.registry import FAMILIES, register
from jaxfm.families.tensors import WORD_EMBEDDING, Tensor, linear, norm

KEYS = {"vocab_size": "words", "hidden_size": "width", "num_layers": "depth", "num_heads": "heads", "ffn_size": "inner"}
_MAPS = {"attention/query": "q", "attention/key": "k", "attention/value": "v", "ffn/up": "up", "ffn/down": "down"}
_ENCODER = {
    "embeddings/word/embedding": Tensor("words"),
    **norm("embeddings/norm", "norm"),
    **{path: entry for ours, name in _MAPS.items() for path, entry in linear(f"layers/{ours}", f"{{}}.{name}").items()},
    **linear("layers/attention/output", "{}.o", inputs=2),
    **norm("layers/attention_norm", "{}.norm1"),
    **norm("layers/ffn_norm", "{}.norm2"),
}
_TRANSFORM = {**linear("transform/dense", "lm.dense"), **norm("transform/norm", "lm.norm")}
_SHAPE: dict[str, Any] = {
    "position_embedding": "rope",
    "type_vocab_size": 0,
    "attention_bias": False,
    "ffn_bias": False,
    "head_bias": False,
}


def read_config(values: ConfigValues) -> EncoderConfig:
    longest = values.integer("max_positions", "longest")
    return EncoderConfig(**values.sizes(KEYS), **_SHAPE, max_positions=longest, dropout=values.probability("drop", 0.0))


def write_config(encoder: EncoderConfig) -> dict[str, Any]:
    return written_sizes(encoder, KEYS) | {"longest": encoder.max_positions, "drop": encoder.dropout}


FAMILY = Family(
    name="toy",
    architecture="Toy",
    prefix="toy.",
    encoder=_ENCODER,
    heads={
        "token_classes": Head("ForTokenClassification", linear("head", "tags")),
        "vocabulary": Head(
            "ForMaskedLM", {**_TRANSFORM, "decoder/bias": Tensor("lm.bias")}, tied={"lm.table": WORD_EMBEDDING}
        ),
    },
    known_extras=("toy.buffer",),
    read_config=read_config,
    write_config=write_config,
    presets={
        "toy_tiny": EncoderConfig(
            family="toy", vocab_size=96, hidden_size=32, num_layers=3, num_heads=2, ffn_size=64, max_positions=64,
            dropout=0.0, **_SHAPE,
        ),
    },
)  # fmt: skip


@contextlib.contextmanager
def registered() -> Iterator[Family]:
    """Registers the family for as long as the block runs."""
    register(FAMILY)
    try:
        yield FAMILY
    finally:
        del FAMILIES[FAMILY.name]
