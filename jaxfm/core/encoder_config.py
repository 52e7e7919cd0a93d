"""The shape of an encoder: what a Hugging Face config says, in jaxfm's words. Published shapes are in `families`."""

import dataclasses

# Any usual number of devices divides it, and it is the width of a TPU's matrix unit.
_VOCABULARY_MULTIPLE = 128


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """All that determines an encoder's parameters and its function.

    Attributes:
      family: model_type of transformers whose names and config.json it is written with (`families.registry`); "": none,
        it cannot be written for transformers.
      vocab_size: entries of the vocabulary; the tables have `padded_vocab_size` rows.
      hidden_size: width D of the residual stream.
      num_layers: transformer layers.
      num_heads: attention heads; hidden_size / num_heads is the head dimension H.
      ffn_size: inner width F of the feed-forward part.
      max_positions: longest segment in tokens.
      position_offset: row of the position table that position 0 uses (RoBERTa keeps the first rows for padding).
      type_vocab_size: rows of the segment-type embedding; 0: no such embedding.
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
      pooler: activation of the dense layer before classes of whole examples, "tanh" or "gelu"; unused with
        `classifier_transform`.
      lora_rank: of the low-rank updates beside linear maps of the layers; 0: none (`models.adapters`).
      lora_alpha: lora_alpha / lora_rank is their factor.
      lora_targets: names of the maps that have one.
      adapter_size: width of the bottleneck adapters after attention and feed-forward; 0: none.
      prefix_length: learned keys and values of each layer; 0: none.
    """

    family: str = ""
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

        Rows past the vocabulary are zero and stay so, are never predicted, and are not exported (`hub.weights`).
        """
        return -(-self.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def has_padded_rows(path: str) -> bool:
    """Whether the parameter of that path has a row for each of `padded_vocab_size`."""
    return path.endswith(("embeddings/word/embedding", "decoder/bias"))
