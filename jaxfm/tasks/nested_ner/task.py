"""The task `nested_ner`: a source of entities that may overlap to an objective, rows and scores."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfm.config import Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records import nested_quickstart
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.sources import TaggedSentence, TaggedSplit
from jaxfm.data.records.splits import require_split
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.data.records.tagged_holdout import read_splits
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.resplit import choose_splitter, split_again
from jaxfm.data.text.tokenization import encode_words, load_tokenizer
from jaxfm.data.text.windows import check_overlap, window_length
from jaxfm.data.text.words import COARSE
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import calibration
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.losses import ClassLoss
from jaxfm.tasks.nested_ner.objective import NestedNerObjective
from jaxfm.tasks.nested_ner.predictor import NestedNerPredictor
from jaxfm.tasks.nested_ner.scorer import NestedNerScorer
from jaxfm.tasks.nested_ner.spec import ANY, NAME, NestedNerConfig, NestedNerSpec
from jaxfm.tasks.word_spans.checks import check_nested
from jaxfm.tasks.word_spans.encoding import encode_spans
from jaxfm.tasks.word_spans.scores import DIRECTIONS
from jaxfm.tasks.word_spans.sentences import refuse_crossing, spans_note
from jaxfm.tasks.word_spans.spans import SpanRows, entities_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QUICKSTART = "quickstart"
NO_ENTITY_LABEL = "O"
_LISTED = 20  # types in a note
# Classes where no data says which: those of ACE 2005.
_USUAL_LABELS = (NO_ENTITY_LABEL, "FAC", "GPE", "LOC", "ORG", "PER", "VEH", "WEA")


@dataclasses.dataclass(frozen=True)
class NestedNerTask:
    """A span classifier with the splits of one source (implements jaxfm.core.task.Task)."""

    objective: NestedNerObjective
    tokenizer: "PreTrainedTokenizerFast"
    sentences: Mapping[str, tuple[TaggedSentence, ...]]
    encoded: Mapping[str, SpanRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, DIRECTIONS)

    @property
    def datasets(self) -> Mapping[str, PackedRows]:
        """Split -> packed rows."""
        return {split: encoded.rows for split, encoded in self.encoded.items()}

    def scorer(self, split: str) -> NestedNerScorer:
        """Returns what scores a split."""
        return NestedNerScorer(self.objective.spec, self.sentences[split], self.encoded[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold are the entities, (first word, one past the last, type)."""
        return [
            {"tokens": list(each.words), "origin": each.origin}
            | {"gold": [list(span) for span in entities_of(each).in_words]}
            for each in self.sentences[split]
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)


class NestedNerDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = NestedNerConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> NestedNerObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        loss, config = config.task.loss, assumed_shapes(config)
        class_loss = ClassLoss(loss.label_smoothing, loss.focal_gamma)
        return NestedNerObjective(_spec(config, encoder, _USUAL_LABELS, COARSE), class_loss, loss.r_drop)

    def create(self, config: Config, initial: Initial) -> tuple[NestedNerTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, a window the encoder has no positions for, a type unseen in training, entities
            that cross where `task.overlaps` says that none do.
        """
        found = _read(config, initial)
        labels = _labels(found.sentences["train"], config.data.source)
        spec = _spec(found.config, initial.encoder, labels, found.splitter)
        encoded = {
            split: encode_nested(
                spec,
                found.tokenizer,
                sentences,
                seed=config.seed if split == "train" else None,
                packed=config.data.packed,
                pieces=found.pieces[split],
            )
            for split, sentences in found.sentences.items()
        }
        check_metrics(NAME, [entities_of(sentence).given for sentence in found.sentences["train"]])
        same = tuple(initial.labels) == labels
        used = ("encoder/", *(("starts/", "ends/", "widths", "head/") if same and _fits(spec, initial) else ()))
        loaded = len(used) > 1
        listed = ", ".join(labels[1 : 1 + _LISTED]) + (" and more" if len(labels) > 1 + _LISTED else "")
        head_note = "head: loaded" if loaded else f"head: new, {len(labels) - 1:,} types and no entity ({listed})"
        notes = (
            *initial.notes,
            *initial.left_over(used),
            head_note,
            *(
                spans_note(found.read[split], sentences, spec.index, spec.max_width, encoded[split])
                for split, sentences in found.sentences.items()
            ),
            found.words_note,
        )
        labelled = encoded["train"].rows.labels
        counts = np.bincount(labelled[labelled >= 0], minlength=len(labels))
        class_loss = ClassLoss.of(config.task.loss, labels, counts)
        objective = NestedNerObjective(spec, class_loss, config.task.loss.r_drop)
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": "f1"}
        return NestedNerTask(objective, found.tokenizer, found.sentences, encoded, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        found, positions = _read(config, initial), initial.encoder.max_positions
        window = window_length(found.config.data, positions)
        return check_nested(found.sentences, found.pieces, found.tokenizer, window, positions, config.task.max_width)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> NestedNerSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(NestedNerSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: there were no runs of this task in version 1 of config.json."""
        del values
        return None

    def reopen(
        self, workdir: pathlib.Path, spec: NestedNerSpec, config: Config, source: str, split: str
    ) -> NestedNerTask:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        ((split, found),) = _read_source(source, (split,), config).items()
        sentences = split_again(found.sentences, spec.splitter)
        encoded = encode_nested(spec, tokenizer, sentences, seed=None)
        note = spans_note(found, sentences, spec.index, spec.max_width, encoded)
        return NestedNerTask(NestedNerObjective(spec), tokenizer, {split: sentences}, {split: encoded}, (note,))

    def predictor(self, workdir: pathlib.Path, spec: NestedNerSpec) -> NestedNerPredictor:
        """Returns what finds entities in texts."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        return NestedNerPredictor(spec, tokenizer, calibration.read_calibration(workdir))


class _Read(NamedTuple):
    """The source of a new run: its splits, how their texts become words, the words and their pieces.

    `config` has a number for the row length, chosen from the training sentences where it is open.
    """

    read: Mapping[str, TaggedSplit]
    splitter: str
    words_note: str
    tokenizer: "PreTrainedTokenizerFast"
    sentences: dict[str, tuple[TaggedSentence, ...]]
    pieces: dict[str, Sequence[Sequence[Sequence[int]]]]
    config: Config


def _read(config: Config, initial: Initial) -> _Read:
    """Reads all splits; UserError without a training split or a tokenizer, and for entities that may not cross."""
    source = config.data.source
    read = _read_source(source, None, config)
    if "train" not in read:
        raise UserError(f"config.data.source: {source} has no split 'train' (found: {', '.join(read)}).")
    splitter, words_note = choose_splitter(config.task.splitter, read["train"].sentences)
    tokenizer = open_tokenizer(initial)
    sentences = {split: split_again(found.sentences, splitter) for split, found in read.items()}
    if config.task.overlaps != ANY:
        refuse_crossing((sentence for found in sentences.values() for sentence in found), ANY)
    pieces: dict[str, Sequence[Sequence[Sequence[int]]]] = {
        split: encode_words(tokenizer, [one.words for one in each]) for split, each in sentences.items()
    }
    lengths = np.asarray([2 + sum(map(len, words)) for words in pieces["train"]], np.int64)
    shaped = with_row_length(config, lengths, initial.encoder.max_positions)
    return _Read(read, splitter, words_note, tokenizer, sentences, pieces, shaped)


def _read_source(source: str, splits: Sequence[str] | None, config: Config) -> dict[str, TaggedSplit]:
    if source == QUICKSTART:
        read = nested_quickstart.read()
        return read if splits is None else {require_split(split): read[require_split(split)] for split in splits}
    columns = Columns(config.data.words_column, config.data.tags_column, config.data.document_column)
    return read_splits(source, splits, columns=columns, holdout=config.data.holdout, by=split_keys(config.data))


def encode_nested(
    spec: NestedNerSpec,
    tokenizer: "PreTrainedTokenizerFast",
    sentences: Sequence[TaggedSentence],
    seed: int | None,
    *,
    packed: bool = True,
    pieces: Sequence[Sequence[Sequence[int]]] | None = None,
) -> SpanRows:
    """Encodes labelled sentences; UserError names the line of a type that training did not see.

    `pieces` are those of their words, where they are known already.
    """
    entities = []
    for sentence in sentences:
        found = entities_of(sentence).in_words
        for _, _, kind in found:
            if kind not in spec.labels[1:]:
                raise UserError(
                    f"{sentence.origin}: the type {kind!r} does not occur in the training data. "
                    f"{did_you_mean(kind, spec.labels[1:])}"
                )
        entities.append(found)
    if pieces is None:
        pieces = encode_words(tokenizer, [sentence.words for sentence in sentences])
    return encode_spans(spec, tokenizer, pieces, index=spec.index, entities=entities, seed=seed, packed=packed)


def _labels(sentences: Sequence[TaggedSentence], source: str) -> tuple[str, ...]:
    types = sorted({kind for sentence in sentences for _, _, kind in entities_of(sentence).given})
    if not types:
        raise UserError(f"config.data.source: the training split of {source} has no entity at all.")
    return (NO_ENTITY_LABEL, *types)


def _fits(spec: NestedNerSpec, initial: Initial) -> bool:
    """Whether the parameters at hand have a head of the same shape."""
    widths = initial.params.get("widths")
    return widths is not None and tuple(widths.shape) == (spec.max_width, spec.span_size)


def _spec(config: Config, encoder: EncoderConfig, labels: tuple[str, ...], splitter: str) -> NestedNerSpec:
    window, task = window_length(config.data, encoder.max_positions), config.task
    check_overlap(task.overlap, window)
    return NestedNerSpec(
        labels=labels,
        encoder=encoder,
        row_length=config.data.row_length,
        window=window,
        overlap=task.overlap,
        splitter=splitter,
        max_width=task.max_width,
        span_size=config.task.span_size,
        overlaps=task.overlaps,
        threshold=task.threshold,
    )
