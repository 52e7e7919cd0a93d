"""A trained tagger: what it is beside its weights, and raw text to entities with character offsets."""

# B batch, T tokens, C classes, N rows

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.data.text.tagging import entity_spans
from jaxfm.data.text.tokenization import encode_words, marks_continuing_pieces, pipeline_words
from jaxfm.data.text.windows import Windows, make_windows
from jaxfm.data.text.words import COARSE, words_of
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.calibration import probabilities
from jaxfm.hub.export import write_model
from jaxfm.models.heads import TokenClassifier
from jaxfm.tasks.losses import ClassLoss
from jaxfm.tasks.model_card import tagger_card

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RUN_WORDS, PIPELINE_WORDS = WORDS = ("run", "transformers")
"""What splits raw text into words: the rule of the run, or what transformers' pipeline would take for words."""


@dataclasses.dataclass(frozen=True)
class NerSpec:
    """All that a trained tagger is beside its weights; kept in task.json.

    Attributes:
      labels: tag of each class.
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest example in tokens.
      overlap: tokens shared by neighbouring windows of one sentence.
      context: "sentence" or "document", what else fills a window.
      splitter: the rule of `jaxfm.data.text.words` that splits raw text; "coarse" was the only one when runs kept none.
    """

    labels: tuple[str, ...]
    encoder: EncoderConfig
    row_length: int
    window: int
    overlap: int
    context: str
    splitter: str = COARSE

    def make_model(
        self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True, remat: str = "none"
    ) -> TokenClassifier:
        """Builds encoder and head."""
        return TokenClassifier(self.encoder, len(self.labels), rngs, dtype=dtype, scan=scan, remat=remat)

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns logits [B, T, C], class [B, T] int32, and summed loss and its weight [B] of labelled tokens."""
        logits_BTC = model(dict(batch))
        loss_BT, weight_BT = ClassLoss()(logits_BTC, batch["labels"])
        return {
            "label": jnp.argmax(logits_BTC, axis=-1).astype(jnp.int32),
            "logits": logits_BTC,
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
        """Returns for each sentence the values at its words' own positions [words, ...], from an array [N, T, ...].

        Each word is owned by exactly one window, so every word gets exactly one value.
        """
        result = [np.empty((count, *values_NT.shape[2:]), values_NT.dtype) for count in self.word_counts]
        filled = np.zeros(len(result), np.int64)
        for sentence, words, (row, _, start) in zip(
            self.windows.sentence, self.windows.words, self.rows.example_locations, strict=True
        ):
            places = np.flatnonzero(words >= 0)
            result[sentence][words[places]] = values_NT[row, start + places]
            filled[sentence] += len(places)
        assert np.array_equal(filled, self.word_counts), "a word without its one prediction"
        return result


def encode(
    model: NerSpec,
    tokenizer: "PreTrainedTokenizerFast",
    pieces: Sequence[Sequence[Sequence[int]]],
    *,
    labels: Sequence[Sequence[int]] | None = None,
    documents: Sequence[int] | None = None,
    seed: int | None = None,
    packed: bool = True,
) -> Encoded:
    """Cuts sentences (the pieces of each word, as from `encode_words`) into windows and packs these.

    With a seed the examples are shuffled before packing (training). Not `packed`, every window has a row of its own.
    """
    cls_id, sep_id, pad_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert isinstance(cls_id, int) and isinstance(sep_id, int) and isinstance(pad_id, int), "see check_tokenizer"
    windows = make_windows(
        pieces,
        labels,
        cls_id=cls_id,
        sep_id=sep_id,
        max_length=model.window,
        overlap=model.overlap,
        context="document" if model.context == "document" and documents is not None else "sentence",
        documents=documents,
    )
    rows = build_rows(windows.tokens, windows.labels, model.row_length, pad_id, seed, None if packed else 1)
    return Encoded(windows, rows, tuple(len(words) for words in pieces))


@dataclasses.dataclass(frozen=True)
class Words:
    """A text and its words.

    Attributes:
      text: the text; of words that were given without one, these with a space between.
      offsets: each word in characters of the text, end exclusive.
      given: the words where a record has them, else None.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    given: Sequence[str] | None = None

    @classmethod
    def of_record(cls, record: Mapping[str, Any], splitter: str) -> "Words":
        """Reads {"text": ...}, {"tokens": [...]} or both; UserError where the words are not those of the text."""
        if "tokens" not in record:
            text = str(record["text"])
            return cls(text, words_of(text, splitter))
        tokens = list(record["tokens"])
        if "text" not in record:
            ends = np.cumsum([len(token) + 1 for token in tokens], dtype=np.int64).tolist()
            offsets = [(end - 1 - len(token), end - 1) for token, end in zip(tokens, ends, strict=True)]
            return cls(" ".join(tokens), offsets, tokens)
        text, offsets, before = str(record["text"]), [], 0
        for number, token in enumerate(tokens):
            start = text.find(token, before)
            if start < 0 or text[before:start].strip():
                raise UserError(
                    f"{record.get('origin', 'a record')}: tokens[{number}] = {token!r} does not follow in the text, "
                    f"where {text[before : before + 20]!r} "
                    'does. Leave out "text", or give the tokens of this text, in order.'
                )
            before = start + len(token)
            offsets.append((start, before))
        return cls(text, offsets, tokens)


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as words, and the packed rows of those words."""

    texts: tuple[Words, ...]
    encoded: Encoded

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows


@dataclasses.dataclass(frozen=True)
class NerPredictor:
    """Texts in, entities out (implements Predictor and Exporter of jaxfm.core.task)."""

    model: NerSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)
    words: str = RUN_WORDS

    records_at_once = 2048
    takes_words = True
    pairs = False

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.model.encoder

    @property
    def labels(self) -> tuple[str, ...]:
        """Tag of each class."""
        return self.model.labels

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True) -> TokenClassifier:
        """Builds encoder and head."""
        return self.model.make_model(rngs, dtype=dtype, scan=scan)

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See NerSpec.outputs."""
        return self.model.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """Splits texts into words, or takes the words that a record has as "tokens", and packs them.

        A model trained with document context gets it here too: neighbouring records are one document, and a record
        without words (an empty line) ends it. Raises UserError for half of a surrogate pair, and for words of a record
        that are asked to be split otherwise.
        """
        if self.words == PIPELINE_WORDS:
            texts, pieces = self._pipeline(records)
        else:
            texts = tuple(Words.of_record(record, self.model.splitter) for record in records)
            pieces = encode_words(
                self.tokenizer, [[text.text[start:end] for start, end in text.offsets] for text in texts]
            )
        ended = np.cumsum([not text.offsets for text in texts])
        encoded = encode(self.model, self.tokenizer, pieces, documents=[int(document) for document in ended])
        return EncodedTexts(texts, encoded)

    def _pipeline(self, records: Sequence[Mapping[str, Any]]) -> tuple[tuple[Words, ...], list[list[list[int]]]]:
        """Returns texts and pieces by the words of transformers' pipeline."""
        for record in records:
            if "tokens" in record:
                raise UserError(
                    f"{record.get('origin', 'a record')}: --words={PIPELINE_WORDS} splits raw text, but here are words "
                    'already ("tokens"): leave out the flag, or the tokens.'
                )
        texts = [str(record["text"]) for record in records]
        found = pipeline_words(self.tokenizer, texts)
        words = tuple(Words(text, words.offsets) for text, words in zip(texts, found, strict=True))
        return words, [words.pieces for words in found]

    def decode(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "entities": [{"type", "text", "start", "end", "score"}]} for each text.

        Offsets count characters of the text, end exclusive; the score is the mean probability of the entity's
        words, calibrated on the validation split of the run where it had one. Where a record had words, the result has
        them too ("tokens"), and each entity has the first one and the one after its last ("start_word", "end_word").
        """
        if not len(encoded.rows):  # no word in any text
            return [_result(text, []) for text in encoded.texts]
        labels = encoded.encoded.per_word(outputs["label"])
        scores = [
            probabilities(logits, self.calibration).max(axis=-1)
            for logits in encoded.encoded.per_word(outputs["logits"])
        ]
        results = []
        for text, ids, sure in zip(encoded.texts, labels, scores, strict=True):
            entities = []
            for first, end, kind in entity_spans([self.model.labels[i] for i in ids]):
                start, stop = text.offsets[first][0], text.offsets[end - 1][1]
                entity = {"type": kind, "text": text.text[start:stop], "start": start, "end": stop}
                if text.given is not None:
                    entity |= {"start_word": first, "end_word": end}
                entities.append(entity | {"score": round(float(sure[first:end].mean()), 4)})
            results.append(_result(text, entities))
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then a line an entity: characters, type, score, text."""
        found = [
            f"  {entity['start']:>5}-{entity['end']:<5} {entity['type']:<12} {entity['score']:.3f}  {entity['text']}"
            for entity in result["entities"]
        ]
        return [result["text"], *(found or ["  (no entities)"])]

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForTokenClassification and AutoTokenizer open, and a model card (README.md)."""
        write_model(
            folder,
            self.model.encoder,
            head="token_classes",
            params=params,
            tokenizer=self.tokenizer,
            labels=self.model.labels,
        )
        card = tagger_card(
            self.model.labels,
            splitter=self.model.splitter,
            marks_parts=marks_continuing_pieces(self.tokenizer),
            window=self.model.encoder.max_positions,
        )
        files.write_text(folder / "README.md", card)


def with_words(predictor: Any, words: str) -> Any:
    """Returns the predictor with another way to split raw text into words, one of `WORDS`.

    Raises UserError for an unknown way, and for a model that does not read words.
    """
    if words not in WORDS:
        raise UserError(f"--words={words}: {did_you_mean(words, WORDS)}")
    if words == RUN_WORDS:
        return predictor
    if not isinstance(predictor, NerPredictor):
        raise UserError(f"--words={words}: only a model of named entities (task ner) reads a text word by word.")
    return dataclasses.replace(predictor, words=words)


def _result(text: Words, entities: list[dict[str, Any]]) -> dict[str, Any]:
    given = {} if text.given is None else {"tokens": list(text.given)}
    return {"text": text.text, **given, "entities": entities}
