"""Shapes of encoders: what a Hugging Face config says, in jaxfm's words, and the published sizes by name."""

import dataclasses

from jaxfm.errors import UserError, did_you_mean

# Any usual number of devices divides it, and it is the width of a TPU's matrix unit.
_VOCABULARY_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """All that determines an encoder's parameters and its function.

    Attributes:
      family: name table used for Hugging Face directories (`jaxfm.hub.names`), e.g. "bert".
      vocab_size: entries of the vocabulary; the tables have `padded_vocab_size` rows.
      hidden_size: width D of the residual stream.
      num_layers: transformer layers.
      num_heads: attention heads; hidden_size / num_heads is the head dimension H.
      ffn_size: inner width F of the feed-forward part.
      max_positions: longest segment in tokens.
      position_offset: row of the position table that position 0 uses (RoBERTa keeps the first rows for padding).
      type_vocab_size: rows of the segment-type embedding; 0: there is none.
      norm_eps: added to the variance in layer norms.
      dropout: probability after embeddings, attention output and feed-forward, and in the head.
      attention_dropout: probability on attention weights.
      initializer_range: standard deviation of fresh weights.
      norm_placement: "post" normalises the sum of a part's input and output (Vaswani et al. 2017), "pre" a part's
        input, and at the end the output of the encoder (Xiong et al. 2020).
      position_embedding: "learned" table, or "rope": queries and keys are rotated.
      global_rope_theta: base of the rotary frequencies in layers that see the whole segment.
      local_rope_theta: the same in layers with a local window.
      local_window: tokens that a local layer sees on both sides together; 0: every layer sees the whole segment.
      global_every: layers 0, n, 2n ... see the whole segment even where there is a local window.
      ffn: "gelu", or "geglu": gelu(up) * gate (Shazeer 2020).
      linear_bias: biases in attention, feed-forward and the transform of heads.
      norm_bias: biases in layer norms.
      classifier_transform: the masked-LM head's transform (dense, gelu, norm) stands before classifiers too.
      pooler: activation of the dense layer before classes of whole examples, "tanh" or "gelu"; unused where there is
        that transform.
      lora_rank: of the low-rank updates beside linear maps of the layers; 0: none (`models.adapters`).
      lora_alpha: lora_alpha / lora_rank is their factor.
      lora_targets: names of the maps that have one.
      adapter_size: width of the bottleneck adapters behind attention and feed-forward; 0: none.
      prefix_length: learned keys and values of each layer; 0: none.
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
    norm_placement: str = "post"
    position_embedding: str = "learned"
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    local_window: int = 0
    global_every: int = 1
    ffn: str = "gelu"
    linear_bias: bool = True
    norm_bias: bool = True
    classifier_transform: bool = False
    pooler: str = "tanh"
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ()
    adapter_size: int = 0
    prefix_length: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "lora_targets", tuple(self.lora_targets))  # a list where it comes from JSON
        assert self.hidden_size % self.num_heads == 0, "hidden_size must be a multiple of num_heads"
        assert self.norm_placement in ("post", "pre") and self.ffn in ("gelu", "geglu") and self.global_every >= 1
        assert self.position_embedding == "learned" or (self.position_embedding == "rope" and self.head_dim % 2 == 0)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word embedding: a multiple of 128, whatever the mesh, so that a checkpoint fits every mesh.

        The rows behind the vocabulary are and stay zero, are never predicted, and do not leave jaxfm (`hub.weights`).
        """
        return -(-self.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def _bert(layers: int, width: int) -> EncoderConfig:
    return EncoderConfig(hidden_size=width, num_layers=layers, num_heads=width // 64, ffn_size=4 * width)


def _modern(layers: int, width: int, ffn_size: int) -> EncoderConfig:
    return EncoderConfig(
        family="modernbert",
        vocab_size=50368,
        hidden_size=width,
        num_layers=layers,
        num_heads=width // 64,
        ffn_size=ffn_size,
        max_positions=8192,
        type_vocab_size=0,
        norm_eps=1e-5,
        dropout=0.0,
        attention_dropout=0.0,
        norm_placement="pre",
        position_embedding="rope",
        local_window=128,
        global_every=3,
        ffn="geglu",
        linear_bias=False,
        norm_bias=False,
        classifier_transform=True,
    )


# Devlin et al. 2019 (BERT base, large), Turc et al. 2019, "Well-Read Students Learn Better", table 1 (smaller ones),
# Warner et al. 2024, "Smarter, Better, Faster, Longer: ..." (ModernBERT), Goyal et al. 2021, "Larger-Scale Transformers
# for Multilingual Masked Language Modeling" (XLM-R XL, 3.5 billion; theirs does not normalise the embeddings, so that
# its weights do not fit here).
PRESETS = {
    "bert_tiny": _bert(2, 128),
    "bert_mini": _bert(4, 256),
    "bert_small": _bert(4, 512),
    "bert_base": _bert(12, 768),
    "bert_large": _bert(24, 1024),
    "modern_tiny": _modern(3, 192, 288),  # nobody's but ours: learns something in minutes on a CPU
    "modern_base": _modern(22, 768, 1152),
    "modern_large": _modern(28, 1024, 2624),
    "xlmr_xl": EncoderConfig(
        family="xlm-roberta-xl",
        vocab_size=250880,
        hidden_size=2560,
        num_layers=36,
        num_heads=32,
        ffn_size=10240,
        position_offset=2,
        type_vocab_size=1,
        norm_eps=1e-5,
        norm_placement="pre",
    ),
}


def has_padded_rows(path: str) -> bool:
    """Whether the parameter of that path has a row for each of `padded_vocab_size`."""
    return path.endswith(("embeddings/word/embedding", "decoder/bias"))


def preset(name: str) -> EncoderConfig:
    """Returns the encoder shape of that name; an unknown one is a UserError that names the nearest."""
    if name not in PRESETS:
        raise UserError(f"config.model.preset: {name!r} is not a known architecture. {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
