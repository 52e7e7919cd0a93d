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

from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.packing import PackedRows, build_rows
from jaxfm.data.source_records import Columns
from jaxfm.data.sources import TaggedSentence, available_splits, read_tagged
from jaxfm.data.tokenization import encode_words, load_tokenizer
from jaxfm.data.windows import Windows, make_windows
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.initial import Initial
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.presets import EncoderConfig
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.tasks import entities
from jaxfm.tasks.task import TASK_FILE, TOKENIZER_DIR, Evaluation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class NerModel:
    """All that a trained tagger is beside its weights; kept in task.json.

    Attributes:
      labels: tag of each class.
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest example in tokens.
      overlap: tokens shared by neighbouring windows of one sentence.
      context: "sentence" or "document", what else fills a window.
    """

    labels: tuple[str, ...]
    encoder: EncoderConfig
    row_length: int
    window: int
    overlap: int
    context: str

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True) -> TokenClassifier:
        """Builds encoder and head."""
        return TokenClassifier(self.encoder, len(self.labels), rngs, dtype=dtype, scan=scan)

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns class [B, T] int32, its probability [B, T], and summed loss and its weight [B] of labelled tokens."""
        logits_BTC = model(dict(batch))
        loss_BT, weight_BT = _losses(logits_BTC, batch["labels"], smoothing=0.0)
        return {
            "label": jnp.argmax(logits_BTC, axis=-1).astype(jnp.int32),
            "probability": jnp.max(jax.nn.softmax(logits_BTC), axis=-1),
            "loss": loss_BT.sum(axis=-1),
            "weight": weight_BT.sum(axis=-1),
        }


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Sentences as windows in packed rows, and the way back."""

    windows: Windows
    rows: PackedRows
    word_counts: tuple[int, ...]

    def per_word(self, values_NT: np.ndarray) -> list[np.ndarray]:
        """Returns for each sentence the value at each word's own position, from an array over the rows.

        Each word is owned by exactly one window, so every word gets exactly one value.
        """
        result = [np.empty(count, values_NT.dtype) for count in self.word_counts]
        filled = np.zeros(len(result), np.int64)
        for sentence, words, (row, _, start) in zip(
            self.windows.sentence, self.windows.words, self.rows.slots, strict=True
        ):
            places = np.flatnonzero(words >= 0)
            result[sentence][words[places]] = values_NT[row, start + places]
            filled[sentence] += len(places)
        assert np.array_equal(filled, self.word_counts), "a word without its one prediction"
        return result


def encode(
    model: NerModel,
    tokenizer: "PreTrainedTokenizerFast",
    sentences: Sequence[Sequence[str]],
    *,
    labels: Sequence[Sequence[int]] | None = None,
    documents: Sequence[int] | None = None,
    seed: int | None = None,
) -> Encoded:
    """Tokenizes, cuts into windows and packs; with a seed the examples are shuffled before packing (training)."""
    assert tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    windows = make_windows(
        encode_words(tokenizer, sentences),
        labels,
        cls_id=tokenizer.cls_token_id,
        sep_id=tokenizer.sep_token_id,
        max_length=model.window,
        overlap=model.overlap,
        context="document" if model.context == "document" and documents is not None else "sentence",
        documents=documents,
    )
    rows = build_rows(windows.tokens, windows.labels, model.row_length, tokenizer.pad_token_id, seed)
    return Encoded(windows, rows, tuple(len(words) for words in sentences))


@dataclasses.dataclass(frozen=True)
class NerTask:
    """A tagger with the splits of one source (implements jaxfm.tasks.task.Task)."""

    model: NerModel
    tokenizer: "PreTrainedTokenizerFast"
    label_smoothing: float
    sentences: Mapping[str, tuple[TaggedSentence, ...]]
    encoded: Mapping[str, Encoded]
    notes: tuple[str, ...]

    name = "ner"
    choosing = {"f1": True, "precision": True, "recall": True, "macro_f1": True, "accuracy": True, "loss": False}

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool) -> nnx.Module:
        """Builds encoder and head."""
        return self.model.make_model(rngs, dtype=dtype, scan=scan)

    def loss(
        self, model: TokenClassifier, batch: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """Cross-entropy summed over the words of the batch; also "accuracy" over words."""
        logits_BTC = model(dict(batch), key=key)
        loss_BT, weight_BT = _losses(logits_BTC, batch["labels"], self.label_smoothing)
        weight = weight_BT.sum()
        right = jnp.sum((jnp.argmax(logits_BTC, axis=-1) == batch["labels"]) * weight_BT)
        return loss_BT.sum(), (weight, {"accuracy": weighted(right, weight)})

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See NerModel.outputs."""
        return self.model.outputs(model, batch)

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are."""
        return tuple(self.encoded)

    def rows(self, split: str) -> PackedRows:
        """Returns a split's packed rows."""
        return self.encoded[split].rows

    def score(self, split: str, outputs: Mapping[str, np.ndarray]) -> Evaluation:
        """Entity scores as conlleval and seqeval define them, and token scores as in scikit-learn's report."""
        encoded, sentences = self.encoded[split], self.sentences[split]
        predicted = [[self.model.labels[i] for i in ids] for ids in encoded.per_word(outputs["label"])]
        gold = [list(sentence.tags) for sentence in sentences]
        spans, tokens = entities.score_entities(gold, predicted), entities.score_tokens(gold, predicted)
        metrics = {
            "f1": spans.f1,
            "precision": spans.precision,
            "recall": spans.recall,
            "macro_f1": spans.macro["f1"],
            "accuracy": tokens.accuracy,
            "loss": float(outputs["loss"].sum(dtype=np.float64) / max(outputs["weight"].sum(dtype=np.float64), 1.0)),
        }
        probabilities = encoded.per_word(outputs["probability"])
        return Evaluation(
            metrics=metrics,
            scores=spans.to_dict() | {"loss": metrics["loss"], "tokens": tokens.to_dict()},
            tables=(entities.entity_table(spans), entities.token_table(tokens)),
            predictions=_records(sentences, predicted, probabilities),
        )

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        files.write_json(workdir / TASK_FILE, {"task": self.name, **dataclasses.asdict(self.model)})


def create(config: Config, initial: Initial) -> NerTask:
    """Reads the source and builds the task of a new run.

    Raises:
      UserError: no training data, a window the encoder has no positions for, a label unseen in training.
    """
    columns = Columns(config.data.words_column, config.data.tags_column, config.data.document_column)
    there = available_splits(config.data.source, columns)
    if "train" not in there:
        raise UserError(f"config.data.source: {config.data.source} has no split 'train' (found: {', '.join(there)}).")
    read = read_tagged(config.data.source, there, columns=columns)
    types = sorted({tag[2:] for sentence in read["train"].sentences for tag in sentence.tags if tag != "O"})
    if not types:
        raise UserError(f"config.data.source: the training split of {config.data.source} has no entity at all.")
    labels = ("O", *(f"{position}-{kind}" for kind in types for position in "BI"))
    head_note = f"head: new, {len(labels)} classes ({', '.join(types)})"
    if set(initial.labels) == set(labels):
        labels, head_note = initial.labels, "head: loaded, its labels are those of the data"
    model = NerModel(
        labels=labels,
        encoder=initial.encoder,
        row_length=config.data.row_length,
        window=_window(config, initial.encoder),
        overlap=config.data.overlap,
        context=config.data.context,
    )
    tokenizer = load_tokenizer(initial.tokenizer)
    check_tokenizer(tokenizer, initial.encoder, initial.tokenizer)
    sentences = {split: read[split].sentences for split in there}
    encoded = {
        split: encode_tagged(model, tokenizer, sentences[split], seed=config.seed if split == "train" else None)
        for split in there
    }
    notes = (*initial.notes, head_note, *(read[split].note for split in there))
    return NerTask(model, tokenizer, config.train.label_smoothing, sentences, encoded, notes)


def keep_head(task: NerTask, initial: Initial) -> dict[str, np.ndarray]:
    """Returns the loaded parameters this task uses: the head only when its labels are the task's."""
    if initial.labels == task.model.labels:
        return initial.params
    return {name: value for name, value in initial.params.items() if not name.startswith("head/")}


def open_model(workdir: pathlib.Path) -> tuple[NerModel, "PreTrainedTokenizerFast"]:
    """Reads back what `save` wrote into a run directory."""
    values = files.read_json(workdir / TASK_FILE)
    encoder = EncoderConfig(**values["encoder"])
    rest = {key: value for key, value in values.items() if key not in ("task", "encoder", "labels")}
    return NerModel(labels=tuple(values["labels"]), encoder=encoder, **rest), load_tokenizer(workdir / TOKENIZER_DIR)


def open_task(workdir: pathlib.Path, source: str, splits: Sequence[str], columns: Columns) -> NerTask:
    """Builds the task of a trained run over (other) labelled data, for evaluation."""
    model, tokenizer = open_model(workdir)
    read = read_tagged(source, splits, columns=columns)
    sentences = {split: read[split].sentences for split in splits}
    encoded = {split: encode_tagged(model, tokenizer, sentences[split], seed=None) for split in splits}
    return NerTask(model, tokenizer, 0.0, sentences, encoded, tuple(read[split].note for split in splits))


def encode_tagged(
    model: NerModel, tokenizer: "PreTrainedTokenizerFast", sentences: Sequence[TaggedSentence], seed: int | None
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
        [sentence.words for sentence in sentences],
        labels=[[index[tag] for tag in sentence.tags] for sentence in sentences],
        documents=[sentence.document for sentence in sentences],
        seed=seed,
    )


def check_tokenizer(tokenizer: "PreTrainedTokenizerFast", encoder: EncoderConfig, where: pathlib.Path) -> None:
    """Raises UserError for a tokenizer whose ids the word embedding has no rows for, or without [CLS], [SEP], [PAD]."""
    if len(tokenizer) > encoder.vocab_size:
        raise UserError(
            f"{where}: the tokenizer has {len(tokenizer)} entries, the word embedding {encoder.vocab_size} rows: "
            "they are not of the same model."
        )
    for name in ("cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise UserError(f"{where}: the tokenizer has no {name}, which an encoder's input needs.")


def _window(config: Config, encoder: EncoderConfig) -> int:
    window = config.data.window or min(config.data.row_length, encoder.max_positions)
    for limit, name in ((config.data.row_length, "config.data.row_length"), (encoder.max_positions, "the encoder")):
        if window > limit:
            raise UserError(f"config.data.window: {window} tokens do not fit {name} ({limit} tokens).")
    if config.data.overlap >= window - 2:
        raise UserError(
            f"config.data.overlap: {config.data.overlap} must be less than the window of {window} tokens without its "
            f"two special tokens; at most {window - 3}."
        )
    return window


def _losses(logits_BTC: jax.Array, labels_BT: jax.Array, smoothing: float) -> tuple[jax.Array, jax.Array]:
    """Returns cross-entropy and weight (1.0 where labelled), both [B, T]; smoothing as in Szegedy et al. 2016."""
    weight_BT = (labels_BT >= 0).astype(jnp.float32)
    log_probs_BTC = jax.nn.log_softmax(logits_BTC)
    picked_BT = jnp.take_along_axis(log_probs_BTC, jnp.maximum(labels_BT, 0)[..., None], axis=-1)[..., 0]
    loss_BT = -(1.0 - smoothing) * picked_BT - smoothing * log_probs_BTC.mean(axis=-1)
    return loss_BT * weight_BT, weight_BT


def _records(
    sentences: Sequence[TaggedSentence], predicted: Sequence[Sequence[str]], probabilities: Sequence[np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Yields one record a sentence: words, both tag rows, entities found, missed and invented."""
    for sentence, tags, scores in zip(sentences, predicted, probabilities, strict=True):
        gold, found = set(entities.entity_spans(sentence.tags)), set(entities.entity_spans(tags))

        def described(spans: set[Any], words: Sequence[str] = sentence.words) -> list[dict[str, Any]]:
            ordered = sorted(spans, key=lambda span: span[1])
            return [{"type": k, "start": a, "end": b, "text": " ".join(words[a:b])} for k, a, b in ordered]

        yield {
            "origin": sentence.origin,
            "correct": gold == found,
            "words": list(sentence.words),
            "gold": list(sentence.tags),
            "predicted": list(tags),
            "probabilities": [round(float(score), 4) for score in scores],
            "right": described(gold & found),
            "missed": described(gold - found),
            "invented": described(found - gold),
        }
