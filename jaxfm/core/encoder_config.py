"""The shape of an encoder: what a Hugging Face config says, in jaxfm's words. Published shapes are in `families`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

# Any usual number of devices divides it, and it is the width of a TPU's matrix unit.
_VOCABULARY_MULTIPLE = 128


# What the parts of an encoder may be; each is described at its field.
NORMS = ("layer", "rms")
NORM_PLACEMENTS = ("post", "pre", "pre_and_post")
INITIALIZERS = ("normal", "xavier")
POSITION_EMBEDDINGS = ("learned", "sine", "rope", "none")
RELATIVE_POSITIONS = ("none", "bias", "disentangled")
FULL, CAUSAL, PREFIX = "full", "causal", "prefix"
SIGHTS = (FULL, CAUSAL, PREFIX)
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "tanh")
# Above all published encoders by an order of magnitude. A larger value is a slip, and memory would be taken for it.
LARGEST: Mapping[str, int] = {
    "vocab_size": 10_000_000,
    "hidden_size": 100_000,
    "num_layers": 1_000,
    "num_heads": 1_000,
    "ffn_size": 1_000_000,
    "max_positions": 10_000_000,
    "type_vocab_size": 100_000,
    "local_window": 10_000_000,
    "global_every": 1_000,
    "embedding_size": 100_000,
    "head_size": 100_000,
    "num_kv_heads": 1_000,
    "layer_groups": 1_000,
    "relative_buckets": 100_000,
    "relative_distance": 10_000_000,
    "token_id": 10_000_000,
    "image_size": 100_000,
    "patch_size": 10_000,
    "channels": 1_000,
    "registers": 10_000,
    "detection_tokens": 10_000,
    "mels": 1_000,
    "stride": 10_000,
    "frames": 1_000_000,
    "position_offset": 10_000_000,
    "prefix_length": 100_000,
    "adapter_size": 100_000,
    "lora_rank": 100_000,
}
# What an image is judged by; described at its field.
IMAGE_POOLINGS = ("cls", "mean", "cls_mean")


# Bits of rounded weights, and how the inputs of their products are rounded; described at `Quantisation`.
WEIGHT_BITS = (8, 4)
NONE, STATIC, DYNAMIC = "none", "static", "dynamic"
INPUTS = (NONE, STATIC, DYNAMIC)
# The form in which a model lies in memory. Trained: weights are floats that each product rounds. Stored: weights are
# rounded, and products with rounded inputs are of integers. Observed: nothing is rounded, inputs are measured.
TRAINED, STORED, OBSERVED = "trained", "stored", "observed"
FORMS = (TRAINED, STORED, OBSERVED)
# Consecutive inputs that share a scale where weights have 4 bits: the smallest block that onnxruntime's kernels like.
GROUP = 32


class UnfitShapeError(AssertionError):
    """Sizes or parts that no encoder has together: a mistake in code, or of a file that was changed."""


def _require(holds: object, rule: str) -> None:
    if not holds:
        raise UnfitShapeError(rule)


def _require_sizes(sizes: Mapping[str, int]) -> None:
    """Raises UnfitShapeError for one that is below 0 or above LARGEST of its name."""
    for name, size in sizes.items():
        _require(0 <= size <= LARGEST[name], f"{name} must be from 0 to {LARGEST[name]:,}, but is {size!r:.40}")


@dataclasses.dataclass(frozen=True)
class PatchConfig:
    """Images cut into squares, each of which becomes a token (Dosovitskiy et al. 2021, section 3.1).

    Tokens of an image are, in this order: the class token, the distillation token, the registers, the detection tokens,
    and the patches row by row. All before the patches are the `prefix`: they have no pixels.

    Attributes:
      size: side P of a patch in pixels; 0: the encoder reads no images.
      channels: C, 3 (red, green, blue) or 1 (grey).
      grid: rows and columns of patches that the table of learned positions has; images of other sizes read between its
        entries.
      class_token: a token that gathers what an image shows.
      distillation_token: a further one, of a model that learned from a teacher (Touvron et al. 2021, DeiT).
      registers: number of further tokens that nothing reads (Darcet et al. 2024).
      detection_tokens: number of tokens each of which finds an object (Fang et al. 2021, YOLOS). The table of learned
        positions has a row for each of them, after those of the patches.
      bias: the linear map of patches has one.
      pooling: what an image is judged by where transformers' class of the family has one way: its class token ("cls"),
        the mean over its patches ("mean"), or both, one after the other ("cls_mean").
      mask_token: a learned vector in place of patches that are hidden from the encoder (Xie et al. 2022, SimMIM).
      mels: bands of the log-mel frames of sound whose patches these are: rows are bands, columns are frames; 0: the
        patches are of images.
      stride: of patches of sound: bands and frames from one patch to the next, which may overlap (Gong et al. 2021,
        AST, section 2.1); of images 0, patches lie side by side.
      frames: of patches of sound that are not square: frames of one, whose `size` is then its bands alone; 0: `size`.
    """

    size: int = 0
    channels: int = 3
    grid: tuple[int, int] = (0, 0)
    class_token: bool = True
    distillation_token: bool = False
    registers: int = 0
    detection_tokens: int = 0
    bias: bool = True
    pooling: str = "cls"
    mask_token: bool = False
    mels: int = 0
    stride: tuple[int, int] = (0, 0)
    frames: int = 0

    def __post_init__(self) -> None:
        for name in ("grid", "stride"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list where it comes from JSON
        names = {"patch_size": self.size, "channels": self.channels, "registers": self.registers, "mels": self.mels}
        names |= {"detection_tokens": self.detection_tokens, "frames": self.frames}
        _require_sizes(names | {"image_size": max(self.grid, default=-1)})
        _require(len(self.grid) == 2 and min(self.grid) >= 0, "grid is rows and columns")
        _require(self.pooling in IMAGE_POOLINGS, f"pooling is one of {', '.join(IMAGE_POOLINGS)}")
        _require(self.class_token or self.pooling == "mean", "without a class token the pooling is mean")
        _require(len(self.stride) == 2 and min(self.stride) >= 0, "stride is bands and frames")
        _require((self.mels > 0) == (min(self.stride) > 0), "patches of sound have bands and a stride, others neither")
        _require(self.mels > 0 or not self.frames, "only patches of sound have frames")
        if self.mels:
            _require(self.size <= self.mels and self.channels == 1, "a patch of sound has at most all bands")
            rows = (self.mels - self.size) // self.stride[0] + 1
            _require(self.grid[0] in (0, rows), f"{self.mels} bands have {rows} rows of patches")

    @property
    def prefix(self) -> int:
        """Tokens of an image before its patches."""
        return self.class_token + self.distillation_token + self.registers + self.detection_tokens

    @property
    def placed_prefix(self) -> int:
        """Tokens of the prefix whose learned position stands before those of the patches: class and distillation."""
        return self.class_token + self.distillation_token

    @property
    def span(self) -> int:
        """Columns of a patch: pixels, or frames of sound."""
        return self.frames or self.size

    @property
    def values(self) -> int:
        """Numbers of a patch."""
        return self.size * self.span * self.channels


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What is rounded to integers times a scale; without arguments nothing is.

    Weights are symmetric, q * scale with |q| <= 2^(bits - 1) - 1, and a column (an output) has a scale, or one for each
    `group` consecutive inputs. Inputs of products are symmetric integers of 8 bits: "static" ones have one range a map
    and layer, known before; "dynamic" ones a range a token, its largest number.

    Attributes:
      weights: bits of the weights; 0: nothing is rounded.
      inputs: of the products, one of `INPUTS`.
      group: consecutive inputs of a column that share a scale; 0: all of them.
      maps: names of the linear maps of a layer that are rounded ("query", "down" ...).
      form: one of `FORMS`.
      switched: some layers are left in floats: those whose range is infinite.
    """

    weights: int = 0
    inputs: str = NONE
    group: int = 0
    maps: tuple[str, ...] = ()
    form: str = TRAINED
    switched: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", tuple(self.maps))  # a list where it comes from JSON

    @property
    def problem(self) -> str:
        """What is wrong with its values; empty where nothing is."""
        if self.weights not in (0, *WEIGHT_BITS):
            return f"weights of {self.weights!r:.20} bits; they have {' or '.join(map(str, WEIGHT_BITS))}"
        if self.inputs not in INPUTS:
            return f"inputs {self.inputs!r:.20}; they are {', '.join(INPUTS)}"
        if self.form not in FORMS:
            return f"form {self.form!r:.20}; it is one of {', '.join(FORMS)}"
        if self.rounds_inputs and (self.weights != 8 or self.group):
            return "products of integers have weights of 8 bits and a scale a column"
        if not isinstance(self.group, int) or not 0 <= self.group <= 4096:
            return f"a group of {self.group!r:.20} inputs; it is from 0 to 4096"
        return ""

    @property
    def rounds_inputs(self) -> bool:
        """Whether the inputs of products are rounded too."""
        return self.inputs != NONE

    @property
    def has_integers(self) -> bool:
        """Whether the kernels of a model in memory are integers, with their scales beside them."""
        return self.form == STORED and self.rounds_inputs and not self.switched

    def rounds(self, name: str) -> bool:
        """Whether the map of that name is rounded."""
        return self.weights > 0 and name in self.maps


IN_FLOATS = Quantisation()


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """All that determines an encoder's parameters and its function.

    Attributes:
      family: model_type of transformers whose names and config.json it is written with (`families.registry`); "": none,
        it cannot be written for transformers.
      vocab_size: entries of the vocabulary; the tables have `padded_vocab_size` rows. 0: the encoder reads no text.
      hidden_size: width D of the residual stream.
      num_layers: transformer layers.
      num_heads: attention heads.
      ffn_size: inner width F of the feed-forward part.
      max_positions: longest segment in tokens.
      position_offset: row of the position table that position 0 uses (RoBERTa keeps the first rows for padding).
      type_vocab_size: rows of the segment-type embedding; 0: no such embedding.
      norm_eps: added to the variance in norms.
      dropout: probability after embeddings, attention output and feed-forward, and in the head.
      attention_dropout: probability on attention weights.
      initializer_range: standard deviation of fresh weights.
      initializer: of kernels: "normal", with that deviation, or "xavier", by their inputs and outputs; a learned table
        of positions in an image then begins as the fixed waves ("sine").
      embedding_size: width of the embedding tables; 0: hidden_size. If it is given, a linear map leads from the
        normalised embeddings to hidden_size (Lan et al. 2020, section 3.1).
      embedding_norm: the embeddings are normalised.
      embedding_scale: factor of the word embedding (Gemma: the square root of hidden_size).
      token_dropout_id: number of the mask token, whose embedding is then zero, all others of its segment being scaled
        for the share of masks in it (ESM-2); -1: no such scaling.
      norm: "layer" norm (Ba et al. 2016), or "rms" norm, without mean and bias (Zhang and Sennrich 2019).
      norm_scale_offset: added to the scale parameter of norms (Gemma: 1).
      first_norm: the first layer's attention has a norm before it as all others have; without it, pre-norm reads the
        embeddings as they are (ModernBERT).
      norm_placement: "post" normalises the sum of a part's input and output (Vaswani et al. 2017), "pre" a part's
        input, and at the end the output of the encoder (Xiong et al. 2020); "pre_and_post" is "pre" with a further norm
        of each part's output before the sum (Gemma).
      head_size: width H of one attention head; 0: hidden_size / num_heads.
      num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads heads of queries (Ainslie et al.
        2023); 0: num_heads.
      qk_norm: queries and keys are normalised, head by head, before they are rotated.
      position_embedding: "learned" table, "rope": queries and keys are rotated, "none", or of images "sine": fixed
        waves over rows and columns. Images are rotated by rows and columns.
      relative_positions: what attention scores get of the distance of query and key: "none"; "bias", a number for each
        bucket of distances and each head, the same in all layers (Raffel et al. 2020, section 2.1); "disentangled":
        products of content and position (He et al. 2021, DeBERTa, section 3.1).
      relative_buckets: of "bias": number of buckets. Of "disentangled": distances up to half of it have their own
        bucket, larger ones share logarithmic ones, on each side; 0: each distance has its own.
      relative_distance: largest distance that is told apart from larger ones.
      relative_norm: the table of "disentangled" is normalised.
      relative_terms: of "disentangled": "c2p", query content to key position, and "p2c", the reverse.
      relative_maps: "disentangled" has its own maps of positions; else they are those of queries and keys.
      global_rope_theta: base of the rotary frequencies in layers that see the whole segment.
      local_rope_theta: the same in layers with a local window.
      local_window: tokens that a local layer sees on both sides together; 0: every layer sees the whole segment.
      global_every: layers k, k + n, k + 2n ... see the whole segment even where there is a local window; n.
      global_first: k of these.
      activation: of the feed-forward part: "gelu", "gelu_tanh" (its approximation by tanh), "quick_gelu" (by the
        logistic function: x * sigmoid(1.702 x)), "relu" or "silu".
      gated: activation(up) * gate instead of activation(up) (Shazeer 2020).
      attention_bias: biases in the maps of attention.
      ffn_bias: biases in the maps of the feed-forward part.
      norm_bias: biases in layer norms.
      layer_groups: n groups of consecutive layers, all layers of a group having the same weights (Lan et al. 2020);
        0: each layer has its own.
      sight: what of its segment a token sees: all of it ("full"); no token after itself ("causal"); or of a prefix all,
        and after the prefix no token after itself ("prefix", Dong et al. 2019, UniLM, section 2.3), where the batch's
        field "horizons" says how far each token sees.
      reads_padding: texts are filled up to `max_positions` with padding that is read as they are, so that each has a
        row of its own (Zhai et al. 2023, SigLIP, in their code).
      layer_scale: what the learned factor of each feature of a part's output starts from (Touvron et al. 2021, CaiT);
        0: there is none.
      patches: how it reads images.
      classifier_transform: the masked-LM head's transform (dense, activation, norm) stands before classifiers too.
      head_activation: of the transform.
      head_bias: bias in the dense layer of heads.
      pooler: activation of the dense layer before classes of whole examples; unused with `classifier_transform`.
      pooler_on_mean: that layer also follows a mean over all tokens.
      vocabulary_transform: the masked-LM head has a transform.
      tied_decoder: the word embedding scores the vocabulary; else the masked-LM head has its own table.
      decoder_bias: the scores of the vocabulary have a bias.
      lora_rank: of the low-rank updates beside linear maps of the layers; 0: none (`models.adapters`).
      lora_alpha: lora_alpha / lora_rank is their factor.
      lora_targets: names of the maps that have one.
      adapter_size: width of the bottleneck adapters after attention and feed-forward; 0: none.
      prefix_length: learned keys and values of each layer; 0: none.
      quantisation: of the layers' linear maps.
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
    initializer: str = "normal"
    embedding_size: int = 0
    embedding_norm: bool = True
    embedding_scale: float = 1.0
    token_dropout_id: int = -1
    norm: str = "layer"
    norm_scale_offset: float = 0.0
    first_norm: bool = False
    norm_placement: str = "post"
    head_size: int = 0
    num_kv_heads: int = 0
    qk_norm: bool = False
    position_embedding: str = "learned"
    relative_positions: str = "none"
    relative_buckets: int = 0
    relative_distance: int = 0
    relative_norm: bool = False
    relative_terms: tuple[str, ...] = ()
    relative_maps: bool = False
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    local_window: int = 0
    global_every: int = 1
    global_first: int = 0
    activation: str = "gelu"
    gated: bool = False
    attention_bias: bool = True
    ffn_bias: bool = True
    norm_bias: bool = True
    layer_groups: int = 0
    sight: str = FULL
    reads_padding: bool = False
    layer_scale: float = 0.0
    patches: PatchConfig = PatchConfig()
    classifier_transform: bool = False
    head_activation: str = "gelu"
    head_bias: bool = True
    pooler: str = "tanh"
    pooler_on_mean: bool = False
    vocabulary_transform: bool = True
    tied_decoder: bool = True
    decoder_bias: bool = True
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ()
    adapter_size: int = 0
    prefix_length: int = 0
    quantisation: Quantisation = IN_FLOATS

    def __post_init__(self) -> None:
        for name in ("lora_targets", "relative_terms"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list where it comes from JSON
        if not isinstance(self.patches, PatchConfig):  # likewise a dict
            object.__setattr__(self, "patches", PatchConfig(**self.patches))
        if not isinstance(self.quantisation, Quantisation):
            object.__setattr__(self, "quantisation", Quantisation(**self.quantisation))
        _require(not self.quantisation.problem, f"quantisation: {self.quantisation.problem}")
        _require_sizes({name: getattr(self, name) for name in LARGEST if hasattr(self, name)})
        for name in ("hidden_size", "num_layers", "num_heads"):
            _require(getattr(self, name) > 0, f"{name} must be above 0")
        for name in ("dropout", "attention_dropout"):
            _require(0 <= getattr(self, name) < 1, f"{name} must be from 0 to below 1")
        _require(
            self.head_size or self.hidden_size % self.num_heads == 0, "hidden_size must be a multiple of num_heads"
        )
        _require(self.num_heads % self.kv_heads == 0, "num_heads must be a multiple of num_kv_heads")
        _require(self.norm in NORMS, f"norm is one of {', '.join(NORMS)}")
        _require(self.norm_placement in NORM_PLACEMENTS, f"norm_placement is one of {', '.join(NORM_PLACEMENTS)}")
        _require(0 <= self.global_first < self.global_every, "global_first must be below global_every")
        _require(self.initializer in INITIALIZERS, f"initializer is one of {', '.join(INITIALIZERS)}")
        _require(self.position_embedding in POSITION_EMBEDDINGS, "position_embedding is not one that there is")
        _require(self.relative_positions in RELATIVE_POSITIONS, "relative_positions is not one that there is")
        _require(self.position_embedding != "rope" or self.head_dim % 2 == 0, "rope needs heads of an even width")
        _require(not self.first_norm or self.pre_norm, "post-norm has no norm before the first layer")
        _require(
            {self.activation, self.head_activation, self.pooler} <= set(ACTIVATIONS),
            f"activations are {', '.join(ACTIVATIONS)}",
        )
        _require(self.reads_patches or self.position_embedding != "sine", "sine positions are of images")
        _require(
            not self.reads_patches or (self.sight == FULL and not self.reads_padding),
            "only texts have an order and padding",
        )
        _require(self.num_layers % self.layer_stacks == 0, "num_layers must be a multiple of layer_groups")
        _require(not (self.layer_groups and self.local_window), "groups of layers have no local window")
        _require(self.sight in SIGHTS, f"sight is one of {', '.join(SIGHTS)}")
        _require(set(self.relative_terms) <= {"c2p", "p2c"}, "relative_terms are c2p and p2c")
        _require(not (self.local_window and self.has_relative_positions), "relative positions have no local window")

    @property
    def reads_patches(self) -> bool:
        """Whether its rows are patches, of images or of sound, not tokens of texts."""
        return self.patches.size > 0

    @property
    def reads_sound(self) -> bool:
        """Whether its rows are patches of the log-mel frames of sound."""
        return self.patches.mels > 0

    @property
    def reads_images(self) -> bool:
        """Whether its rows are patches of images."""
        return self.reads_patches and not self.reads_sound

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embedding tables."""
        return self.embedding_size or self.hidden_size

    @property
    def pre_norm(self) -> bool:
        """Whether parts read the residual stream normalised."""
        return self.norm_placement != "post"

    @property
    def has_relative_positions(self) -> bool:
        """Whether attention scores depend on distances by more than a rotation."""
        return self.relative_positions != "none"

    @property
    def layer_stacks(self) -> int:
        """Number of layers that have weights: the leading axis of the layers' parameters."""
        return self.layer_groups or self.num_layers

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word embedding: a multiple of 128, whatever the mesh, so that a checkpoint fits every mesh.

        Rows past the vocabulary are zero and stay so, are never predicted, and are not exported (`hub.weights`).
        """
        return -(-self.vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def has_padded_rows(path: str) -> bool:
    """Whether the parameter of that path has a row for each of `padded_vocab_size`."""
    return path.endswith(("embeddings/word/embedding", "decoder/bias", "decoder/embedding"))


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the encoder's fields of a task.json of an older jaxfm under their names of today."""
    found = dict(values)
    if "ffn" in found:
        found |= {"activation": "gelu", "gated": found.pop("ffn") == "geglu"}
    if "linear_bias" in found:
        found |= dict.fromkeys(("attention_bias", "ffn_bias", "head_bias"), found.pop("linear_bias"))
    if "causal" in found:
        found["sight"] = CAUSAL if found.pop("causal") else FULL
    return found
