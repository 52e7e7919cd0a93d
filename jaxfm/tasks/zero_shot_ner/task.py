"""The task `zero_shot_ner`: sources of entities to an objective over texts and labels, rows and scores."""

# C labels, S sources

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfm.config import Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.sources import TaggedSentence, TaggedSplit
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.data.records.tagged_holdout import read_splits
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.resplit import choose_splitter, split_again
from jaxfm.data.text.tokenization import encode_words, load_tokenizer
from jaxfm.data.text.windows import check_overlap, window_length
from jaxfm.data.text.words import COARSE
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import calibration
from jaxfm.tasks.asked_labels import Label
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.word_spans.checks import check_nested
from jaxfm.tasks.word_spans.encoding import encode_spans
from jaxfm.tasks.word_spans.scores import DIRECTIONS
from jaxfm.tasks.word_spans.sentences import refuse_crossing, spans_note
from jaxfm.tasks.word_spans.spans import Entities, SpanRows, entities_of
from jaxfm.tasks.zero_shot_ner.labels import LabelTable, label_rows, label_table, read_label_texts, rows_of
from jaxfm.tasks.zero_shot_ner.objective import ZeroShotNerObjective
from jaxfm.tasks.zero_shot_ner.predictor import ZeroShotNerPredictor
from jaxfm.tasks.zero_shot_ner.scorer import ZeroShotNerScorer, named
from jaxfm.tasks.zero_shot_ner.spec import ANY, NAME, ZeroShotNerConfig, ZeroShotNerSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LISTED = 20  # labels in a note
# Where no data says which: as many labels as OntoNotes has types, each of so many tokens.
_USUAL_LABELS, _USUAL_LENGTH = 18, 8


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedRows(PackedRows):
    """Packed rows whose fingerprint is of the labels' texts too: a run goes on with the same labels only."""

    labels_digest: str = ""

    def fingerprint(self) -> str:
        """The sha256 of the rows and the labels."""
        return hashlib.sha256(f"{super().fingerprint()} {self.labels_digest}".encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class ZeroShotNerTask:
    """Spans compared with labels, with the splits of all sources (implements jaxfm.core.task.Task)."""

    objective: ZeroShotNerObjective
    tokenizer: "PreTrainedTokenizerFast"
    sentences: Mapping[str, tuple[TaggedSentence, ...]]
    gold: Mapping[str, tuple[Entities, ...]]
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

    def scorer(self, split: str) -> ZeroShotNerScorer:
        """Returns what scores a split."""
        spec = self.objective.spec
        return ZeroShotNerScorer(spec, self.sentences[split], self.gold[split], self.encoded[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold are the entities, (first word, one past the last, label)."""
        return [
            {"tokens": list(each.words), "origin": each.origin, "gold": [list(span) for span in gold.in_words]}
            for each, gold in zip(self.sentences[split], self.gold[split], strict=True)
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)


class ZeroShotNerDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = ZeroShotNerConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ZeroShotNerObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        config = assumed_shapes(config)
        names = tuple(f"type {number}" for number in range(_USUAL_LABELS))
        spec = _spec(config, encoder, tuple(Label(name, name) for name in names), {}, COARSE)
        texts = [np.ones(_USUAL_LENGTH, np.int32)] * (len(names) + len(spec.negatives))
        annotated = np.ones((1, len(texts)), bool)
        return ZeroShotNerObjective(spec, rows_of(texts, _USUAL_LENGTH, 0), annotated)

    def create(self, config: Config, initial: Initial) -> tuple[ZeroShotNerTask, dict[str, HostArray]]:
        """Reads the sources and builds the task of a new run.

        Raises:
          UserError: a source without training data or types, a type unseen in its training data, a label whose text is
            too long, a window the encoder has no positions for, entities that cross where none may.
        """
        found = _read(config, initial)
        table = found.table
        spec = _spec(found.config, initial.encoder, table.labels, found.known, found.splitter)
        negatives = tuple(Label(text, text) for text in spec.negatives)
        rows = label_rows(found.tokenizer, (*table.labels, *negatives), spec.label_length)
        annotated_SC = np.pad(table.annotated_SC, ((0, 0), (0, len(negatives))), constant_values=True)
        names = {kind: spec.labels[number] for kind, number in table.classes.items()}
        gold = {split: tuple(named(each, names) for each in read.sentences) for split, read in found.splits.items()}
        digest = hashlib.sha256(repr((spec.texts, spec.negatives)).encode()).hexdigest()
        encoded = {}
        for split, read in found.splits.items():
            made = encode_spans(
                spec,
                found.tokenizer,
                read.pieces,
                index=spec.index,
                entities=[each.in_words for each in gold[split]],
                seed=config.seed if split == "train" else None,
                packed=config.data.packed,
                sources=read.sources,
            )
            fields = {each.name: getattr(made.rows, each.name) for each in dataclasses.fields(made.rows)}
            encoded[split] = dataclasses.replace(made, rows=ComparedRows(**fields, labels_digest=digest))
        check_metrics(NAME, [each.given for each in gold["train"]])
        used = ("encoder/", *(_HEAD if _fits(spec, initial) else ()))
        listed = ", ".join(spec.labels[:_LISTED]) + (" and more" if len(spec.labels) > _LISTED else "")
        notes = (
            *initial.notes,
            *initial.left_over(used),
            f"head: {'loaded' if len(used) > 1 else 'new'}; {len(spec.labels):,} labels ({listed})",
            *(f"{source}: {', '.join(sorted(kinds))}" for source, kinds in found.types if len(found.types) > 1),
            *(note for split, read in found.splits.items() for note in _notes(read, spec, names, encoded[split])),
            found.words_note,
        )
        objective = ZeroShotNerObjective(spec, rows, annotated_SC)
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": "f1"}
        sentences = {split: read.sentences for split, read in found.splits.items()}
        return ZeroShotNerTask(objective, found.tokenizer, sentences, gold, encoded, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the sources as `create` does and says what a person should know of them before training."""
        found, positions = _read(config, initial), initial.encoder.max_positions
        window = window_length(found.config.data, positions)
        label_rows(found.tokenizer, found.table.labels, config.task.label_length)
        sentences = {split: read.sentences for split, read in found.splits.items()}
        pieces = {split: read.pieces for split, read in found.splits.items()}
        return check_nested(sentences, pieces, found.tokenizer, window, positions, config.task.max_width)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ZeroShotNerSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(ZeroShotNerSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: there were no runs of this task in version 1 of config.json."""
        del values
        return None

    def reopen(
        self, workdir: pathlib.Path, spec: ZeroShotNerSpec, config: Config, source: str, split: str
    ) -> ZeroShotNerTask:
        """Builds the task of a trained run over one split of (other) labelled data, whose types are the labels."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        ((split, found),) = _read_source(source, (split,), config).items()
        sentences = split_again(found.sentences, spec.splitter)
        table = label_table([(source, _types(sentences))], spec.known)
        spec = spec.with_labels(table.labels)
        names = {kind: spec.labels[number] for kind, number in table.classes.items()}
        gold = tuple(named(each, names) for each in sentences)
        encoded = encode_spans(
            spec,
            tokenizer,
            encode_words(tokenizer, [each.words for each in sentences]),
            index=spec.index,
            entities=[each.in_words for each in gold],
            sources=[0] * len(sentences),
        )
        objective = ZeroShotNerObjective(
            spec, label_rows(tokenizer, table.labels, spec.label_length), table.annotated_SC
        )
        index = {kind: spec.index[name] for kind, name in names.items()}
        note = spans_note(found, sentences, index, spec.max_width, encoded)
        return ZeroShotNerTask(objective, tokenizer, {split: sentences}, {split: gold}, {split: encoded}, (note,))

    def predictor(self, workdir: pathlib.Path, spec: ZeroShotNerSpec) -> ZeroShotNerPredictor:
        """Returns what finds entities in texts."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        return ZeroShotNerPredictor(spec, tokenizer, calibration.read_calibration(workdir))


_HEAD = ("starts/", "ends/", "widths", "projection/", "log_scale", "offset")


class _Split(NamedTuple):
    """One split of all sources: sentences, their pieces, the source of each, and what was read of each source."""

    sentences: tuple[TaggedSentence, ...]
    pieces: Sequence[Sequence[Sequence[int]]]
    sources: list[int]
    read: list[TaggedSplit]


class _Read(NamedTuple):
    """The sources of a new run: splits, labels, how texts become words. `config` has a number for the row length."""

    splits: dict[str, _Split]
    types: list[tuple[str, set[str]]]
    table: LabelTable
    known: dict[str, str]
    splitter: str
    words_note: str
    tokenizer: "PreTrainedTokenizerFast"
    config: Config


def _read(config: Config, initial: Initial) -> _Read:
    """Reads all splits of all sources; UserError as `create`."""
    known = read_label_texts(config.task.label_texts)
    more = [each.strip() for each in config.task.more_sources.split(",") if each.strip()]
    sources = [config.data.source, *more]
    if len({*sources}) < len(sources):
        raise UserError(f"config.task.more_sources: {config.task.more_sources!r} names a source twice.")
    read = [_read_source(source, None, config) for source in sources]
    for key, source, splits in zip(["data.source", *["task.more_sources"] * len(more)], sources, read, strict=True):
        if "train" not in splits:
            raise UserError(f"config.{key}: {source} has no split 'train' (found: {', '.join(splits)}).")
    train = [sentence for splits in read for sentence in splits["train"].sentences]
    splitter, words_note = choose_splitter(config.task.splitter, train)
    tokenizer = open_tokenizer(initial)
    again = [{split: split_again(each.sentences, splitter) for split, each in splits.items()} for splits in read]
    types = [(source, _types(splits["train"])) for source, splits in zip(sources, again, strict=True)]
    table = label_table(types, known)
    for (source, kinds), splits in zip(types, again, strict=True):
        _check_types(source, kinds, (sentence for each in splits.values() for sentence in each))
    if config.task.overlaps != ANY:
        refuse_crossing((sentence for splits in again for each in splits.values() for sentence in each), ANY)
    joined: dict[str, _Split] = {}
    for split in dict.fromkeys(split for splits in again for split in splits):
        parts = [(number, splits[split]) for number, splits in enumerate(again) if split in splits]
        sentences = tuple(sentence for _, part in parts for sentence in part)
        numbers = [number for number, part in parts for _ in part]
        pieces = encode_words(tokenizer, [each.words for each in sentences])
        joined[split] = _Split(sentences, pieces, numbers, [read[number][split] for number, _ in parts])
    lengths = np.asarray([2 + sum(map(len, words)) for words in joined["train"].pieces], np.int64)
    shaped = with_row_length(config, lengths, initial.encoder.max_positions)
    return _Read(joined, types, table, known, splitter, words_note, tokenizer, shaped)


def _read_source(source: str, splits: Sequence[str] | None, config: Config) -> dict[str, TaggedSplit]:
    columns = Columns(config.data.words_column, config.data.tags_column, config.data.document_column)
    return read_splits(source, splits, columns=columns, holdout=config.data.holdout, by=split_keys(config.data))


def _types(sentences: Iterable[TaggedSentence]) -> set[str]:
    return {kind for sentence in sentences for _, _, kind in entities_of(sentence).given}


def _check_types(source: str, kinds: set[str], sentences: Iterable[TaggedSentence]) -> None:
    """Raises UserError for a type that the training data of its source does not have."""
    for sentence in sentences:
        for _, _, kind in entities_of(sentence).given:
            if kind not in kinds:
                raise UserError(
                    f"{sentence.origin}: the type {kind!r} does not occur in the training data of {source}. "
                    f"{did_you_mean(kind, sorted(kinds))} Types that training has not seen are scored afterwards, by "
                    "jaxfm.evaluate."
                )


def _notes(read: _Split, spec: ZeroShotNerSpec, names: Mapping[str, str], encoded: SpanRows) -> list[str]:
    """Returns a line for the log of each source of a split."""
    index, found, first = {kind: spec.index[name] for kind, name in names.items()}, [], 0
    for part in read.read:
        own = slice(first, first + len(part.sentences))
        first = own.stop
        shown = dataclasses.replace(encoded, owners=encoded.owners[own])
        found.append(spans_note(part, read.sentences[own], index, spec.max_width, shown))
    return found


def _fits(spec: ZeroShotNerSpec, initial: Initial) -> bool:
    """Whether the parameters at hand have layers over spans of the same shape."""
    widths = initial.params.get("widths")
    own = "projection/kernel" in initial.params and "offset" in initial.params
    return own and widths is not None and tuple(widths.shape) == (spec.max_width, spec.span_size)


def _spec(
    config: Config, encoder: EncoderConfig, labels: tuple[Label, ...], known: Mapping[str, str], splitter: str
) -> ZeroShotNerSpec:
    window, task = window_length(config.data, encoder.max_positions), config.task
    check_overlap(task.overlap, window)
    texts = tuple(each.text for each in labels)
    negatives = tuple(" ".join(text.split()) for text in task.negative_labels.split(",") if text.strip())
    if twice := [text for number, text in enumerate(negatives) if text in (*texts, *negatives[:number])]:
        raise UserError(
            f"config.task.negative_labels: {twice[0]!r} is named twice, or is what is read of a type of the sources."
        )
    return ZeroShotNerSpec(
        labels=tuple(each.name for each in labels),
        texts=texts,
        negatives=negatives,
        known_names=tuple(known),
        known_texts=tuple(known.values()),
        label_length=task.label_length,
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
