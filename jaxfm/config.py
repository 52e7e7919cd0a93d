"""The keys of a run: frozen dataclasses, each field with its default, unit and reason.

A config file (`configs/*.py`) starts from `default_config()`, an ml_collections ConfigDict with every key of this
schema, and sets what differs; `from_config_dict` turns the result into the dataclasses below. A key that is not in
the schema is an error that names the nearest one; a value out of range is an error that names the key and the rule.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxfm import schema
from jaxfm.schema import build, field, to_config_dict

# What of a layer is computed again for the backward pass, to save memory; see ModelConfig.remat.
REMAT = ("none", "dots", "full")
# What TrainConfig.batch_size is until a run finds the batch that fits its devices; see training/batch_size.py.
AUTO = 0
# By what attention is computed; see ModelConfig.attention.
ATTENTION = ("auto", "xla", "cudnn", "splash")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which weights to start from and how the encoder computes."""

    init: str = field(
        "scratch", "URI of the first weights: scratch, hf:OWNER/NAME, dir:PATH, package:MODULE/SUBDIR, run:WORKDIR"
    )
    preset: str = field("", "architecture when init is scratch: a name of jaxfm.core.encoder_config; else left empty")
    tokenizer: str = field(
        "",
        "URI of the tokenizer (dir:, package:, hf:, or train:wordpiece/SIZE, train:bpe/SIZE for one learned from the "
        "training text); empty: the one beside the first weights",
    )
    dropout: float | None = field(
        None,
        "probability for hidden states, attention and head; None: as the weights' own config says",
        at_least=0.0,
        at_most=0.9,
    )
    attention_dropout: float | None = field(
        None,
        "probability for attention weights alone, which no fused kernel has; None: as dropout says",
        at_least=0.0,
        at_most=0.9,
    )
    attention: str = field(
        "auto",
        "what computes attention in training, never which function: XLA, a fused kernel of cuDNN (NVIDIA "
        "GPUs) or splash (TPUs); auto: the first kernel that can, else XLA, layer by layer",
        choices=ATTENTION,
    )
    scan_layers: bool | None = field(
        None, "one compiled layer looped over (fast compile) or all unrolled; None: unrolled on CPU, looped elsewhere"
    )
    remat: str = field(
        "none",
        "what of a layer the backward pass computes again instead of keeping it: nothing; all but the products with "
        "weights (dots: attention, dropout and the like, little work for most of the memory); all of it",
        choices=REMAT,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where examples come from and how they fill fixed-length rows."""

    source: str = field(
        "quickstart",
        "URI: quickstart, conll:DIR, brat:DIR, csv:DIR, tsv:DIR, jsonl:DIR, parquet:DIR, tfds:NAME, hf:OWNER/NAME, "
        "text:DIR, array_record:DIR",
    )
    words_column: str = field("", "column or field of the words; empty: found by its usual names")
    tags_column: str = field("", "column or field of the tags; empty: found by its usual names")
    document_column: str = field("", "field of the document id, where the source has one; empty: the usual names")
    text_column: str = field("", "field of the text, where a text is read as a whole; empty: the usual names")
    pair_column: str = field(
        "", "field of the second text of a pair; empty: the usual names, or none where text_column is given"
    )
    label_column: str = field(
        "", "field of the class, classes or score of a text, or several 0/1 fields A,B,C; empty: the usual names"
    )
    holdout: float = field(
        0.01,
        "share of the documents, or of the labelled examples, kept for validation where there is no such split",
        at_least=0,
        at_most=0.5,
    )
    splitter: str = field(
        "auto",
        "what splits raw text into words for NER: fine (each mark a word), coarse (as news corpora), auto: fine where "
        "entities are given in characters, else the nearest to the words of training",
        choices=("auto", "fine", "coarse"),
    )
    cache: str = field("", "folder for corpora prepared on the fly; empty: jaxfm in the user's cache folder")
    row_length: int = field(128, "tokens a packed row; the device sees [batch_size, row_length]", at_least=8)
    packed: bool = field(True, "several examples fill a row; False: a row holds one, or one window of a document")
    window: int = field(0, "longest example in tokens, special tokens included; 0: row_length", at_least=0)
    overlap: int = field(32, "tokens shared by neighbouring windows of a sentence that fits no window", at_least=0)
    context: str = field(
        "sentence",
        "what fills a window: the sentence alone, or its neighbours of the same document as well",
        choices=("sentence", "document"),
    )


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    """What masked-LM pretraining hides (Devlin et al. 2019, section 3.1) and how it is scored."""

    unit: str = field("token", "what is hidden as a whole", choices=("token", "whole_word", "span"))
    ratio: float = field(0.15, "share of the tokens that are hidden, at the first step", above=0.0, at_most=0.9)
    final_ratio: float | None = field(
        None, "the same at the last step, linear between; None: the ratio stays", above=0.0, at_most=0.9
    )
    mask_share: float = field(
        0.8, "mlm: of the hidden tokens, those replaced by the mask token (rtd: all)", at_least=0, at_most=1
    )
    random_share: float = field(
        0.1, "mlm: of the hidden tokens, those replaced by a random one (rtd: none)", at_least=0, at_most=1
    )
    evaluate: tuple[str, ...] = field(
        ("token", "whole_word", "span"), "units whose fixed masks validation and test are scored on, beside `unit`"
    )
    logits_chunk: int = field(
        0,
        "mlm: hidden places of a row whose scores of the whole vocabulary are in memory at once; the backward pass "
        "computes them again; 0: all of them, and nothing twice",
        at_least=0,
    )
    z_loss: float = field(0.0, "weight of the squared log-partition, keeps logits small (PaLM: 1e-4)", at_least=0)
    generator_depth: float = field(
        1 / 3, "rtd: layers of the generator as a share of the encoder's, at least one layer", above=0.0, at_most=1.0
    )
    discriminator_weight: float = field(
        50.0, "rtd: weight of the discriminator's loss beside the generator's (Clark et al. 2020: 50)", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov and Hutter 2019) and its schedule."""

    learning_rate: float = field(5e-5, "peak rate", above=0.0)
    schedule: str = field(
        "linear",
        "shape after the warm-up; wsd: constant, then linear decay over the last decay_fraction",
        choices=("linear", "cosine", "constant", "wsd"),
    )
    warmup_fraction: float = field(0.1, "share of all steps with rising rate", at_least=0.0, at_most=1.0)
    decay_fraction: float = field(0.2, "share of all steps with falling rate (wsd only)", at_least=0.0, at_most=1.0)
    final_fraction: float = field(0.0, "rate at the last step as a share of the peak", at_least=0.0, at_most=1.0)
    weight_decay: float = field(0.01, "decoupled decay, times the rate, of the parameters not in no_decay", at_least=0)
    no_decay: tuple[str, ...] = field(
        ("*/bias", "*norm/scale"), "path patterns (fnmatch) of parameters without decay; each must match something"
    )
    b1: float = field(0.9, "decay of the first moment", at_least=0.0, at_most=1.0)
    b2: float = field(0.999, "decay of the second moment", at_least=0.0, at_most=1.0)
    eps: float = field(1e-8, "added to the root of the second moment", above=0.0)
    clip_norm: float = field(1.0, "global gradient norm above which gradients are scaled down; 0: never", at_least=0)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank updates beside frozen weights (Hu et al. 2021): y = x W + x A B * alpha / rank."""

    rank: int = field(0, "columns of A and rows of B; 0: none", at_least=0)
    alpha: float = field(16.0, "alpha / rank is the factor of the update", above=0.0)
    targets: tuple[str, ...] = field(
        ("query", "value"),
        "linear maps of a layer that get one: query, key, value, output, up, down, gate (geglu), or all",
    )


@dataclasses.dataclass(frozen=True)
class AdaptConfig:
    """What of a model is trained, from when on and how fast, and which of its weights a run stands for."""

    train: str = field(
        "all",
        "all; the head alone; biases and head (BitFit, Ben Zaken et al. 2022). The head is all but the encoder",
        choices=("all", "head", "biases"),
    )
    freeze: tuple[str, ...] = field(
        (), "path patterns (fnmatch) of parameters that stay as they are, e.g. encoder/embeddings/*; each must match"
    )
    freeze_layers: int = field(0, "lowest layers that stay as they are (embeddings: see freeze)", at_least=0)
    unfreeze_every: int = field(
        0,
        "updates until the next layer, from the top, and last the embeddings are trained beside the head "
        "(Howard and Ruder 2018, section 3.3); 0: all from the start",
        at_least=0,
    )
    layer_decay: float = field(
        1.0,
        "layer l of L, from 0, learns at the rate times layer_decay^(L - l), embeddings at ^(L + 1), the head at the "
        "rate",
        above=0.0,
        at_most=1.0,
    )
    head_rate: float = field(1.0, "factor of the head's rate", above=0.0)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    adapter_size: int = field(
        0, "width of bottleneck adapters behind attention and feed-forward (Houlsby et al. 2019); 0: none", at_least=0
    )
    prefix_length: int = field(
        0, "learned keys and values before those of each layer (Li and Liang 2021); 0: none", at_least=0
    )
    ema: float = field(
        0.0,
        "decay of a moving average of the weights, which is what is scored, kept and used; 0: the weights themselves",
        at_least=0.0,
        at_most=0.99999,
    )
    average_best: int = field(
        0,
        "the mean of so many best checkpoints is used where it scores better on valid than the best; 0: no mean",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and in what portions to train."""

    epochs: float = field(3.0, "passes over the training rows (rounded up to whole steps)", above=0.0)
    steps: int = field(0, "optimizer updates; 0: as epochs says", at_least=0)
    batch_size: int = field(
        16,
        "rows of one update over ALL devices and hosts; auto (the same as 0): as many as fit into memory",
        at_least=0,
        words={"auto": AUTO},
    )
    first_batch_size: int = field(
        0, "rows of the first updates, doubled at equal intervals up to batch_size; 0: batch_size", at_least=0
    )
    batch_warmup_steps: int = field(0, "updates before the batch has its full size", at_least=0)
    accumulate: int = field(1, "micro-batches an update is summed from (exact for token-weighted losses)", at_least=1)
    precision: str = field(
        "auto",
        "of activations and matrix products (weights stay f32); auto: bf16 on TPU and GPU, f32 on CPU",
        choices=("auto", "f32", "bf16"),
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is minimised over classes (words of NER, examples of classification)."""

    label_smoothing: float = field(0.0, "share of the target spread over all classes", at_least=0.0, at_most=0.9)
    class_weights: str = field(
        "", "balanced: the rarer a class the more it counts; or CLASS=WEIGHT,...: others 1; empty: all alike"
    )
    focal_gamma: float = field(
        0.0, "exponent by which what is already right counts less (Lin et al. 2017: 2); 0: not at all", at_least=0
    )
    r_drop: float = field(
        0.0,
        "weight of the disagreement of two passes under other dropout (Liang et al. 2021: 1 to 5), at twice the cost; "
        "0: one pass",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """What task classification makes of an example."""

    kind: str = field(
        "single",
        "one class; several labels that may hold together (multi); a number (regression)",
        choices=("single", "multi", "regression"),
    )
    pooling: str = field(
        "cls",
        "the vector an example is judged by: of its first token, or the mean over its tokens",
        choices=("cls", "mean"),
    )
    threshold: float = field(0.5, "multi: probability from which a label holds", above=0.0, at_most=1.0)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """When to score the validation split and which checkpoint wins."""

    every_steps: int = field(0, "updates between evaluations; 0: once an epoch", at_least=0)
    batch_size: int = field(32, "rows of one evaluation step over all devices and hosts", at_least=1)
    metric: str = field("f1", "validation metric by which the best checkpoint is chosen")
    select: str = field("best", "the checkpoint that is reported, exported and used", choices=("best", "last"))
    rows: int = field(
        4000,
        "task masked_lm: most rows of valid or test that are masked and scored, evenly spread over the split; 0: all",
        at_least=0,
    )
    patience: int = field(0, "evaluations without a better metric before training stops; 0: never stop", at_least=0)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk (one checkpoint = parameters, both moments, open metric sums)."""

    every_steps: int = field(0, "updates between saves beside those at evaluations; 0: none beside", at_least=0)
    keep_last: int = field(1, "latest checkpoints kept (the best one is kept as well)", at_least=1)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the device mesh's axes; their product is the number of devices. One of them may be -1: all left over."""

    data: int = field(-1, "copies of the model, each with its share of the batch", at_least=-1)
    fsdp: int = field(1, "parts into which each parameter is cut; the batch is cut too", at_least=-1)
    tensor: int = field(1, "parts into which heads, ffn and vocabulary are cut", at_least=-1)
    sequence: int = field(1, "parts into which rows are cut along their tokens, for long rows", at_least=-1)


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How a run is spread over devices; changes nothing about its result."""

    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)


@dataclasses.dataclass(frozen=True)
class LogConfig:
    """What is written while training runs."""

    every_steps: int = field(20, "updates between two log lines", at_least=1)
    tensorboard: bool = field(True, "write TensorBoard events beside metrics.jsonl")


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """What is recorded of devices and host while training runs."""

    steps: str = field("", "START:STOP, a jax.profiler trace of the updates behind START up to STOP; empty: none")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, whole."""

    task: str = field("ner", "what is learned: a name of jaxfm.tasks.registry")
    objective: str = field(
        "mlm",
        "of task masked_lm: guess what is hidden, or also which tokens a small generator replaced (ELECTRA)",
        choices=("mlm", "rtd"),
    )
    seed: int = field(0, "of initial head, packing, row order and dropout", at_least=0)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    mask: MaskConfig = dataclasses.field(default_factory=MaskConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    adapt: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)
    classification: ClassificationConfig = dataclasses.field(default_factory=ClassificationConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)


# Keys that change neither the result nor what a checkpoint holds: a run may be resumed with other values of these.
FREE_ON_RESUME = ("log", "profile", "parallel", "checkpoint", "data.cache", "model.attention")


def default_config() -> ml_collections.ConfigDict:
    """Returns the schema's defaults as a locked ConfigDict: where every config file starts."""
    return to_config_dict(Config())


def check_key(key: str) -> None:
    """Raises UserError, naming the nearest one, unless `key` ("optim.learning_rate") is a key of `Config`."""
    schema.check_key(Config, key)


def from_config_dict(values: Mapping[str, Any] | ml_collections.ConfigDict) -> Config:
    """Turns a ConfigDict (or nested mapping) into a checked `Config`; keys left out take their defaults.

    Raises:
      UserError: an unknown key (with the nearest one), a value of a wrong type, out of range or not among the choices.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    return build(Config, values)
