"""The keys of the trainer: frozen dataclasses, each field with its default, unit and reason.

The keys of a task stand in the task's own file; `jaxfm.tasks.registry` puts both together. A config file
(`configs/*.py`) starts from its `default_config(task)`, an ml_collections ConfigDict with every key, and sets what
differs.
"""

import dataclasses
from typing import Any

from jaxfm.adapt_config import AdaptConfig
from jaxfm.augment_config import TextAugmentConfig
from jaxfm.consolidation_config import ConsolidationConfig
from jaxfm.distil_config import DistilConfig
from jaxfm.errors import UserError
from jaxfm.optim_config import OptimConfig
from jaxfm.privacy_config import PrivacyConfig
from jaxfm.schema import field

# What of a layer is computed again for the backward pass, to save memory; see ModelConfig.remat.
REMAT = ("none", "dots", "full")
# Values that stand for "chosen at the start of a run", each with a word in the config:
# DataConfig.row_length from the lengths of the training examples (tasks/fine_tuning.py), TrainConfig.batch_size from
# the devices' memory (AUTO) or from the number of examples that rows hold (BY_EXAMPLES; both training/batch_size.py),
# EvalConfig.metric by the task, from the balance of its classes.
AUTO = 0
BY_EXAMPLES = -1
AUTO_METRIC = "auto"
# By what attention is computed; see ModelConfig.attention.
ATTENTION = ("auto", "xla", "cudnn", "splash")
# What becomes of splits of a source that share groups or look ahead in time; see DataConfig.leaks.
LEAKS = ("refuse", "drop", "allow")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which weights to start from and how the encoder computes."""

    init: str = field(
        "scratch",
        "URI of the first weights: scratch, hf:OWNER/NAME[@REVISION], dir:PATH, package:MODULE/SUBDIR, run:WORKDIR",
    )
    preset: str = field("", "architecture when init is scratch: a preset of jaxfm/families; else left empty")
    num_layers: int = field(0, "layers when init is scratch, in place of the preset's; 0: the preset's", at_least=0)
    hidden_size: int = field(
        0, "width when init is scratch, which num_heads divides, in place of the preset's; 0: the preset's", at_least=0
    )
    num_heads: int = field(0, "attention heads when init is scratch; 0: the preset's", at_least=0)
    head_size: int = field(
        0, "width of a head when init is scratch; 0: the preset's, or hidden_size / num_heads", at_least=0
    )
    ffn_size: int = field(0, "neurons of a feed-forward part when init is scratch; 0: the preset's", at_least=0)
    keep_layers: tuple[int, ...] = field(
        (),
        "layers of the first weights that are kept, counted from 1, e.g. (2, 4, 6) of six: a smaller model that starts "
        "from a larger one; empty: all",
    )
    tokenizer: str = field(
        "",
        "URI of the tokenizer (dir:, package:, hf:, or train:wordpiece/SIZE, train:bpe/SIZE for one learned from the "
        "training text); empty: the one beside the first weights",
    )
    grow_head: bool = field(
        False,
        "labels of the data that a loaded head lacks get new rows after its own, which are kept, those of labels that "
        "the data lack included; False: a loaded head is used only where its labels are those of the data",
    )
    dropout: float | None = field(
        None,
        "probability for hidden states, attention and head; None: as the weights' own config says",
        at_least=0.0,
        at_most=0.9,
        adjustable="always",
    )
    attention_dropout: float | None = field(
        None,
        "probability for attention weights alone, which no fused kernel has; None: as dropout says",
        at_least=0.0,
        at_most=0.9,
        adjustable="always",
    )
    sight: str = field(
        "auto",
        "what of its text a token sees: all of it (full), or no token after itself (causal); auto: all of it, and "
        "weights of another sight are refused",
        choices=("auto", "full", "causal"),
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
        "URI: quickstart, conll:DIR, brat:DIR, semeval:DIR, csv:DIR, tsv:DIR, jsonl:DIR, parquet:DIR, tfds:NAME, "
        "hf:OWNER/NAME, text:DIR, array_record:DIR; a file may stand for DIR",
    )
    words_column: str = field("", "column or field of the words; empty: found by its usual names")
    tags_column: str = field("", "column or field of the tags; empty: found by its usual names")
    document_column: str = field("", "field of the document id, where the source has one; empty: the usual names")
    text_column: str = field("", "field of the text, where a text is read as a whole; empty: the usual names")
    pair_column: str = field(
        "", "field of the second text of a pair; empty: the usual names, or none where text_column is given"
    )
    image_column: str = field(
        "", "field of an image: a path relative to the file, or the bytes of an image file; empty: the usual names"
    )
    audio_column: str = field(
        "", "field of a recording: a path relative to the file, or the bytes of a sound file; empty: the usual names"
    )
    label_column: str = field(
        "", "field of the class, classes or score of a text, or several 0/1 fields A,B,C; empty: the usual names"
    )
    holdout: float | None = field(
        None,
        "share of the documents, or of the labelled examples, kept for validation where there is no such split; 0: "
        "none; None: by size, a fifth of a few hundred labelled examples down to a twentieth of many, a hundredth of "
        "unlabelled text",
        at_least=0,
        at_most=0.5,
    )
    group_column: str = field(
        "",
        "field whose value no two splits may share (a patient, a customer, an article): what is held out are whole "
        "groups; empty: none",
    )
    time_column: str = field(
        "",
        "field of the time (ISO dates and times, or numbers): all training examples are before all others, and what is "
        "held out are the latest; empty: none",
    )
    leaks: str = field(
        "refuse",
        "splits of the source that share groups of group_column, or train on what is not before the others by "
        "time_column: refuse them; drop the examples that do from train (of groups also from valid, where test has "
        "them); allow them, and say so in the report",
        choices=LEAKS,
    )
    cache: str = field("", "folder for corpora prepared on the fly; empty: jaxfm in the user's cache folder")
    row_length: int = field(
        128,
        "tokens a packed row; the device sees [batch_size, row_length]; auto: the multiple of 128 that holds 99 % of "
        "the training examples whole (several short ones share a row, which costs no more than shorter rows would)",
        at_least=8,
        words={"auto": AUTO},
    )
    packed: bool = field(True, "several examples fill a row; False: a row holds one, or one window of a document")
    window: int = field(0, "longest example in tokens, special tokens included; 0: row_length", at_least=0)


@dataclasses.dataclass(frozen=True)
class GrowConfig:
    """Layers that are added in the middle of a run (Gong et al. 2019; Reddi et al. 2023); see docs/growing.md."""

    layers: tuple[int, ...] = field(
        (), "depths of the encoder, one after another, e.g. (3, 6, 12); empty: it keeps the depth it starts with"
    )
    at: tuple[float, ...] = field(
        (),
        "shares of all updates from which the depths after the first one hold; with patience the latest ones. Empty: "
        "at equal intervals, of (3, 6, 12) at 1/3 and 2/3",
    )
    patience: int = field(
        0,
        "evaluations without a validation loss that is lower by min_gain after which layers are added before their "
        "time; 0: never before",
        at_least=0,
    )
    min_gain: float = field(0.01, "share of the validation loss by which it must fall", at_least=0.0, at_most=1.0)
    new_layers: str = field(
        "preserving",
        "preserving: copies of the layers below whose outputs are zero, so that the function stays the same (Chen et "
        "al. 2016; pre-norm only). stacked: copies as they are (Gong et al. 2019); the loss jumps",
        choices=("preserving", "stacked"),
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long and in what portions to train."""

    epochs: float = field(3.0, "passes over the training rows (rounded up to whole steps)", above=0.0)
    steps: int = field(0, "optimizer updates; 0: as epochs says", at_least=0)
    min_steps: int = field(
        0,
        "least updates where steps is 0, early stopping or not: a new head needs some hundred, however few examples "
        "(Mosbach et al. 2021, Zhang et al. 2021: few examples ask for more passes, not for fewer updates)",
        at_least=0,
    )
    batch_size: int = field(
        16,
        "rows of one update over ALL devices and hosts; auto: as many as fit into memory; examples: rows that hold "
        "batch_examples on average",
        at_least=1,
        words={"auto": AUTO, "examples": BY_EXAMPLES},
    )
    batch_examples: int = field(
        16,
        "examples of one update on average, where batch_size is examples (rounded to whole rows on every device)",
        at_least=1,
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
    stop_after_skips: int = field(
        20,
        "updates in a row, counted in whole intervals of log.every_steps, that were skipped (gradient not finite, or a "
        "spike) before the run stops and saves the batch of the last one",
        at_least=1,
    )
    verify_every_steps: int = field(
        0,
        "updates between two of which the update is computed twice and the copies of all arrays on the devices are "
        "compared, against devices that compute wrongly in silence; needs room for a second state; 0: never",
        at_least=0,
    )
    seeds: int = field(
        1,
        "runs trained at once in one program, of the seeds seed, seed + 1, ..., each as the single run of its seed in "
        "WORKDIR/seedN; 1: one run, in WORKDIR",
        at_least=1,
    )
    learning_rates: tuple[float, ...] = field(
        (), "peak rates trained at once, each with every seed and weight decay; empty: optim.learning_rate alone"
    )
    weight_decays: tuple[float, ...] = field(
        (), "weight decays trained at once, each with every seed and peak rate; empty: optim.weight_decay alone"
    )


@dataclasses.dataclass(frozen=True)
class SupernetConfig:
    """Smaller encoders inside the one that is trained, which share its weights; see docs/supernet.md. None: empty."""

    depths: tuple[int, ...] = field((), "numbers of layers that a subnet may have beside all of them")
    heads: tuple[int, ...] = field((), "numbers of heads of each layer, beside all of them")
    ffn_sizes: tuple[int, ...] = field((), "neurons of each feed-forward part, beside all of them")
    random: int = field(2, "subnets drawn for each update, beside the largest and the smallest", at_least=0)
    distillation: float = field(
        1.0,
        "how far subnets learn from the largest one's outputs (Yu et al. 2020: 1) in place of the targets; between 0 "
        "and 1 they learn from both, at twice the cost",
        at_least=0.0,
        at_most=1.0,
    )
    temperature: float = field(1.0, "of the classes' probabilities that subnets learn from", above=0.0)
    importance_batches: int = field(
        16,
        "batches by which heads and neurons of loaded weights are ordered before training, the most important first, "
        "as small subnets keep the first ones; 0: as they are",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class ExitsConfig:
    """Heads after some of the layers, at which easy examples leave; see docs/early_exit.md. None: `every` is 0."""

    every: int = field(0, "layers from one head to the next; 0: the last layer alone has one", at_least=0)
    weights: str = field(
        "depth",
        "what the loss of a head counts: depth, as much as the layers below it (Zhou et al. 2020); equal, all alike",
        choices=("depth", "equal"),
    )
    pooling: str = field(
        "mean",
        "the vector that an early head judges a whole example by: the mean over its tokens, as the first one's gathers "
        "little before the last layers; task, as task.pooling",
        choices=("mean", "task"),
    )
    joint: bool = field(
        True,
        "whether early heads train the layers too; False: the layers learn from the last head alone, as they would "
        "without early ones",
    )
    distillation: float = field(
        0.0,
        "how far early heads learn from the last one's outputs (Phuong and Lampert 2019) in place of the targets",
        at_least=0.0,
        at_most=1.0,
    )
    temperature: float = field(1.0, "of the classes' probabilities that early heads learn from", above=0.0)
    max_loss: float = field(
        0.01,
        "most that leaving early may cost: the share of predictions (examples, labels, words) that are right by all "
        "layers and wrong where the example left",
        above=0.0,
        at_most=1.0,
    )
    certainty: float = field(
        0.9,
        "probability with which max_loss holds beyond the validation split (Angelopoulos et al. 2021); 0: it holds on "
        "that split, and nothing is said beyond it",
        at_least=0.0,
        at_most=0.999,
    )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """When to score the validation split and which checkpoint wins."""

    every_steps: int = field(
        0, "updates between evaluations; 0: once an epoch, of more than 20 epochs 20 times in all", at_least=0
    )
    batch_size: int = field(32, "rows of one evaluation step over all devices and hosts", at_least=1)
    metric: str = field(
        AUTO_METRIC,
        "validation metric by which the best checkpoint is chosen; auto: by the task (F1 of entities, accuracy, macro "
        "F1 where classes are imbalanced, Pearson's correlation, loss of masked tokens)",
    )
    first: bool = field(
        False,
        "score the validation split before the first update too: what the first weights do as they are; no checkpoint",
    )
    select: str = field("best", "the checkpoint that is reported, exported and used", choices=("best", "last"))
    patience: int = field(
        0,
        "evaluations in a row that are not the best so far (at an equal metric by their loss) after which training "
        "stops, but not before train.min_steps; 0: never stop",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk (one checkpoint = parameters, both moments, open metric sums)."""

    every_steps: int = field(0, "updates between saves beside those at evaluations; 0: none beside", at_least=0)
    keep_last: int = field(
        2,
        "latest checkpoints kept (the best one is kept as well); two, so that a disk that damages the last one costs "
        "no more than the updates since the one before",
        at_least=1,
    )
    mirror: str = field(
        "",
        "a URL (gs://BUCKET/FOLDER, s3://BUCKET/FOLDER) that the run directory is copied to after each save, and that "
        "an absent run directory is fetched from; empty: none",
    )
    keep_optimizer: bool = field(
        False,
        "a finished run keeps its checkpoints whole; False: the weights that it stands for alone, half to a third "
        "of the size, which is all that scoring, predicting, exporting and a next run need",
    )


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
    tracker: str = field(
        "",
        "a tracker of experiments that gets the metrics too; empty: none",
        choices=("", "wandb", "mlflow", "trackio"),
    )
    project: str = field("jaxfm", "what the tracker files a run under")
    stall_factor: float = field(
        20.0,
        "times the usual seconds of an update without a sign of life after which the run says what it waits for, with "
        "the stacks of all threads; it is never ended by that. 0: never said",
        at_least=0.0,
    )
    stall_seconds: float = field(
        60.0,
        "of that silence, the least; ten times as long before the first updates, thirty times in a compilation, an "
        "evaluation or a save",
        above=0.0,
    )


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """What is recorded of devices and host while training runs."""

    steps: str = field("", "START:STOP, a jax.profiler trace of the updates after START up to STOP; empty: none")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, whole."""

    task: Any = field(None, "keys of the task, a group of their own (`jaxfm.tasks.registry`)")
    seed: int = field(0, "of initial head, packing, row order and dropout", at_least=0)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    adapt: AdaptConfig = dataclasses.field(default_factory=AdaptConfig)
    grow: GrowConfig = dataclasses.field(default_factory=GrowConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    supernet: SupernetConfig = dataclasses.field(default_factory=SupernetConfig)
    exits: ExitsConfig = dataclasses.field(default_factory=ExitsConfig)
    distil: DistilConfig = dataclasses.field(default_factory=DistilConfig)
    augment: TextAugmentConfig = dataclasses.field(default_factory=TextAugmentConfig)
    consolidate: ConsolidationConfig = dataclasses.field(default_factory=ConsolidationConfig)
    privacy: PrivacyConfig = dataclasses.field(default_factory=PrivacyConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    parallel: ParallelConfig = dataclasses.field(default_factory=ParallelConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)


# Keys that change neither the result nor what a checkpoint holds: a run may be resumed with other values of these.
FREE_ON_RESUME = (
    *("log", "profile", "parallel", "checkpoint", "data.cache", "model.attention"),
    *("train.stop_after_skips", "train.verify_every_steps"),
)


def __getattr__(name: str) -> Any:
    """Says where names of older config files are now."""
    if name in ("default_config", "from_config_dict"):
        raise UserError(
            f"jaxfm.config.{name} is jaxfm.tasks.registry.{name} now: default_config takes the task's name."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
