"""A trained tagger over raw text: entities with offsets in characters, and the tagger in transformers' form."""

# B batch, T tokens, C classes, N rows

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.tagging import entity_spans
from jaxfm.data.text.tokenization import encode_words, marks_continuing_pieces, pipeline_words
from jaxfm.errors import UserError
from jaxfm.evaluation import ensembles
from jaxfm.evaluation.calibration import probabilities
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.models.heads import TokenClassifier
from jaxfm.tasks.explaining import baseline_token, explained_arrays
from jaxfm.tasks.ner.decoding import class_probabilities, read_words, tags_of
from jaxfm.tasks.ner.explaining import explained_entities
from jaxfm.tasks.ner.model_card import tagger_card
from jaxfm.tasks.ner.spec import ARGMAX, CRF, VITERBI, NerSpec, encode
from jaxfm.tasks.record_words import Words
from jaxfm.tasks.windowed_rows import WindowedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What splits raw text into words: the rule of the run, or what transformers' pipeline would take for words.
RUN_WORDS, PIPELINE_WORDS = "run", "transformers"


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as words, and the packed rows of those words."""

    texts: tuple[Words, ...]
    encoded: WindowedRows

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows

    @property
    def read_tokens(self) -> np.ndarray:
        """See core.exits.ReadsTokens."""
        return self.encoded.read_tokens


@dataclasses.dataclass(frozen=True)
class NerPredictor:
    """Texts in, entities out (implements Predictor and more of core.task).

    That is FindsEntities, ReadsNeighbours, ExplainsResults, GivesProbabilities and AveragesModels.

    Attributes:
      spec: of the tagger.
      tokenizer: of the run.
      calibration: that the run fitted.
      splitter: what splits raw text into words, one of `splitters`.
    """

    spec: NerSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)
    splitter: str = RUN_WORDS

    records_at_once = 2048
    takes_words = True
    splitters = (RUN_WORDS, PIPELINE_WORDS)
    pairs = False
    explains_pairs = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Tag of each class."""
        return self.spec.labels

    @property
    def entity_types(self) -> tuple[str, ...]:
        """Types of the entities that it finds."""
        return tuple(dict.fromkeys(label[2:] for label in self.spec.labels if label != "O"))

    def with_splitter(self, splitter: str) -> "NerPredictor":
        """Returns the same with another way to split raw text into words, one of `splitters`."""
        return dataclasses.replace(self, splitter=splitter)

    @property
    def reads_neighbours(self) -> bool:
        """Whether a window is filled up with the records before and after."""
        return self.spec.context == "document"

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See NerSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """Splits texts into words, or takes the words that a record has as "tokens", and packs them.

        A model trained with document context gets it here too: neighbouring records are one document, and a record
        without words (an empty line) ends it. Raises UserError for half of a surrogate pair, and for words of a record
        that are asked to be split otherwise.
        """
        if self.splitter == PIPELINE_WORDS:
            texts, pieces = self._pipeline(records)
        else:
            texts = tuple(Words.of_record(record, self.spec.splitter) for record in records)
            pieces = encode_words(
                self.tokenizer, [[text.text[start:end] for start, end in text.offsets] for text in texts]
            )
        ended = np.cumsum([not text.offsets for text in texts])
        encoded = encode(self.spec, self.tokenizer, pieces, documents=[int(document) for document in ended])
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
        Of an ensemble an entity has a "spread": the mean over its words of the standard deviation of that probability.
        """
        if not len(encoded.rows):  # no word in any text
            return [_result(text, []) for text in encoded.texts]
        words = read_words(self.spec, encoded.encoded, outputs)
        # The pipeline of transformers takes the likeliest tag of each word, and its words are asked for to compare.
        classes = words.decode(ARGMAX if self.splitter == PIPELINE_WORDS else self.spec.decoding)
        results = []
        # Of one model nothing is spread.
        apart = (
            encoded.encoded.per_word(outputs[ensembles.SPREAD])
            if ensembles.SPREAD in outputs
            else [None] * len(classes)
        )
        for text, ids, tags, logits_WC, apart_WC in zip(
            encoded.texts, classes, tags_of(self.spec.labels, classes), words.logits, apart, strict=True
        ):
            sure = class_probabilities(logits_WC, ids, self.calibration)
            entities = []
            for first, end, kind in entity_spans(tags):
                start, stop = text.offsets[first][0], text.offsets[end - 1][1]
                entity = {"type": kind, "text": text.text[start:stop], "start": start, "end": stop}
                if text.given is not None:
                    entity |= {"start_word": first, "end_word": end}
                entity |= {"score": round(float(sure[first:end].mean()), 4)}
                if apart_WC is not None:
                    spread_W = np.take_along_axis(apart_WC, ids[:, None], axis=-1)[first:end, 0]
                    entity |= {ensembles.SPREAD: round(float(spread_W.mean()), 4)}
                entities.append(entity)
            results.append(_result(text, entities))
        return results

    probability, of_words = "softmax", True

    def features(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.GivesProbabilities: features [B, T, D]."""
        return {**self.outputs(model, batch), "features": self.spec.features(model, batch)}

    def unit_probabilities(
        self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray], *, calibrated: bool = True
    ) -> list[np.ndarray]:
        """Returns the probabilities [words, C] of each text's tags; of a CRF those given the whole text."""
        if not len(encoded.rows):
            return [np.zeros((0, len(self.labels)))] * len(encoded.texts)
        words = read_words(self.spec, encoded.encoded, outputs).logits
        return [probabilities(logits_WC, self.calibration if calibrated else {}) for logits_WC in words]

    def unit_features(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns what the last layer reads of each text's words [words, D]."""
        if not len(encoded.rows):
            return [np.zeros((0, outputs["features"].shape[-1]), np.float32)] * len(encoded.texts)
        return encoded.encoded.per_word(outputs["features"])

    def average_problem(self) -> str:
        """Returns why taggers cannot be averaged; "" where they can."""
        return "tags of a CRF depend on all others, and no mean over words is decoded." if self.spec.head == CRF else ""

    def calibrated(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See core.task.AveragesModels."""
        return {**outputs, "logits": ensembles.scaled(outputs["logits"], self.calibration)}

    def mean_outputs(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """See core.task.AveragesModels: probabilities of tokens are averaged, then decoded."""
        mean, spread = ensembles.mean_logits([each["logits"] for each in outputs], "single")
        return {**outputs[0], "logits": mean, ensembles.SPREAD: spread}

    def uncalibrated(self) -> "NerPredictor":
        """See core.task.AveragesModels."""
        return dataclasses.replace(self, calibration={})

    def explain_problem(self) -> str:
        """Returns why entities cannot be explained; "" where they can."""
        return "the tags of a CRF are not explained: each depends on all others." if self.spec.head == CRF else ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """See `encode`."""
        return self.encode(records)

    def explained_outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, T, C]."""
        return explained_arrays(self.outputs(model, batch)["logits"], "softmax")

    def explained(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what each entity is due to: the mean over its words of the value of their tags."""
        return explained_entities(
            self.spec,
            encoded.encoded,
            outputs,
            encoded.texts,
            self.decode(encoded, outputs),
            calibration=self.calibration,
            decoding=ARGMAX if self.splitter == PIPELINE_WORDS else self.spec.decoding,
            baseline=baseline_token(self.tokenizer),
        )

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then a line an entity: characters, type, score, text."""
        found = [
            f"  {entity['start']:>5}-{entity['end']:<5} {entity['type']:<12} {entity['score']:.3f}  {entity['text']}"
            for entity in result["entities"]
        ]
        return [result["text"], *(found or ["  (no entities)"])]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        if self.spec.head == CRF:
            return (
                "transformers has no class for a tagger with a CRF (task.head=crf): its token classifiers score each "
                "word by itself, and the learned transitions would be lost. --format=stablehlo has all parameters."
            )
        if self.spec.word_pooling != "first":
            return (
                "transformers' token classifiers read the first piece of a word, this run reads the "
                f"{self.spec.word_pooling} of all of them (task.word_pooling), so the same weights would give other "
                "tags. --format=stablehlo has the logits of all pieces."
            )
        return missing_class(self.spec.encoder, "token_classes")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForTokenClassification and AutoTokenizer open."""
        if problem := self.hf_problem():
            raise UserError(problem)
        write_model(
            folder,
            self.spec.encoder,
            head="token_classes",
            params=params,
            tokenizer=self.tokenizer,
            labels=self.spec.labels,
        )

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        return tagger_card(
            self.spec.labels,
            splitter=self.spec.splitter,
            marks_parts=marks_continuing_pieces(self.tokenizer),
            window=self.spec.encoder.max_positions,
            constrained=self.spec.decoding == VITERBI,
        )


def _result(text: Words, entities: list[dict[str, Any]]) -> dict[str, Any]:
    given = {} if text.given is None else {"tokens": list(text.given)}
    return {"text": text.text, **given, "entities": entities}
