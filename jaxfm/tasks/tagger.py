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
from jaxfm.data.packing import PackedRows, build_rows
from jaxfm.data.tagging import entity_spans
from jaxfm.data.tokenization import encode_words, words_with_offsets
from jaxfm.data.windows import Windows, make_windows
from jaxfm.hub.families import hf_config
from jaxfm.hub.weights import write_tensors
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.presets import EncoderConfig
from jaxfm.tasks.calibration import probabilities
from jaxfm.tasks.losses import ClassLoss

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
    packed: bool = True,
) -> Encoded:
    """Tokenizes, cuts into windows and packs; with a seed the examples are shuffled before packing (training).

    Not `packed`, every window has a row of its own.
    """
    cls_id, sep_id, pad_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert isinstance(cls_id, int) and isinstance(sep_id, int) and isinstance(pad_id, int), "see check_tokenizer"
    windows = make_windows(
        encode_words(tokenizer, sentences),
        labels,
        cls_id=cls_id,
        sep_id=sep_id,
        max_length=model.window,
        overlap=model.overlap,
        context="document" if model.context == "document" and documents is not None else "sentence",
        documents=documents,
    )
    rows = build_rows(windows.tokens, windows.labels, model.row_length, pad_id, seed, None if packed else 1)
    return Encoded(windows, rows, tuple(len(words) for words in sentences))


def words_of_record(record: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Returns (word, start, end) of each word of a record's text, or of its "tokens" with a space between them."""
    if "tokens" not in record:
        return words_with_offsets(str(record["text"]))
    ends = np.cumsum([len(word) + 1 for word in record["tokens"]])
    return [(word, int(end) - len(word) - 1, int(end) - 1) for word, end in zip(record["tokens"], ends, strict=True)]


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as words with their offsets, and the packed rows of those words."""

    texts: tuple[str, ...]
    words: tuple[list[tuple[str, int, int]], ...]
    encoded: Encoded

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows


@dataclasses.dataclass(frozen=True)
class Tagger:
    """Texts in, entities out (implements Predictor and Exporter of jaxfm.tasks.task)."""

    model: NerModel
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

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
        """See NerModel.outputs."""
        return self.model.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """Splits texts into words and packs them.

        A model trained with document context gets it here too: neighbouring records are one document, and a record
        without words (an empty line) ends it.
        """
        words = tuple(words_of_record(record) for record in records)
        texts = tuple(" ".join(record["tokens"]) if "tokens" in record else str(record["text"]) for record in records)
        ended = np.cumsum([not found for found in words])
        encoded = encode(
            self.model,
            self.tokenizer,
            [[word for word, _, _ in found] for found in words],
            documents=[int(document) for document in ended],
        )
        return EncodedTexts(texts, words, encoded)

    def decode(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "entities": [{"type", "text", "start", "end", "score"}]} for each text.

        Offsets count characters of the text, end exclusive; the score is the mean probability of the entity's
        words, calibrated on the validation split of the run where it had one.
        """
        labels = encoded.encoded.per_word(outputs["label"])
        scores = [
            probabilities(logits, self.calibration).max(axis=-1)
            for logits in encoded.encoded.per_word(outputs["logits"])
        ]
        results = []
        for text, words, ids, sure in zip(encoded.texts, encoded.words, labels, scores, strict=True):
            entities = [
                {
                    "type": kind,
                    "text": text[words[first][1] : words[end - 1][2]],
                    "start": words[first][1],
                    "end": words[end - 1][2],
                    "score": round(float(sure[first:end].mean()), 4),
                }
                for first, end, kind in entity_spans([self.model.labels[i] for i in ids])
            ]
            results.append({"text": text, "entities": entities})
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then a line an entity: characters, type, score, text."""
        found = [
            f"  {entity['start']:>5}-{entity['end']:<5} {entity['type']:<12} {entity['score']:.3f}  {entity['text']}"
            for entity in result["entities"]
        ]
        return [result["text"], *(found or ["  (no entities)"])]

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForTokenClassification and AutoTokenizer open."""
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int), "see check_tokenizer"
        config = hf_config(
            self.model.encoder, head="ForTokenClassification", pad_token_id=pad, labels=self.model.labels
        )
        files.write_json(folder / "config.json", config)
        write_tensors(folder / "model.safetensors", self.model.encoder, params)
        self.tokenizer.save_pretrained(folder)
