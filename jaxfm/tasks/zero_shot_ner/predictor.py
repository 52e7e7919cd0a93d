"""A trained comparison of spans with labels over raw text: entities of any types that a person names."""

# B batch, T tokens, K widths, D model, C labels

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.tokenization import encode_words
from jaxfm.errors import UserError
from jaxfm.models.label_spans import LabelSpanScorer
from jaxfm.tasks.asked_labels import asked_labels
from jaxfm.tasks.record_words import Words
from jaxfm.tasks.word_spans.encoding import encode_spans
from jaxfm.tasks.word_spans.results import EncodedTexts, span_lines, span_result
from jaxfm.tasks.zero_shot_ner.decoding import find_entities
from jaxfm.tasks.zero_shot_ner.labels import label_rows, label_text
from jaxfm.tasks.zero_shot_ner.objective import ZeroShotNerObjective
from jaxfm.tasks.zero_shot_ner.spec import NAME, ZeroShotNerSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_HF_PROBLEM = (
    f"transformers has no class that compares spans of words with labels (task {NAME}), so no library could open the "
    "weights. Use the run by jaxfm.predict, or jaxfm.load in Python."
)


@dataclasses.dataclass(frozen=True)
class ZeroShotNerPredictor:
    """Texts in, entities out (implements Predictor, FindsEntities and ReadsLabels of core.task).

    Attributes:
      spec: of the model, with the labels that are looked for.
      tokenizer: of the run.
      calibration: that the run fitted.
      vectors_CD: of the labels; None: the model computes them with each batch.
    """

    spec: ZeroShotNerSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)
    vectors_CD: np.ndarray | None = None

    records_at_once = 512
    takes_words = True
    splitters = ("run",)
    pairs = False
    fewest_labels = 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that are looked for."""
        return self.spec.labels

    @property
    def entity_types(self) -> tuple[str, ...]:
        """The types of entities (implements jaxfm.core.task.FindsEntities)."""
        return self.spec.labels

    def with_splitter(self, splitter: str) -> "ZeroShotNerPredictor":
        """Returns the same: there is one way to split raw text, the run's own."""
        assert splitter == "run"
        return self

    def with_labels(self, labels: Sequence[str]) -> "ZeroShotNerPredictor":
        """Returns the same for other labels, each "NAME" or "NAME: TEXT"; UserError for equal, empty or long ones."""
        asked = asked_labels(labels, lambda name: label_text(name, self.spec.known))
        label_rows(self.tokenizer, asked, self.spec.label_length, "--labels")
        return dataclasses.replace(self, spec=self.spec.with_labels(asked), vectors_CD=None)

    def label_rows(self) -> PackedRows:
        """See core.task.ReadsLabels."""
        return label_rows(self.tokenizer, self.spec.named_labels, self.spec.label_length)

    def label_outputs(self, model: LabelSpanScorer, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "vectors" [B, D]."""
        return {"vectors": model.label_vectors(batch)}

    def with_label_outputs(self, outputs: Mapping[str, np.ndarray]) -> "ZeroShotNerPredictor":
        """Returns the same, which knows the vectors of its labels."""
        return dataclasses.replace(self, vectors_CD=np.asarray(outputs["vectors"]))

    @functools.cached_property
    def _objective(self) -> ZeroShotNerObjective:
        every = np.ones((1, len(self.spec.labels)), bool)
        return ZeroShotNerObjective(
            self.spec.with_labels(self.spec.named_labels), self.label_rows(), every, self.vectors_CD
        )

    def outputs(self, model: LabelSpanScorer, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See ZeroShotNerObjective.found."""
        return self._objective.found(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedTexts:
        """Splits texts into words, or takes the words that a record has as "tokens", and packs them.

        A text that fits no window is read by several: nothing is left out. Raises UserError for half of a surrogate
        pair, and for "tokens" that are not those of a record's "text".
        """
        texts = tuple(Words.of_record(record, self.spec.splitter) for record in records)
        pieces = encode_words(self.tokenizer, [[text.text[start:end] for start, end in text.offsets] for text in texts])
        sources = [0] * len(texts)
        return EncodedTexts(texts, encode_spans(self.spec, self.tokenizer, pieces, index={}, sources=sources))

    def decode(self, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "entities": [{"type", "text", "start", "end", "score"}]} for each text.

        Offsets count characters of the text, end exclusive. The score is the probability of the label by itself:
        what other labels there are changes it in no way. Where a record had words, the result has them too ("tokens"),
        and each entity its first word and the one after its last ("start_word", "end_word").
        """
        if not len(encoded.rows):  # no word in any text
            return [span_result(text) for text in encoded.texts]
        threshold = self.spec.threshold_of(self.calibration)
        found = find_entities(self.spec, encoded.encoded, outputs, threshold)
        return [span_result(text, spans) for text, spans in zip(encoded.texts, found, strict=True)]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then a line an entity: characters, label, score, text."""
        return span_lines(result)

    def hf_problem(self) -> str:
        """Returns why `write_hf` refuses."""
        return _HF_PROBLEM

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Raises UserError: no class of transformers computes the same."""
        del folder, params
        raise UserError(_HF_PROBLEM)
