"""Named-entity recognition as token classification: the label of a word is read on its first piece."""

# B batch, T tokens, C classes

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
from jaxfm.core.evaluation import BootstrapData
from jaxfm.core.task import NOT_CALIBRATED, TOKENIZER_DIR, Evaluation, build_spec, read_task, write_task
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.data.records.tagged_holdout import read_splits
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.resplit import choose_splitter, count_cut, found_entities, gold_entities, split_again
from jaxfm.data.text.tokenization import check_tokenizer, encode_words, load_tokenizer
from jaxfm.data.text.windows import window_length
from jaxfm.data.text.words import COARSE
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.evaluation import entities
from jaxfm.hub.initial import Initial
from jaxfm.models.heads import TokenClassifier
from jaxfm.observe import plots
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.tasks.losses import ClassLoss, symmetric_kl, with_r_drop
from jaxfm.tasks.ner_predictor import Encoded, NerPredictor, NerSpec, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


_LISTED = 20  # types in a note
# Classes where no data says which there are: those of CoNLL-2003.
_USUAL_LABELS = ("O", *(f"{position}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for position in "BI"))


@dataclasses.dataclass(frozen=True)
class NerObjective:
    """A tagger and its loss (implements jaxfm.core.task.Objective)."""

    model: NerSpec
    class_loss: ClassLoss
    r_drop: float

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.model.encoder

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool, remat: str = "none") -> nnx.Module:
        """Builds encoder and head."""
        return self.model.make_model(rngs, dtype=dtype, scan=scan, remat=remat)

    def label_shape(self, row_length: int) -> tuple[tuple[int, ...], np.dtype]:
        """A tag a token, -1 but for the first piece of each word."""
        return (row_length,), np.dtype(np.int32)

    def loss(
        self, model: TokenClassifier, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """Cross-entropy summed over the words of the batch, the same all through a run; also "accuracy" over words."""
        del progress
        logits_BTC, loss_BT, weight_BT = with_r_drop(
            lambda pass_key: model(dict(batch), key=pass_key),
            lambda logits_BTC: self.class_loss(logits_BTC, batch["labels"]),
            symmetric_kl,
            key,
            self.r_drop,
        )
        right = jnp.sum(jnp.argmax(logits_BTC, axis=-1) == batch["labels"])
        return loss_BT.sum(), (weight_BT.sum(), {"accuracy": weighted(right, jnp.sum(batch["labels"] >= 0))})


@dataclasses.dataclass(frozen=True)
class NerTask(NerObjective):
    """The same with the splits of one source (implements jaxfm.core.task.Task)."""

    tokenizer: "PreTrainedTokenizerFast"
    sentences: Mapping[str, tuple[TaggedSentence, ...]]
    encoded: Mapping[str, Encoded]
    notes: tuple[str, ...]

    name = "ner"
    selection_metrics = {
        "f1": True,
        "precision": True,
        "recall": True,
        "macro_f1": True,
        "accuracy": True,
        "loss": False,
    }

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See NerSpec.outputs."""
        return self.model.outputs(model, batch)

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are."""
        return tuple(self.encoded)

    def rows(self, split: str) -> PackedRows:
        """Returns a split's packed rows."""
        return self.encoded[split].rows

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature to the words of the validation split, where that helps on sentences held out."""
        logits = np.concatenate(self.encoded["valid"].per_word(outputs["logits"]))
        counts = self.encoded["valid"].word_counts
        sentence = np.repeat(np.arange(len(counts)), counts)
        return calibration_lib.fit_calibration(logits, self._gold("valid"), groups=sentence)

    def score(
        self, split: str, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Entity scores as conlleval and seqeval define them, and token scores as in scikit-learn's report."""
        encoded, sentences, labels = self.encoded[split], self.sentences[split], self.model.labels
        predicted = [[labels[i] for i in ids] for ids in encoded.per_word(outputs["label"])]
        gold = [list(sentence.tags) for sentence in sentences]
        kinds = sorted({label[2:] for label in labels if label != "O"})
        found = [found_entities(sentence, tags) for sentence, tags in zip(sentences, predicted, strict=True)]
        counts = entities.count_spans([gold_entities(sentence) for sentence in sentences], found, kinds)
        spans, tokens = entities.sum_entities(kinds, counts), entities.score_tokens(gold, predicted)
        metrics = {
            "f1": spans.f1,
            "precision": spans.precision,
            "recall": spans.recall,
            "macro_f1": spans.macro["f1"],
            "accuracy": tokens.accuracy,
            "loss": float(outputs["loss"].sum(dtype=np.float64) / max(outputs["weight"].sum(dtype=np.float64), 1.0)),
        }
        logits, classes = np.concatenate(encoded.per_word(outputs["logits"])), self._gold(split)
        assessed = calibration_lib.assess(logits, classes, calibration)
        ends = np.cumsum(encoded.word_counts)[:-1]
        probabilities = calibration_lib.probabilities(logits, calibration).max(axis=-1)
        lost = calibration_lib.losses(logits, classes, NOT_CALIBRATED)
        units = {
            "entities": counts,
            "words": np.asarray(encoded.word_counts, np.float64),
            "right": np.asarray(
                [sum(map(str.__eq__, *pair)) for pair in zip(gold, predicted, strict=True)], np.float64
            ),
            "loss": np.asarray([words.sum() for words in np.split(lost, ends)]),
        }
        right_NC, found_NC, gold_NC = np.split(counts, 3, axis=-1)
        cut = count_cut(sentences)
        return Evaluation(
            metrics=metrics,
            scores=spans.to_dict()
            | {"loss": metrics["loss"], "tokens": tokens.to_dict(), "calibration": assessed.detail}
            | ({"entities_cut_by_words": cut} if any(sentence.marked for sentence in sentences) else {}),
            tables=(entities.entity_table(spans), entities.token_table(tokens), assessed.table),
            predictions=_records(sentences, predicted, np.split(probabilities, ends)),
            bootstrap_data=BootstrapData(
                sampling_unit="sentences",
                units=units,
                computed=entities.tagging_metrics,
                identity=[
                    sentence.marked[:2] if sentence.marked else (sentence.words, sentence.tags)
                    for sentence in sentences
                ],
                classes=tuple(sorted(labels)),
                right=((right_NC == found_NC) & (right_NC == gold_NC)).all(axis=-1),
            ),
            plots=dict(assessed.plots)
            | ({"per_type": lambda path: plots.plot_per_type(spans.per_type, path)} if spans.per_type else {}),
        )

    def _gold(self, split: str) -> np.ndarray:
        """Returns the class of each word of a split, all sentences in one row."""
        index = {label: number for number, label in enumerate(self.model.labels)}
        return np.asarray([index[tag] for sentence in self.sentences[split] for tag in sentence.tags], np.int64)

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_task(workdir, {"task": self.name, **dataclasses.asdict(self.model)})


def create(config: Config, initial: Initial) -> NerTask:
    """Reads the source and builds the task of a new run.

    Raises:
      UserError: no training data, a window the encoder has no positions for, a label unseen in training.
    """
    read = read_splits(config.data.source, None, columns=_columns(config), holdout=config.data.holdout)
    if "train" not in read:
        raise UserError(f"config.data.source: {config.data.source} has no split 'train' (found: {', '.join(read)}).")
    types = sorted({tag[2:] for sentence in read["train"].sentences for tag in sentence.tags if tag != "O"})
    if not types:
        raise UserError(f"config.data.source: the training split of {config.data.source} has no entity at all.")
    labels = ("O", *(f"{position}-{kind}" for kind in types for position in "BI"))
    listed = ", ".join(types[:_LISTED]) + (f" and {len(types) - _LISTED:,} more" if len(types) > _LISTED else "")
    head_note = f"head: new, {len(labels):,} classes ({listed})"
    if set(initial.labels) == set(labels):
        labels, head_note = initial.labels, "head: loaded, its labels are those of the data"
    splitter, words_note = choose_splitter(config.data.splitter, read["train"].sentences)
    model = _model(config, initial.encoder, labels, splitter)
    if initial.tokenizer is None:
        raise UserError("config.model.tokenizer: 'scratch' needs dir:PATH (or package:, hf:) of a tokenizer.")
    tokenizer = load_tokenizer(initial.tokenizer)
    check_tokenizer(tokenizer, initial.encoder.vocab_size, initial.tokenizer)
    sentences = {split: split_again(found.sentences, splitter) for split, found in read.items()}
    encoded = {
        split: encode_tagged(
            model,
            tokenizer,
            sentences[split],
            seed=config.seed if split == "train" else None,
            packed=config.data.packed,
        )
        for split in sentences
    }
    kept = ("head/", *_used(model, initial))
    data_notes = [found.note + _cut_note(sentences[split], splitter) for split, found in read.items()]
    notes = (*initial.notes, *initial.left_over(kept), head_note, *data_notes, words_note)
    labelled = encoded["train"].rows.labels
    counts = np.bincount(labelled[labelled >= 0], minlength=len(labels))
    class_loss = ClassLoss.of(config.loss, labels, counts)
    return NerTask(model, class_loss, config.loss.r_drop, tokenizer, sentences, encoded, notes)


def outline(config: Config, encoder: EncoderConfig) -> NerObjective:
    """Builds model and loss without data or tokenizer, for shapes alone."""
    class_loss = ClassLoss(config.loss.label_smoothing, config.loss.focal_gamma)
    return NerObjective(_model(config, encoder, _USUAL_LABELS, COARSE), class_loss, config.loss.r_drop)


def _model(config: Config, encoder: EncoderConfig, labels: tuple[str, ...], splitter: str) -> NerSpec:
    return NerSpec(
        labels=labels,
        encoder=encoder,
        row_length=config.data.row_length,
        window=_window(config, encoder),
        overlap=config.data.overlap,
        context=config.data.context,
        splitter=splitter,
    )


def select_params(task: NerTask, initial: Initial) -> dict[str, np.ndarray]:
    """Returns the loaded parameters this task uses: the head only when its labels are the task's."""
    used = _used(task.model, initial)
    return {name: value for name, value in initial.params.items() if name.startswith(used)}


def _used(model: NerSpec, initial: Initial) -> tuple[str, ...]:
    """Parts of a checkpoint that a tagger takes."""
    transform = ("transform/",) if model.encoder.classifier_transform else ()
    return ("encoder/", *transform, *(("head/",) if initial.labels == model.labels else ()))


def open_model(workdir: pathlib.Path) -> tuple[NerSpec, "PreTrainedTokenizerFast"]:
    """Reads back what `save` wrote into a run directory."""
    values = read_task(workdir)
    return build_spec(NerSpec, values), load_tokenizer(workdir / TOKENIZER_DIR)


def open_task(workdir: pathlib.Path, config: Config, source: str, split: str) -> NerTask:
    """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
    model, tokenizer = open_model(workdir)
    read = read_splits(source, (split,), columns=_columns(config), holdout=config.data.holdout)
    ((split, found),) = read.items()
    sentences = split_again(found.sentences, model.splitter)
    encoded = encode_tagged(model, tokenizer, sentences, seed=None)
    note = found.note + _cut_note(sentences, model.splitter)
    return NerTask(model, ClassLoss(), 0.0, tokenizer, {split: sentences}, {split: encoded}, (note,))


def open_predictor(workdir: pathlib.Path) -> "NerPredictor":
    """Returns the tagger of a trained run."""
    return NerPredictor(*open_model(workdir), calibration_lib.read_calibration(workdir))


# A tagger knows all that an export needs.
open_exporter = open_predictor


def encode_tagged(
    model: NerSpec,
    tokenizer: "PreTrainedTokenizerFast",
    sentences: Sequence[TaggedSentence],
    seed: int | None,
    *,
    packed: bool = True,
) -> Encoded:
    """Encodes labelled sentences; UserError names the place of a label that training did not see."""
    index = {label: i for i, label in enumerate(model.labels)}
    for sentence in sentences:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            if tag not in index:
                raise UserError(
                    f"{sentence.origin}: the label {tag!r} (word {word!r} of this sentence) does not occur in the "
                    f"training data. {did_you_mean(tag, model.labels)}"
                )
    return encode(
        model,
        tokenizer,
        encode_words(tokenizer, [sentence.words for sentence in sentences]),
        labels=[[index[tag] for tag in sentence.tags] for sentence in sentences],
        documents=[sentence.document for sentence in sentences],
        seed=seed,
        packed=packed,
    )


def _cut_note(sentences: Sequence[TaggedSentence], splitter: str) -> str:
    """What to say of entities that a tagger of these words cannot find."""
    cut = [sentence for sentence in sentences if count_cut([sentence])]
    if not cut:
        return ""
    return (
        f"; {count_cut(cut):,} entities start or end inside a word ({splitter}), take all of it in training and count "
        f"as missed (first: {cut[0].origin})"
    )


def _columns(config: Config) -> Columns:
    return Columns(config.data.words_column, config.data.tags_column, config.data.document_column)


def _window(config: Config, encoder: EncoderConfig) -> int:
    window = window_length(config.data, encoder.max_positions)
    if config.data.overlap >= window - 2:
        raise UserError(
            f"config.data.overlap: {config.data.overlap} must be less than the window of {window} tokens without its "
            f"two special tokens; at most {window - 3}."
        )
    return window


def _records(
    sentences: Sequence[TaggedSentence], predicted: Sequence[Sequence[str]], probabilities: Sequence[np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Yields one record a sentence: words, both tag rows, entities found, missed and invented.

    These start and end at words, end exclusive, or where the source gives a text and characters, at characters.
    """
    for sentence, tags, scores in zip(sentences, predicted, probabilities, strict=True):
        gold, found = set(gold_entities(sentence)), set(found_entities(sentence, tags))

        def described(spans: set[Any], sentence: TaggedSentence = sentence) -> list[dict[str, Any]]:
            marked, words = sentence.marked, sentence.words
            return [
                {"type": k, "start": a, "end": b, "text": marked.text[a:b] if marked else " ".join(words[a:b])}
                for a, b, k in sorted(spans)
            ]

        yield {
            "origin": sentence.origin,
            "correct": gold == found,
            **({"text": sentence.marked.text} if sentence.marked else {}),
            "words": list(sentence.words),
            "gold": list(sentence.tags),
            "predicted": list(tags),
            "probabilities": [round(float(score), 4) for score in scores],
            "right": described(gold & found),
            "missed": described(gold - found),
            "invented": described(found - gold),
        }
