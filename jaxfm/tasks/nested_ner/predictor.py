"""A trained span classifier over raw text: entities, one perhaps inside another, with offsets in characters."""

# B batch, T tokens, K widths, C classes

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.data.text.tokenization import encode_words
from jaxfm.errors import UserError
from jaxfm.models.word_spans import WordSpanClassifier
from jaxfm.tasks.explaining import baseline_token, explained_arrays
from jaxfm.tasks.nested_ner.decoding import find_entities
from jaxfm.tasks.nested_ner.explaining import explained_spans
from jaxfm.tasks.nested_ner.spec import NestedNerSpec
from jaxfm.tasks.record_words import Words
from jaxfm.tasks.word_spans.encoding import encode_spans
from jaxfm.tasks.word_spans.results import EncodedTexts, span_lines, span_result

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_HF_PROBLEM = (
    "transformers has no class that scores spans of words (task nested_ner), so no library could open the weights. Use "
    "the run by jaxfm.predict, or jaxfm.load in Python."
)


@dataclasses.dataclass(frozen=True)
class NestedNerPredictor:
    """Texts in, entities out (implements Predictor, FindsEntities and ExplainsResults of core.task).

    Attributes:
      spec: of the model.
      tokenizer: of the run.
      calibration: that the run fitted.
    """

    spec: NestedNerSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    records_at_once = 512
    takes_words = True
    splitters = ("run",)
    pairs = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each class; the first is no entity."""
        return self.spec.labels

    @property
    def entity_types(self) -> tuple[str, ...]:
        """The types of entities (implements jaxfm.core.task.FindsEntities)."""
        return self.spec.labels[1:]

    def with_splitter(self, splitter: str) -> "NestedNerPredictor":
        """Returns the same: there is one way to split raw text, the run's own."""
        assert splitter == "run"
        return self

    def outputs(self, model: WordSpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See NestedNerSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """Splits texts into words, or takes the words that a record has as "tokens", and packs them.

        Raises UserError for half of a surrogate pair, and for "tokens" that are not those of a record's "text".
        """
        texts = tuple(Words.of_record(record, self.spec.splitter) for record in records)
        pieces = encode_words(self.tokenizer, [[text.text[start:end] for start, end in text.offsets] for text in texts])
        return EncodedTexts(texts, encode_spans(self.spec, self.tokenizer, pieces, index=self.spec.index))

    def decode(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "entities": [{"type", "text", "start", "end", "score"}]} for each text.

        Offsets count characters of the text, end exclusive; entities are in order of their starts, the longer first.
        The score is the probability of the type, calibrated on the validation split of the run where it had one. Where
        a record had words, the result has them too ("tokens"), and each entity its first word and the one after its
        last ("start_word", "end_word").
        """
        if not len(encoded.rows):  # no word in any text
            return [span_result(text) for text in encoded.texts]
        logits = encoded.encoded.per_span(outputs["logits"])
        found = find_entities(self.spec, encoded.encoded, logits, self.calibration)
        return [span_result(text, spans) for text, spans in zip(encoded.texts, found, strict=True)]

    explains_pairs = False

    def explain_problem(self) -> str:
        """Returns "": all entities can be explained."""
        return ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """See `encode`."""
        return self.encode(records)

    def explained_outputs(self, model: WordSpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, T, K, C]."""
        return explained_arrays(self.outputs(model, batch)["logits"], "softmax")

    def explained(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what each entity is due to."""
        results, baseline = self.decode(encoded, outputs), baseline_token(self.tokenizer)
        if not len(encoded.rows):
            return [
                Explained(result, {"text": text.text}, (), (), baseline)
                for text, result in zip(encoded.texts, results, strict=True)
            ]
        logits = encoded.encoded.per_span(outputs["logits"])
        found = find_entities(self.spec, encoded.encoded, logits, self.calibration)
        return explained_spans(self.spec, encoded.encoded, encoded.texts, found, results, baseline)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then a line an entity: characters, type, score, text; one inside another is moved in."""
        return span_lines(result)

    def hf_problem(self) -> str:
        """Returns why `write_hf` refuses."""
        return _HF_PROBLEM

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Raises UserError: no class of transformers computes the same."""
        del folder, params
        raise UserError(_HF_PROBLEM)
