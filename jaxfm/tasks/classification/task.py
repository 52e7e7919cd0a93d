"""The task `classification`: a source of labelled texts to an objective, rows and scores."""

# E examples, C classes

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.config import AUTO, AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.exits import exit_layers
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.few_labels import FitPlan
from jaxfm.core.grown_head import head_labels, listed, takes_head
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.labels import LABEL, PAIR, TEXT, LabelledRecord
from jaxfm.core.records import TEXTS, EncodedRecords, Record, TextsRecord, one_place_each
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.any_texts import read_any_texts
from jaxfm.data.records.examples import Example, ExampleColumns, ExampleSplit, read_examples
from jaxfm.data.records.glue import glue_set
from jaxfm.data.records.shots import draw_shots
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.text.packing import PackedRows, most_together
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities, read_calibration
from jaxfm.evaluation.classes import undefined_metrics
from jaxfm.models.exits import exit_paths
from jaxfm.models.heads import SequenceClassifier
from jaxfm.schema import replaced
from jaxfm.tasks.class_balance import choose_metric
from jaxfm.tasks.class_targets import (
    given_classes,
    ordered_labels,
    target_counts,
    target_losses,
    undefined_metric_note,
)
from jaxfm.tasks.classification.checks import check_examples, encode_whole, token_lengths
from jaxfm.tasks.classification.few_labels import LINEAR, check_keys, fit_plan, grow_problem, taken_over
from jaxfm.tasks.classification.fitting import contrastive_records, fitted_layer, prompted_note
from jaxfm.tasks.classification.groups import undefined_rankings
from jaxfm.tasks.classification.objective import ClassifierObjective
from jaxfm.tasks.classification.predictor import ClassifierPredictor
from jaxfm.tasks.classification.prompts import Prompt, make_prompt
from jaxfm.tasks.classification.scorer import ClassifierScorer, directions, targets_of
from jaxfm.tasks.classification.spec import (
    NAME,
    ClassificationConfig,
    ClassifierSpec,
    EncodedExamples,
    encode,
    tokenize,
)
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.older_configs import upgraded
from jaxfm.tasks.perturbed_copies import changed_copies, copies_note
from jaxfm.tasks.pooling import check_pooling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Classes where no data says how many.
_SOME_CLASSES = ("negative", "positive")
_SOME_EXAMPLE = 16  # tokens


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
    """A classifier with the splits of one source (implements Task, ChangesRecords and HasClassLabels of jaxfm.core)."""

    objective: ClassifierObjective
    tokenizer: "PreTrainedTokenizerFast"
    examples: Mapping[str, tuple[Example, ...]]
    encoded: Mapping[str, EncodedExamples]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, directions(self.objective.spec))

    def head_vectors(self, model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.few_labels.FitsHead."""
        return {"vectors": model.features(model.encoder.encode(batch))}

    def fitted_head(self, outputs: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """See core.few_labels.FitsHead."""
        spec, examples = self.objective.spec, self.examples["train"]
        vectors_ED, targets = self.encoded["train"].per_example(outputs["vectors"]), targets_of(spec, examples)
        return fitted_layer(spec.labels, vectors_ED, targets, config)

    def pair_records(self, config: Config) -> list[dict[str, Any]]:
        """See core.few_labels.FitsHead."""
        return contrastive_records(self.objective.spec.kind, self.examples["train"], config)

    @property
    def datasets(self) -> Mapping[str, PackedRows]:
        """Split -> packed rows."""
        return {split: encoded.rows for split, encoded in self.encoded.items()}

    def scorer(self, split: str) -> ClassifierScorer:
        """Returns what scores a split."""
        return ClassifierScorer(self.objective.spec, self.examples[split], self.encoded[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords."""
        return [
            {"text": each.text, **({} if each.pair is None else {"pair": each.pair}), "origin": each.origin}
            | {"gold": list(each.target) if isinstance(each.target, tuple) else each.target}
            for each in self.examples[split]
        ]

    def example_lines(self, split: str) -> list[dict[str, Any]]:
        """See core.task.WritesExamples."""
        return [
            dict(zip(("text", "pair"), example_texts(each), strict=False)) | self._line_target(each.target)
            for each in self.examples[split]
        ]

    def predicted_lines(self, split: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """See core.task.WritesExamples."""
        del split
        name = {"single": "label", "multi": "labels", "regression": "value"}[self.objective.spec.kind]
        return [
            {each: result[each] for each in ("text", "pair") if each in result} | self._line_target(result[name])
            for result in results
        ]

    def _line_target(self, target: Any) -> dict[str, Any]:
        kind = self.objective.spec.kind
        return {"labels": list(target)} if kind == "multi" else {"label" if kind == "single" else "score": target}

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)

    reads = TEXTS

    @property
    def probability(self) -> str:
        """What makes probabilities of logits; "" of numbers."""
        return {"single": "softmax", "multi": "sigmoid"}.get(self.objective.spec.kind, "")

    def records(self, split: str) -> list[Record]:
        """Returns the texts of a split."""
        return [TextsRecord(example_texts(example)) for example in self.examples[split]]

    def with_records(self, split: str, records: Sequence[Record], index: Sequence[int]) -> "ClassificationTask":
        """Returns the task over some examples of this split with other texts."""
        changed = with_texts([self.examples[split][number] for number in index], records)
        encoded = encode_labelled(self.objective.spec, self.tokenizer, changed, seed=None)
        return dataclasses.replace(self, examples={split: changed}, encoded={split: encoded})

    def encode_records(self, records: Sequence[Record]) -> EncodedRecords:
        """Returns rows of texts without targets."""
        texts = [(each.texts[0], each.texts[1] if len(each.texts) > 1 else None) for each in _texts_records(records)]
        encoded = encode(self.objective.spec, self.tokenizer, texts)
        return EncodedRecords(encoded.rows, one_place_each(encoded.rows.example_locations), encoded)

    def unit_logits(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the logits [1, C] of each text."""
        return list(encoded.detail.per_example(outputs["outputs"])[:, None])

    def classes(self, split: str) -> np.ndarray | None:
        """Returns the class of each text."""
        spec = self.objective.spec
        return targets_of(spec, self.examples[split]) if spec.kind == "single" else None

    def other_records(self, source: str, split: str) -> list[Record]:
        """Reads the texts of a split of another source."""
        pairs, found = self.objective.spec.pairs, read_any_texts(source, split)
        if any(bool(each.pair) != pairs for each in found):
            raise UserError(f"{source}: has {'single texts' if pairs else 'pairs of texts'}, unlike the run.")
        return [TextsRecord((each.text, each.pair) if pairs else (each.text,)) for each in found]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the classes."""
        return self.objective.spec.labels

    def label_problem(self) -> str:
        """Returns why numbers are no classes; "" of classes."""
        return (
            "" if self.probability else "kind 'regression' has numbers, not classes: there is no wrong class to find."
        )

    def labelled(self, split: str) -> list[LabelledRecord]:
        """Returns the texts."""
        examples = self.examples[split]
        classes = given_classes(targets_of(self.objective.spec, examples))
        return [
            LabelledRecord(
                {TEXT: each.text, **({} if each.pair is None else {PAIR: each.pair})}
                | {LABEL: list(each.target) if isinstance(each.target, tuple) else each.target},
                each.origin,
                own,
            )
            for each, own in zip(examples, classes, strict=True)
        ]

    def class_probabilities(self, split: str, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the probability of each class of each text."""
        logits_EC = self.encoded[split].per_example(outputs["outputs"])
        return list(probabilities(logits_EC, {}, self.objective.spec.kind)[:, None])


class ClassificationDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = ClassificationConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {NAME: "task", "loss": "task.loss"}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ClassifierObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        config = taken_over(assumed_shapes(config), None)
        labels = ("score",) if config.task.kind == "regression" else _SOME_CLASSES
        segments = max(config.data.row_length // _SOME_EXAMPLE, 1) if config.data.packed else 1
        spec = _spec(config, encoder, labels, pairs=False, segments=segments)
        loss = dataclasses.replace(config.task.loss, class_weights="")
        return ClassifierObjective(spec, *target_losses(spec.kind, loss, labels, None), loss.r_drop)

    def create(self, config: Config, initial: Initial) -> tuple[ClassificationTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, fewer than two classes, a class unseen in training, one text where pairs are
            meant.
        """
        check_keys(config)
        config = taken_over(config, initial)
        source, kind = config.data.source, config.task.kind
        read, positive = _read(config)
        tokenizer = open_tokenizer(initial)
        examples = {split: found.examples for split, found in read.items()}
        copied = copies_note(config.task.perturb, len(examples["train"]))
        examples["train"] = _with_copies(config, examples["train"])
        found = read["train"].classes or _labels(kind, examples["train"], source, positive)
        labels, head = head_labels(config, initial.labels, found)
        head_note = prompted_note(config, initial) if config.task.prompt.pattern else f"head: {head}"
        spec, encoded = _encoded(config, initial.encoder, labels, tokenizer, examples)
        counts_C = None
        if kind != "regression":
            counts_C = target_counts(kind, labels, targets_of(spec, examples["train"]))
        class_loss, label_loss = target_losses(kind, config.task.loss, labels, counts_C)
        check_metrics(NAME, [example.target for example in examples["train"]])
        examples_count, rows = len(examples["train"]), len(encoded["train"].rows)
        packed = f"train: {examples_count:,} examples in {rows:,} rows, {examples_count / rows:.1f} a row"
        cut = [note for split, done in encoded.items() for note in _cut_notes(split, done, spec.window)]
        named = "" if kind == "regression" else f", {len(labels)} classes ({listed(labels)})"
        used = _used(config, spec, initial)
        said = (head_note + named, *(found.note for found in read.values()), *copied, packed, *cut)
        metric, metric_note = choose_metric(kind, labels, counts_C)
        config = replaced(config, {"eval.metric": metric}) if config.eval.metric == AUTO_METRIC else config
        metric_notes = [metric_note] if config.eval.metric == metric and metric_note else []
        if valid := examples.get("valid"):
            undefined = undefined_metrics(kind, targets_of(spec, valid)) | undefined_rankings(spec, valid)
            metric_notes += undefined_metric_note(config.eval.metric, undefined)
        notes = (*initial.notes, *initial.left_over(used), *said, *metric_notes)
        objective = ClassifierObjective(spec, class_loss, label_loss, config.task.loss.r_drop)
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        chosen |= {"task.pooling": spec.pooling, "task.normalize": spec.normalize}
        return ClassificationTask(objective, tokenizer, examples, encoded, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        check_keys(config)
        read, _ = _read(config)
        tokenizer, positions = open_tokenizer(initial), initial.encoder.max_positions
        examples = {split: found.examples for split, found in read.items()}
        pieces = encode_whole(tokenizer, examples)
        shaped = with_row_length(config, token_lengths(tokenizer, examples, pieces)["train"], positions)
        window = window_length(shaped.data, positions)
        return check_examples(config.task.kind, examples, pieces, tokenizer, window, positions)

    def fit_plan(self, config: Config) -> FitPlan | None:
        """See core.few_labels.PlansFit."""
        return fit_plan(config)

    def grow_problem(self, config: Config) -> str:
        """See core.grown_head.GrowsHead."""
        return grow_problem(config)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ClassifierSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(ClassifierSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the config of an older run in today's keys; None: it is of another task."""
        return upgraded(values, ClassificationConfig, self.moved) if values.get("task") == NAME else None

    def reopen(
        self, workdir: pathlib.Path, spec: ClassifierSpec, config: Config, source: str, split: str
    ) -> ClassificationTask:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        read = read_examples(
            source,
            (split,),
            columns=_columns(config),
            kind=spec.kind,
            holdout=config.data.holdout,
            by=split_keys(config.data),
        )
        if split == "train" and source == config.data.source:
            read = _with_shots(config, read)
        ((split, found),) = read.items()
        encoded = encode_labelled(spec, tokenizer, found.examples, seed=None)
        notes = (found.note, *_cut_notes(split, encoded, spec.window))
        examples = {split: found.examples}
        return ClassificationTask(ClassifierObjective(spec), tokenizer, examples, {split: encoded}, notes)

    def predictor(self, workdir: pathlib.Path, spec: ClassifierSpec) -> ClassifierPredictor:
        """Returns what judges texts, with the calibration that the run fitted."""
        return ClassifierPredictor(spec, load_tokenizer(workdir / TOKENIZER_DIR), read_calibration(workdir))


def _read(config: Config) -> tuple[dict[str, ExampleSplit], str]:
    """Reads all splits; also the class that a published set calls positive, "" where it calls none so."""
    source, kind = config.data.source, config.task.kind
    glue = glue_set(source)
    if glue is not None and glue.kind != kind:
        raise UserError(f"config.task.kind: is {kind!r}, but {source} is of kind {glue.kind!r}.")
    read = read_examples(
        source, None, columns=_columns(config), kind=kind, holdout=config.data.holdout, by=split_keys(config.data)
    )
    return _with_shots(config, read), glue.positive if glue else ""


def _with_shots(config: Config, read: dict[str, ExampleSplit]) -> dict[str, ExampleSplit]:
    """Returns the splits with the few training examples that `config.task.shots` asks for."""
    shots = config.task.shots
    if not shots:
        return read
    every = read["train"].examples
    targets = [example.target for example in every if isinstance(example.target, str | tuple)]
    drawn = draw_shots(targets, shots, config.seed, "config.task.shots", config.data.source)
    note = f"{read['train'].note}; of these {len(drawn):,} are taken, {shots} of each class, drawn by the seed"
    kept = tuple(every[index] for index in drawn)
    return {**read, "train": dataclasses.replace(read["train"], examples=kept, note=note)}


def _encoded(
    config: Config,
    encoder: EncoderConfig,
    labels: tuple[str, ...],
    tokenizer: "PreTrainedTokenizerFast",
    examples: Mapping[str, tuple[Example, ...]],
) -> tuple[ClassifierSpec, dict[str, EncodedExamples]]:
    """Returns the spec, which says how many examples a row may hold, and the rows of each split, "train" first."""
    pairs = examples["train"][0].pair is not None
    prompt = make_prompt(config.task.prompt, labels, pairs, tokenizer)
    most = config if config.data.row_length != AUTO else replaced(config, {"data.row_length": encoder.max_positions})
    spec = _spec(most, encoder, labels, pairs=pairs, segments=1, prompt=prompt)
    # Training texts, the most of all, are tokenized once: to their full length where that decides how long rows are.
    tokenized = tokenize(spec, tokenizer, _texts(examples["train"]))
    lengths = np.asarray([len(tokens) for tokens in tokenized[0]], np.int64)
    if config.data.row_length == AUTO:
        config = with_row_length(config, lengths, encoder.max_positions)
        spec = _spec(config, encoder, labels, pairs=pairs, segments=1, prompt=prompt)
        if lengths.max() > spec.window:
            tokenized = tokenize(spec, tokenizer, _texts(examples["train"]))
            lengths = np.minimum(lengths, spec.window)
    if config.data.packed:
        spec = dataclasses.replace(spec, segments=most_together(lengths, spec.row_length))
    others = {
        split: encode_labelled(spec, tokenizer, examples[split], seed=None) for split in examples if split != "train"
    }
    train = encode_labelled(spec, tokenizer, examples["train"], seed=config.seed, tokenized=tokenized)
    return spec, {"train": train, **others}


def _used(config: Config, spec: ClassifierSpec, initial: Initial) -> tuple[str, ...]:
    """Returns the parts of a checkpoint that are used: its last layer only when its classes are the task's."""
    if spec.prompt.pattern:
        return ("encoder/", "transform/", "decoder/")
    between = () if spec.head == LINEAR else _between(spec.encoder, spec.pooling)
    early_between = () if spec.head == LINEAR else _between(spec.encoder, spec.exit_pooling)
    same = takes_head(config, initial.labels, spec.labels)
    early = exit_paths(spec.exits, (*early_between, "head/")) if same else ()
    return ("encoder/", *between, *(("head/",) if same else ()), *early)


def _between(encoder: EncoderConfig, pooling: str) -> tuple[str, ...]:
    """Returns what a head has before its classes."""
    pools = pooling == "cls" or encoder.pooler_on_mean
    return ("transform/",) if encoder.classifier_transform else ("pooler/",) if pools else ()


def encode_labelled(
    spec: ClassifierSpec,
    tokenizer: "PreTrainedTokenizerFast",
    examples: Sequence[Example],
    seed: int | None,
    tokenized: Any = None,
) -> EncodedExamples:
    """Encodes labelled examples; UserError names the place of a class that training did not see, or of a lone text.

    `tokenized` is what `tokenize` gives for their texts, where that is known already.
    """
    for example in examples:
        if (example.pair is not None) != spec.pairs:
            raise UserError(f"{example.origin}: {'one text' if spec.pairs else 'a second text'}, unlike in training.")
    return encode(spec, tokenizer, _texts(examples), targets_of(spec, examples), seed, tokenized)


def _labels(kind: str, examples: Sequence[Example], source: str, positive: str) -> tuple[str, ...]:
    if kind == "regression":
        return ("score",)
    return ordered_labels(kind, (example.target for example in examples), source, positive)


def _spec(
    config: Config,
    encoder: EncoderConfig,
    labels: tuple[str, ...],
    *,
    pairs: bool,
    segments: int,
    prompt: Prompt | None = None,
) -> ClassifierSpec:
    check_pooling(encoder, config.task.pooling)
    if prompt is None:  # no tokenizer says which tokens its words are
        words = tuple(range(len(labels)))
        prompt = Prompt(config.task.prompt.pattern, len(labels), words, words)
    return ClassifierSpec(
        kind=config.task.kind,
        labels=labels,
        encoder=encoder,
        pooling=config.task.pooling,
        pairs=pairs,
        row_length=config.data.row_length,
        window=window_length(config.data, encoder.max_positions),
        segments=segments,
        threshold=config.task.threshold,
        exits=exit_layers(config.exits, encoder),
        exit_pooling="mean" if config.exits.pooling == "mean" else config.task.pooling,
        head=config.task.head,
        normalize=config.task.normalize,
        prompt=prompt,
    )


def _columns(config: Config) -> ExampleColumns:
    return ExampleColumns(config.data.text_column, config.data.pair_column, config.data.label_column)


def example_texts(example: Example) -> tuple[str, ...]:
    """Returns the text, or the two texts, of an example."""
    return (example.text,) if example.pair is None else (example.text, example.pair)


def with_texts(examples: Sequence[Example], records: Sequence[Record]) -> tuple[Example, ...]:
    """Returns the examples with other texts."""
    return tuple(
        dataclasses.replace(example, text=each.texts[0], pair=each.texts[1] if len(each.texts) > 1 else None)
        for example, each in zip(examples, _texts_records(records), strict=True)
    )


def _with_copies(config: Config, examples: Sequence[Example]) -> tuple[Example, ...]:
    """Returns the training examples, and after them their changed copies where `config.task.perturb` asks for some."""
    records = [TextsRecord(example_texts(example)) for example in examples]
    copies = changed_copies(records, config.task.perturb, TEXTS, config.seed)
    return (*examples, *(changed for copy in copies for changed in with_texts(examples, copy)))


def _texts_records(records: Sequence[Record]) -> Iterator[TextsRecord]:
    for each in records:
        assert isinstance(each, TextsRecord)
        yield each


def _texts(examples: Sequence[Example]) -> list[tuple[str, str | None]]:
    return [(example.text, example.pair) for example in examples]


def _cut_notes(split: str, encoded: EncodedExamples, window: int) -> list[str]:
    count = int(encoded.cut.sum())
    return [f"{split}: {count:,} examples cut to {window} tokens (the rest is not read)"] if count else []
