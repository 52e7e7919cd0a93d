"""Classification of texts and pairs of texts: one class, several labels, or a number, over packed examples."""

# B batch, S segments (examples in a row), C classes, E examples

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.task import NOT_CALIBRATED, TOKENIZER_DIR, Evaluation, build_spec, read_task, write_task
from jaxfm.data.records.examples import Example, ExampleColumns, read_examples
from jaxfm.data.records.glue import glue_set
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.tokenization import check_tokenizer, load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.calibration import assess, fit_calibration, losses, probabilities, read_calibration
from jaxfm.evaluation.classes import score_classes, score_labels, score_values, undefined_metrics
from jaxfm.hub.initial import Initial
from jaxfm.models.heads import SequenceClassifier
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.tasks.classification_predictor import (
    ClassifierPredictor,
    ClassifierSpec,
    EncodedExamples,
    encode,
    there,
    tokenize,
)
from jaxfm.tasks.losses import (
    ClassLoss,
    LabelLoss,
    class_weights,
    squared_difference,
    squared_error,
    symmetric_kl,
    symmetric_kl_of_labels,
    with_r_drop,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What may choose a checkpoint -> is more better?
_SHARES = ("accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "mcc")
_OF_CLASSES = dict.fromkeys(_SHARES, True) | {"loss": False}
_OF_TWO = dict.fromkeys(("f1", "precision", "recall"), True)
_OF_LABELS = {
    **dict.fromkeys(("micro_f1", "macro_f1", "weighted_f1", "micro_precision", "micro_recall", "exact_match"), True),
    "loss": False,
}
_OF_VALUES = {"pearson": True, "spearman": True, "loss": False, "mse": False, "mae": False}
# Classes where no data says how many there are.
_SOME_CLASSES = ("negative", "positive")
_SOME_EXAMPLE = 16  # tokens


@dataclasses.dataclass(frozen=True)
class ClassifierObjective:
    """A classifier and its loss (implements jaxfm.core.task.Objective).

    Attributes:
      model: what is trained.
      class_loss: of kind "single".
      label_loss: of kind "multi".
      r_drop: weight of the disagreement of two passes; 0: one pass.
    """

    model: ClassifierSpec
    class_loss: ClassLoss
    label_loss: LabelLoss
    r_drop: float

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.model.encoder

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool, remat: str = "none") -> nnx.Module:
        """Builds encoder and head."""
        return self.model.make_model(rngs, dtype=dtype, scan=scan, remat=remat)

    def label_shape(self, row_length: int) -> tuple[tuple[int, ...], np.dtype]:
        """Targets of the examples of a row."""
        del row_length
        return self.model.label_shape()

    def loss(
        self, model: SequenceClassifier, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """The loss of the kind, summed over examples (multi: over their labels); but for numbers also "accuracy"."""
        del progress
        kind, labels = self.model.kind, batch["labels"]

        def apply(pass_key: jax.Array) -> jax.Array:
            outputs_BSC = model(batch, key=pass_key)
            return outputs_BSC[..., 0] if kind == "regression" else outputs_BSC

        def one(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            if kind == "regression":
                return squared_error(outputs, labels, there(batch["segment_ids"], self.model.segments))
            return self.class_loss(outputs, labels) if kind == "single" else self.label_loss(outputs, labels)

        apart = {"single": symmetric_kl, "multi": symmetric_kl_of_labels, "regression": squared_difference}[kind]
        outputs, loss, weight = with_r_drop(apply, one, apart, key, self.r_drop)
        sums: Sums = {}
        if kind != "regression":
            guess = jnp.argmax(outputs, axis=-1) if kind == "single" else (outputs > 0).astype(jnp.int32)
            sums["accuracy"] = weighted(jnp.sum(guess == labels), jnp.sum(labels >= 0))
        return loss.sum(), (weight.sum(), sums)


@dataclasses.dataclass(frozen=True)
class ClassificationTask(ClassifierObjective):
    """The same with the splits of one source (implements jaxfm.core.task.Task)."""

    tokenizer: "PreTrainedTokenizerFast"
    examples: Mapping[str, tuple[Example, ...]]
    encoded: Mapping[str, EncodedExamples]
    notes: tuple[str, ...]

    name = "classification"

    @property
    def selection_metrics(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        if self.model.kind == "single":
            return _OF_CLASSES | (_OF_TWO if len(self.model.labels) == 2 else {})
        return _OF_LABELS if self.model.kind == "multi" else _OF_VALUES

    def outputs(self, model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See ClassifierSpec.outputs."""
        return self.model.outputs(model, batch)

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are."""
        return tuple(self.encoded)

    def rows(self, split: str) -> PackedRows:
        """Returns a split's packed rows."""
        return self.encoded[split].rows

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature to the validation split where that helps; a number has no probability to fit."""
        kind = self.model.kind
        if kind == "regression":
            return {}
        gold = targets_of(self.model, self.examples["valid"])
        return fit_calibration(self.encoded["valid"].per_example(outputs["outputs"]), gold, kind)

    def score(
        self, split: str, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Scores a split; see evaluation/classes.py for what is counted. The loss is that of outputs not calibrated."""
        model, examples = self.model, self.examples[split]
        outputs_EC = self.encoded[split].per_example(outputs["outputs"])
        gold = targets_of(model, examples)
        identity = [(example.text, example.pair, example.target) for example in examples]
        if model.kind == "regression":
            found = outputs_EC[:, 0].astype(np.float64)
            scores = score_values(gold, found, identity=identity)
        else:
            found = probabilities(outputs_EC, calibration, model.kind)
            loss_E = losses(outputs_EC, gold, NOT_CALIBRATED, model.kind)
            if model.kind == "single":
                scores = score_classes(gold, found, model.labels, loss_N=loss_E, identity=identity)
            else:
                scores = score_labels(gold, found, model.labels, model.threshold, loss_N=loss_E, identity=identity)
            assessed = assess(outputs_EC, gold, calibration, model.kind)
            scores = dataclasses.replace(
                scores,
                detail={**scores.detail, "calibration": assessed.detail},
                tables=(*scores.tables, assessed.table),
                plots={**scores.plots, **assessed.plots},
            )
        return Evaluation(
            metrics=scores.metrics,
            scores={**scores.metrics, **scores.detail},
            tables=scores.tables,
            predictions=_records(model, examples, found, self.encoded[split].cut),
            bootstrap_data=scores.bootstrap_data,
            plots=scores.plots,
        )

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_task(workdir, {"task": self.name, **dataclasses.asdict(self.model)})


def create(config: Config, initial: Initial) -> ClassificationTask:
    """Reads the source and builds the task of a new run.

    Raises:
      UserError: no training data, fewer than two classes, a class unseen in training, one text where pairs are meant.
    """
    source, kind = config.data.source, config.classification.kind
    glue = glue_set(source)
    if glue is not None and glue.kind != kind:
        raise UserError(f"config.classification.kind: is {kind!r}, but {source} is of kind {glue.kind!r}.")
    read = read_examples(source, None, columns=_columns(config), kind=kind, holdout=config.data.holdout)
    examples = {split: found.examples for split, found in read.items()}
    labels = read["train"].classes or _labels(kind, examples["train"], source, glue.positive if glue else "")
    head_note = "head: new"
    if set(initial.labels) == set(labels):
        labels, head_note = initial.labels, "head: loaded, its classes are those of the data"
    if initial.tokenizer is None:
        raise UserError("config.model.tokenizer: 'scratch' needs dir:PATH (or package:, hf:) of a tokenizer.")
    tokenizer = load_tokenizer(initial.tokenizer)
    check_tokenizer(tokenizer, initial.encoder.vocab_size, initial.tokenizer)
    pairs = examples["train"][0].pair is not None
    model = _model(config, initial.encoder, labels, pairs=pairs, segments=1)
    tokenized = tokenize(model, tokenizer, _texts(examples["train"]))
    lengths = [len(tokens) for tokens in tokenized[0]]
    if config.data.packed:
        model = dataclasses.replace(model, segments=_most_together(lengths, model.row_length))
    encoded = {
        split: encode_labelled(model, tokenizer, examples[split], seed=None) for split in examples if split != "train"
    }
    # Training texts, the most of all, are tokenized once.
    train = encode_labelled(model, tokenizer, examples["train"], seed=config.seed, tokenized=tokenized)
    encoded = {"train": train, **encoded}
    counts_C = None if kind == "regression" else _counts(model, examples["train"])
    class_loss, label_loss = _losses(config, labels, counts_C)
    rows = len(encoded["train"].rows)
    packed = f"train: {len(lengths):,} examples in {rows:,} rows, {len(lengths) / rows:.1f} a row"
    cut = [note for split, done in encoded.items() for note in _cut_notes(split, done, model.window)]
    named = "" if kind == "regression" else f", {len(labels)} classes ({_listed(labels)})"
    left_over = initial.left_over(_used(model, initial))
    said = (head_note + named, *(found.note for found in read.values()), packed, *cut)
    notes = (*initial.notes, *left_over, *said, *_metric_notes(config, model, examples.get("valid", ())))
    return ClassificationTask(model, class_loss, label_loss, config.loss.r_drop, tokenizer, examples, encoded, notes)


def outline(config: Config, encoder: EncoderConfig) -> ClassifierObjective:
    """Builds model and loss without data or tokenizer, for shapes alone."""
    labels = ("score",) if config.classification.kind == "regression" else _SOME_CLASSES
    segments = max(config.data.row_length // _SOME_EXAMPLE, 1) if config.data.packed else 1
    model = _model(config, encoder, labels, pairs=False, segments=segments)
    plain = dataclasses.replace(config.loss, class_weights="")
    return ClassifierObjective(
        model, *_losses(dataclasses.replace(config, loss=plain), labels, None), config.loss.r_drop
    )


def select_params(task: ClassificationTask, initial: Initial) -> dict[str, np.ndarray]:
    """Returns the loaded parameters this task uses: the last layer only when its classes are the task's."""
    used = _used(task.model, initial)
    return {name: value for name, value in initial.params.items() if name.startswith(used)}


def _used(model: ClassifierSpec, initial: Initial) -> tuple[str, ...]:
    """Parts of a checkpoint that a classifier takes."""
    between = "transform/" if model.encoder.classifier_transform else "pooler/"
    dense = (between,) if model.encoder.classifier_transform or model.pooling == "cls" else ()
    return ("encoder/", *dense, *(("head/",) if initial.labels == model.labels else ()))


def open_model(workdir: pathlib.Path) -> tuple[ClassifierSpec, "PreTrainedTokenizerFast"]:
    """Reads back what `save` wrote into a run directory."""
    values = read_task(workdir)
    return build_spec(ClassifierSpec, values), load_tokenizer(workdir / TOKENIZER_DIR)


def open_task(workdir: pathlib.Path, config: Config, source: str, split: str) -> ClassificationTask:
    """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
    model, tokenizer = open_model(workdir)
    read = read_examples(source, (split,), columns=_columns(config), kind=model.kind, holdout=config.data.holdout)
    ((split, found),) = read.items()
    encoded = encode_labelled(model, tokenizer, found.examples, seed=None)
    examples = {split: found.examples}
    notes = (found.note, *_cut_notes(split, encoded, model.window))
    return ClassificationTask(model, ClassLoss(), LabelLoss(), 0.0, tokenizer, examples, {split: encoded}, notes)


def open_predictor(workdir: pathlib.Path) -> ClassifierPredictor:
    """Returns the classifier of a trained run, with the calibration that the run fitted."""
    return ClassifierPredictor(*open_model(workdir), read_calibration(workdir))


# A classifier knows all that an export needs.
open_exporter = open_predictor


def encode_labelled(
    model: ClassifierSpec,
    tokenizer: "PreTrainedTokenizerFast",
    examples: Sequence[Example],
    seed: int | None,
    tokenized: Any = None,
) -> EncodedExamples:
    """Encodes labelled examples; UserError names the place of a class that training did not see, or of a lone text.

    `tokenized` is what `tokenize` gives for their texts, where that is known already.
    """
    for example in examples:
        if (example.pair is not None) != model.pairs:
            raise UserError(f"{example.origin}: {'one text' if model.pairs else 'a second text'}, unlike in training.")
    return encode(model, tokenizer, _texts(examples), targets_of(model, examples), seed, tokenized)


def targets_of(model: ClassifierSpec, examples: Sequence[Example]) -> np.ndarray:
    """Returns class numbers int32 [E], 0 or 1 int32 [E, C], or numbers f32 [E]; UserError for an unseen class."""
    if model.kind == "regression":
        return np.asarray([example.target for example in examples], np.float32)
    index = {label: number for number, label in enumerate(model.labels)}

    def number(example: Example, label: Any) -> int:
        if label not in index:
            raise UserError(
                f"{example.origin}: the label {label!r} does not occur in the training data. "
                f"{did_you_mean(str(label), model.labels)}"
            )
        return index[label]

    if model.kind == "single":
        return np.asarray([number(example, example.target) for example in examples], np.int32)
    targets = np.zeros((len(examples), len(index)), np.int32)
    for row, example in enumerate(examples):
        assert isinstance(example.target, tuple)
        targets[row, [number(example, label) for label in example.target]] = 1
    return targets


def _labels(kind: str, examples: Sequence[Example], source: str, positive: str) -> tuple[str, ...]:
    """Returns the classes of the training split: numbers in their order, then names; `positive`, if any, at the end."""
    if kind == "regression":
        return ("score",)
    names: set[str] = set()
    for example in examples:
        names.update([str(example.target)] if kind == "single" else example.target)  # type: ignore[arg-type]
    if len(names) < (2 if kind == "single" else 1):
        found = f"only the class {next(iter(names))!r}" if names else "no label"
        raise UserError(f"config.data.source: the training split of {source} has {found}: nothing to learn.")

    def place(name: str) -> tuple[bool, bool, int, str]:
        number = name.removeprefix("-").isdecimal()
        return name == positive, not number, int(name) if number else 0, name

    return tuple(sorted(names, key=place))


def _counts(model: ClassifierSpec, examples: Sequence[Example]) -> np.ndarray:
    targets = targets_of(model, examples)
    return np.bincount(targets, minlength=len(model.labels)) if model.kind == "single" else targets.sum(axis=0)


def _losses(config: Config, labels: Sequence[str], counts_C: np.ndarray | None) -> tuple[ClassLoss, LabelLoss]:
    """Reads `config.loss` for the kind; UserError for a setting that the kind has no use for."""
    kind, loss = config.classification.kind, config.loss
    useless = {"single": (), "multi": ("label_smoothing",)}.get(
        kind, ("label_smoothing", "class_weights", "focal_gamma")
    )
    for name in useless:
        if value := getattr(loss, name):
            raise UserError(
                f"config.loss.{name}: is {value!r}, which config.classification.kind={kind} has no use for."
            )
    if kind != "multi":
        return ClassLoss.of(loss, labels, counts_C), LabelLoss()
    return ClassLoss(), LabelLoss(loss.focal_gamma, class_weights(loss, labels, counts_C))


def _model(
    config: Config, encoder: EncoderConfig, labels: tuple[str, ...], *, pairs: bool, segments: int
) -> ClassifierSpec:
    return ClassifierSpec(
        kind=config.classification.kind,
        labels=labels,
        encoder=encoder,
        pooling=config.classification.pooling,
        pairs=pairs,
        row_length=config.data.row_length,
        window=window_length(config.data, encoder.max_positions),
        segments=segments,
        threshold=config.classification.threshold,
    )


def _columns(config: Config) -> ExampleColumns:
    return ExampleColumns(config.data.text_column, config.data.pair_column, config.data.label_column)


def _texts(examples: Sequence[Example]) -> list[tuple[str, str | None]]:
    return [(example.text, example.pair) for example in examples]


def _most_together(lengths: Sequence[int], row_length: int) -> int:
    """Returns how many examples a row can hold at most."""
    return max(int(np.searchsorted(np.cumsum(np.sort(lengths)), row_length, side="right")), 1)


def _cut_notes(split: str, encoded: EncodedExamples, window: int) -> list[str]:
    count = int(encoded.cut.sum())
    return [f"{split}: {count:,} examples cut to {window} tokens (the rest is not read)"] if count else []


def _metric_notes(config: Config, model: ClassifierSpec, valid: Sequence[Example]) -> list[str]:
    """Says where the metric that is to choose a checkpoint cannot tell one from another."""
    if not valid:
        return []
    metric = config.eval.metric
    why = undefined_metrics(model.kind, targets_of(model, valid)).get(metric)
    return [f"NOTE: on valid {metric} {why}; checkpoints are compared by their loss instead"] if why else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")


def _records(
    model: ClassifierSpec, examples: Sequence[Example], found: np.ndarray, cut_E: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yields one record an example: the texts, whether they were cut, what was asked for and what was found."""
    for example, one, is_cut in zip(examples, found, cut_E, strict=True):
        texts = {"text": example.text} | ({} if example.pair is None else {"pair": example.pair})
        start = {"origin": example.origin, **texts, **({"truncated": True} if is_cut else {})}
        if model.kind == "regression":
            yield {**start, "gold": example.target, "predicted": round(float(one), 4)}
            continue
        scores = {label: round(float(score), 4) for label, score in zip(model.labels, one, strict=True)}
        if model.kind == "single":
            predicted: Any = model.labels[int(np.argmax(one))]
            correct = predicted == example.target
        else:
            predicted = [label for label, score in zip(model.labels, one, strict=True) if score >= model.threshold]
            correct = set(predicted) == set(example.target)  # type: ignore[arg-type]
        yield {**start, "correct": correct, "gold": example.target, "predicted": predicted, "scores": scores}
