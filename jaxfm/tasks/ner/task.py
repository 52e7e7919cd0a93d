"""The task `ner`: a source of tagged sentences to an objective, rows and scores."""

import collections
import dataclasses
import pathlib
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfm.config import Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.exits import exit_layers
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.grown_head import head_labels, takes_head
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.labels import DOCUMENT, TAGS, TOKENS, LabelledRecord
from jaxfm.core.records import WORDS, EncodedRecords, Record, WordsRecord
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.any_texts import read_any_texts
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.sources import TaggedSentence, TaggedSplit
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.data.records.tagged_holdout import read_splits
from jaxfm.data.records.tagged_writing import tagged_line
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.resplit import choose_splitter, count_cut, split_again
from jaxfm.data.text.tokenization import encode_words, load_tokenizer
from jaxfm.data.text.windows import check_overlap, window_length
from jaxfm.data.text.words import COARSE, words_of
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import calibration
from jaxfm.models.exits import exit_paths
from jaxfm.tasks.fine_tuning import DEFAULTS, assumed_shapes, open_tokenizer, with_row_length
from jaxfm.tasks.losses import ClassLoss
from jaxfm.tasks.ner.checks import check_tagged
from jaxfm.tasks.ner.decoding import read_words
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.tasks.ner.predicted import predicted_sentence
from jaxfm.tasks.ner.predictor import NerPredictor
from jaxfm.tasks.ner.scorer import DIRECTIONS, NerScorer
from jaxfm.tasks.ner.spec import CRF, LONGEST, NAME, REFUSE, SOFTMAX, VITERBI, NerConfig, NerSpec, encode
from jaxfm.tasks.older_configs import upgraded
from jaxfm.tasks.perturbed_copies import changed_copies, copies_note
from jaxfm.tasks.windowed_rows import WindowedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_LISTED = 20  # types in a note
# Classes where no data says which: those of CoNLL-2003.
_USUAL_LABELS = ("O", *(f"{position}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for position in "BI"))


@dataclasses.dataclass(frozen=True)
class NerTask:
    """A tagger with the splits of one source (implements Task, ChangesRecords and HasClassLabels of jaxfm.core)."""

    objective: NerObjective
    tokenizer: "PreTrainedTokenizerFast"
    sentences: Mapping[str, tuple[TaggedSentence, ...]]
    encoded: Mapping[str, WindowedRows]
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

    def scorer(self, split: str) -> NerScorer:
        """Returns what scores a split."""
        return NerScorer(self.objective.spec, self.sentences[split], self.encoded[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold are the tags."""
        return [
            {"tokens": list(each.words), "origin": each.origin, "gold": list(each.tags)}
            for each in self.sentences[split]
        ]

    def example_lines(self, split: str) -> list[dict[str, Any]]:
        """See core.task.WritesExamples: words with tags or, as the source has it, texts with entities."""
        in_text = _in_text(self.sentences[split])
        return [tagged_line(each, each.document, in_text=in_text) for each in self.sentences[split]]

    def predicted_lines(self, split: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """See core.task.WritesExamples; each text is a document of its own, after those of the split."""
        sentences, splitter = self.sentences[split], self.objective.spec.splitter
        in_text, first = _in_text(sentences), 1 + max(each.document for each in sentences)
        found = (predicted_sentence(each, splitter) for each in results)
        return [tagged_line(each, number, in_text=in_text) for number, each in enumerate(found, start=first)]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, NAME, self.objective.spec)

    reads, probability = WORDS, "softmax"

    def records(self, split: str) -> list[Record]:
        """Returns the words of a split's sentences with their tags."""
        return [WordsRecord(sentence.words, sentence.tags) for sentence in self.sentences[split]]

    def with_records(self, split: str, records: Sequence[Record], index: Sequence[int]) -> "NerTask":
        """Returns the task over some sentences of this split with other words and tags.

        Entities are then those of the tags: where a source marks characters inside words, it is the whole words.
        """
        changed = with_words([self.sentences[split][number] for number in index], records)
        encoded = encode_tagged(self.objective.spec, self.tokenizer, changed, seed=None)
        return dataclasses.replace(self, sentences={split: changed}, encoded={split: encoded})

    def encode_records(self, records: Sequence[Record]) -> EncodedRecords:
        """Returns rows of sentences without tags, each a document of its own."""
        words = [each.words for each in _words_records(records)]
        pieces = encode_words(self.tokenizer, words)
        encoded = encode(self.objective.spec, self.tokenizer, pieces, documents=range(len(pieces)))
        places = np.concatenate([encoded.windows.sentence[:, None], encoded.rows.example_locations[:, :2]], axis=1)
        return EncodedRecords(encoded.rows, places, encoded)

    def unit_logits(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the logits [words, C] of each sentence; of a CRF without what it adds."""
        return read_words(self.objective.spec, encoded.detail, outputs).scores

    def classes(self, split: str) -> None:
        """Returns None: a sentence has no class."""
        del split

    def other_records(self, source: str, split: str) -> list[Record]:
        """Reads the sentences of a split of another source; a raw text becomes words by the run's rule."""
        splitter, found = self.objective.spec.splitter, list[Record]()
        for each in read_any_texts(source, split):
            text = f"{each.text} {each.pair}".rstrip()
            words = each.words or tuple(text[start:end] for start, end in words_of(text, splitter))
            if words:
                found.append(WordsRecord(words, ("O",) * len(words)))
        return found

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the tags."""
        return self.objective.spec.labels

    def label_problem(self) -> str:
        """Returns "": each word has a tag."""
        return ""

    def labelled(self, split: str) -> list[LabelledRecord]:
        """Returns the sentences with the words that the model reads; their document, where one has several."""
        sentences, index = self.sentences[split], {label: n for n, label in enumerate(self.class_names)}
        counts = collections.Counter(sentence.document for sentence in sentences)
        together = any(count > 1 for count in counts.values())
        return [
            LabelledRecord(
                {TOKENS: list(each.words), TAGS: list(each.tags)} | ({DOCUMENT: each.document} if together else {}),
                each.origin,
                np.asarray([index[tag] for tag in each.tags], np.int64),
            )
            for each in sentences
        ]

    def class_probabilities(self, split: str, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the probability of each tag of each word; of a CRF given the whole sentence."""
        logits = read_words(self.objective.spec, self.encoded[split], outputs).logits
        return [calibration.probabilities(each, {}) for each in logits]


class NerDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = NerConfig
    # The keys' own defaults are what runs did before there were these keys.
    defaults: Mapping[str, Any] = types.MappingProxyType(
        {**DEFAULTS, "task.decoding": VITERBI, "task.overlapping": REFUSE}
    )
    moved: Mapping[str, str] = {
        "data.context": "task.context",
        "data.overlap": "task.overlap",
        "data.splitter": "task.splitter",
        "loss": "task.loss",
    }

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> NerObjective:
        """Builds model and loss without data or tokenizer, for shapes alone."""
        loss, config = config.task.loss, assumed_shapes(config)
        class_loss = ClassLoss(loss.label_smoothing, loss.focal_gamma)
        return NerObjective(_spec(config, encoder, _USUAL_LABELS, COARSE), class_loss, loss.r_drop)

    def create(self, config: Config, initial: Initial) -> tuple[NerTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, a window the encoder has no positions for, a label unseen in training.
        """
        found = _read(config, initial, copies=True)
        sentences = found.sentences
        labels, head_note = _labels(found.read["train"].sentences, initial, config)
        spec = _spec(found.config, initial.encoder, labels, found.splitter)
        encoded = {
            split: encode_tagged(
                spec,
                found.tokenizer,
                sentences[split],
                seed=config.seed if split == "train" else None,
                packed=config.data.packed,
                pieces=found.pieces[split],
            )
            for split in sentences
        }
        check_metrics(NAME, [list(sentence.tags) for sentence in sentences["train"]])
        used = _used(config, spec, initial)
        data_notes = [each.note + _cut_note(sentences[split], found.splitter) for split, each in found.read.items()]
        data_notes += copies_note(config.task.perturb, len(found.read["train"].sentences))
        notes = (*initial.notes, *initial.left_over(("head/", *used)), head_note, *data_notes, found.words_note)
        labelled = encoded["train"].rows.labels
        counts = np.bincount(labelled[labelled >= 0], minlength=len(labels))
        class_loss = ClassLoss.of(config.task.loss, labels, counts)
        objective = NerObjective(spec, class_loss, config.task.loss.r_drop)
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": "f1"}
        return NerTask(objective, found.tokenizer, sentences, encoded, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        found, positions = _read(config, initial), initial.encoder.max_positions
        window = window_length(found.config.data, positions)
        return check_tagged(found.read, found.sentences, found.pieces, found.tokenizer, window, positions)

    def grow_problem(self, config: Config) -> str:
        """Returns "": a tag has a row in the last layer, and one in the chain of a CRF."""
        del config
        return ""

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> NerSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(NerSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the config of an older run in today's keys; None: it is of another task."""
        return upgraded(values, NerConfig, self.moved) if values.get("task") == NAME else None

    def reopen(self, workdir: pathlib.Path, spec: NerSpec, config: Config, source: str, split: str) -> NerTask:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        read = read_splits(
            source, (split,), columns=_columns(config), holdout=config.data.holdout, by=split_keys(config.data)
        )
        ((split, found),) = read.items()
        _check_overlapping(found.sentences, config)
        sentences = split_again(found.sentences, spec.splitter)
        encoded = encode_tagged(spec, tokenizer, sentences, seed=None)
        note = found.note + _cut_note(sentences, spec.splitter)
        return NerTask(NerObjective(spec), tokenizer, {split: sentences}, {split: encoded}, (note,))

    def predictor(self, workdir: pathlib.Path, spec: NerSpec) -> NerPredictor:
        """Returns what finds entities in texts."""
        tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
        return NerPredictor(spec, tokenizer, calibration.read_calibration(workdir))


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


def _read(config: Config, initial: Initial, *, copies: bool = False) -> _Read:
    """Reads all splits, with `copies` those of `config.task.perturb` too.

    Raises UserError without a training split or a tokenizer.
    """
    source = config.data.source
    read = read_splits(source, None, columns=_columns(config), holdout=config.data.holdout, by=split_keys(config.data))
    if "train" not in read:
        raise UserError(f"config.data.source: {source} has no split 'train' (found: {', '.join(read)}).")
    for found in read.values():
        _check_overlapping(found.sentences, config)
    splitter, words_note = choose_splitter(config.task.splitter, read["train"].sentences)
    tokenizer = open_tokenizer(initial)
    sentences = {split: split_again(found.sentences, splitter) for split, found in read.items()}
    if copies:
        sentences["train"] = _with_copies(config, sentences["train"])
    pieces = {split: _pieces(tokenizer, each) for split, each in sentences.items()}
    shaped = _with_shapes(config, pieces["train"], initial.encoder)
    return _Read(read, splitter, words_note, tokenizer, sentences, pieces, shaped)


def _check_overlapping(sentences: Sequence[TaggedSentence], config: Config) -> None:
    """Raises UserError for entities that overlap, unless `config.task.overlapping` says to leave some out."""
    if config.task.overlapping != REFUSE:
        return
    found = [sentence for sentence in sentences if sentence.overlapping]
    if not found:
        return
    start, end, kind = found[0].overlapping[0]
    marked = found[0].marked
    text = marked.text[start:end] if marked else " ".join(found[0].words[start:end])
    count = sum(len(sentence.overlapping) for sentence in found)
    raise UserError(
        f"{found[0].origin}: the entity {text!r} ({kind}) overlaps a longer one, but a tagger gives each word one tag "
        f"({count:,} such entities). The task nested_ner learns all of them: --config=configs/nested_ner.py:files. To "
        f"leave them out, set config.task.overlapping={LONGEST!r}."
    )


def encode_tagged(
    spec: NerSpec,
    tokenizer: "PreTrainedTokenizerFast",
    sentences: Sequence[TaggedSentence],
    seed: int | None,
    *,
    packed: bool = True,
    pieces: Sequence[Sequence[Sequence[int]]] | None = None,
) -> WindowedRows:
    """Encodes labelled sentences; UserError names the line of a label that training did not see.

    `pieces` are those of their words, where they are known already.
    """
    index = {label: i for i, label in enumerate(spec.labels)}
    for sentence in sentences:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            if tag not in index:
                raise UserError(
                    f"{sentence.origin}: the label {tag!r} (word {word!r} of this sentence) does not occur in the "
                    f"training data. {did_you_mean(tag, spec.labels)}"
                )
    return encode(
        spec,
        tokenizer,
        _pieces(tokenizer, sentences) if pieces is None else pieces,
        labels=[[index[tag] for tag in sentence.tags] for sentence in sentences],
        documents=[sentence.document for sentence in sentences],
        seed=seed,
        packed=packed,
    )


def with_words(sentences: Sequence[TaggedSentence], records: Sequence[Record]) -> tuple[TaggedSentence, ...]:
    """Returns the sentences with other words and tags."""
    return tuple(
        dataclasses.replace(sentence, words=each.words, tags=each.tags, marked=None, overlapping=())
        for sentence, each in zip(sentences, _words_records(records), strict=True)
    )


def _in_text(sentences: Sequence[TaggedSentence]) -> bool:
    """Whether entities are given in characters of texts."""
    return any(sentence.marked for sentence in sentences)


def _with_copies(config: Config, sentences: Sequence[TaggedSentence]) -> tuple[TaggedSentence, ...]:
    """Returns the training sentences, and after them their changed copies, which are documents of their own."""
    records = [WordsRecord(sentence.words, sentence.tags) for sentence in sentences]
    made = [*sentences]
    documents = max(sentence.document for sentence in sentences) + 1
    for number, copy in enumerate(changed_copies(records, config.task.perturb, WORDS, config.seed), start=1):
        made += [
            dataclasses.replace(each, document=each.document + number * documents)
            for each in with_words(sentences, copy)
        ]
    return tuple(made)


def _words_records(records: Sequence[Record]) -> Iterator[WordsRecord]:
    for each in records:
        assert isinstance(each, WordsRecord)
        yield each


def _pieces(
    tokenizer: "PreTrainedTokenizerFast", sentences: Sequence[TaggedSentence]
) -> Sequence[Sequence[Sequence[int]]]:
    return encode_words(tokenizer, [sentence.words for sentence in sentences])


def _with_shapes(config: Config, pieces: Sequence[Sequence[Sequence[int]]], encoder: EncoderConfig) -> Config:
    """Returns the config with a number for the row length, chosen from the training sentences where it is open."""
    lengths = np.asarray([2 + sum(map(len, words)) for words in pieces], np.int64)
    return with_row_length(config, lengths, encoder.max_positions, whole=config.task.context == "document")


def _labels(sentences: Sequence[TaggedSentence], initial: Initial, config: Config) -> tuple[tuple[str, ...], str]:
    """Returns the tag of each class, and a line for the log about the head."""
    types = sorted({tag[2:] for sentence in sentences for tag in sentence.tags if tag != "O"})
    if not types:
        raise UserError(f"config.data.source: the training split of {config.data.source} has no entity at all.")
    labels = ("O", *(f"{position}-{kind}" for kind in types for position in "BI"))
    labels, head = head_labels(config, initial.labels, labels)
    if head != "new":
        return labels, f"head: {head}"
    listed = ", ".join(types[:_LISTED]) + (f" and {len(types) - _LISTED:,} more" if len(types) > _LISTED else "")
    return labels, f"head: new, {len(labels):,} classes ({listed})"


def _check_head(task: NerConfig) -> None:
    """Raises UserError for keys that mean nothing to a CRF."""
    if task.head != CRF:
        return
    if task.decoding != VITERBI:
        raise UserError(
            f"config.task.decoding: {task.decoding!r} takes each word by itself, but config.task.head={CRF!r} scores "
            f"whole sequences: leave it at {VITERBI!r}."
        )
    for each in dataclasses.fields(task.loss):
        if value := getattr(task.loss, each.name):
            raise UserError(
                f"config.task.loss.{each.name}: is {value!r}, but changes the loss of words by themselves, and "
                f"config.task.head={CRF!r} minimises that of whole sequences. Leave it out, or take "
                f"config.task.head={SOFTMAX!r}."
            )


def _spec(config: Config, encoder: EncoderConfig, labels: tuple[str, ...], splitter: str) -> NerSpec:
    _check_head(config.task)
    window, overlap = window_length(config.data, encoder.max_positions), config.task.overlap
    check_overlap(overlap, window)
    return NerSpec(
        labels=labels,
        encoder=encoder,
        row_length=config.data.row_length,
        window=window,
        overlap=overlap,
        context=config.task.context,
        splitter=splitter,
        decoding=config.task.decoding,
        head=config.task.head,
        word_pooling=config.task.word_pooling,
        exits=exit_layers(config.exits, encoder),
    )


def _used(config: Config, spec: NerSpec, initial: Initial) -> tuple[str, ...]:
    """Returns the parts of a checkpoint that a tagger takes: the head only when its labels are the task's."""
    transform = ("transform/",) if spec.encoder.classifier_transform else ()
    chain = ("chain/",) if spec.head == CRF else ()
    same = takes_head(config, initial.labels, spec.labels)
    early = exit_paths(spec.exits, (*transform, "head/")) if same else ()
    return ("encoder/", *transform, *(("head/", *chain) if same else ()), *early)


def _cut_note(sentences: Sequence[TaggedSentence], splitter: str) -> str:
    """Returns what to say of entities that a tagger of these words cannot find."""
    cut = [sentence for sentence in sentences if count_cut([sentence])]
    if not cut:
        return ""
    return (
        f"; {count_cut(cut):,} entities start or end inside a word ({splitter}), take all of it in training and count "
        f"as missed (first: {cut[0].origin})"
    )


def _columns(config: Config) -> Columns:
    return Columns(config.data.words_column, config.data.tags_column, config.data.document_column)
