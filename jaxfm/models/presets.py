"""Shapes of encoders: what a Hugging Face config says, in jaxfm's words, and Google's BERT sizes by name."""

import dataclasses

from jaxfm.errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """All that determines an encoder's parameters and its function.

    Attributes:
      family: name table used for Hugging Face directories (`jaxfm.hub.names`), e.g. "bert".
      vocab_size: rows of the word embedding.
      hidden_size: width D of the residual stream.
      num_layers: transformer layers.
      num_heads: attention heads; hidden_size / num_heads is the head dimension H.
      ffn_size: inner width F of the feed-forward part.
      max_positions: longest segment in tokens.
      position_offset: row of the position table that position 0 uses (RoBERTa keeps the first rows for padding).
      type_vocab_size: rows of the segment-type embedding.
      norm_eps: added to the variance in layer norms.
      dropout: probability after embeddings, attention output and feed-forward, and in the head.
      attention_dropout: probability on attention weights.
      initializer_range: standard deviation of fresh weights.
    """

    family: str = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_size: int = 3072
    max_positions: int = 512
    position_offset: int = 0
    type_vocab_size: int = 2
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        assert self.hidden_size % self.num_heads == 0, "hidden_size must be a multiple of num_heads"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads


def _bert(layers: int, width: int) -> EncoderConfig:
    return EncoderConfig(hidden_size=width, num_layers=layers, num_heads=width // 64, ffn_size=4 * width)


# Devlin et al. 2019 (base, large) and Turc et al. 2019, "Well-Read Students Learn Better", table 1 (the others).
PRESETS = {
    "bert_tiny": _bert(2, 128),
    "bert_mini": _bert(4, 256),
    "bert_small": _bert(4, 512),
    "bert_base": _bert(12, 768),
    "bert_large": _bert(24, 1024),
}


def preset(name: str) -> EncoderConfig:
    """Returns the encoder shape of that name; an unknown one is a UserError that names the nearest."""
    if name not in PRESETS:
        raise UserError(f"config.model.preset: {name!r} is not a known architecture. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
