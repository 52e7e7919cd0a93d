"""Scores of a split of clips with transcripts: error rates of words and characters, and the loss."""

# E clips, R rounds

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.audio.examples import SoundExample
from jaxfm.data.audio.rows import SoundRows
from jaxfm.evaluation.transcripts import TranscriptErrors, error_rates, transcript_errors
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.segment_scorer import per_segment
from jaxfm.tasks.speech_recognition.results import texts_of_rows
from jaxfm.tasks.speech_recognition.spec import NAME, SpeechRecognizerSpec

DIRECTIONS = {"wer": False, "cer": False, "loss": False, "exact_match": True}
_RATES = ("wer", "cer", "exact_match")
_SAMPLES = 8


@dataclasses.dataclass(frozen=True)
class SpeechRecognizerScorer:
    """A split's clips and their rows (implements jaxfm.core.task.Scorer).

    Attributes:
      spec: of the recogniser.
      examples: with transcripts as they are scored.
      symbols: [E] symbols of each transcript that the loss is about; 0 where it has none.
      rows: of the clips.
    """

    spec: SpeechRecognizerSpec
    examples: Sequence[SoundExample]
    symbols: np.ndarray
    rows: SoundRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Error rates of words and characters, the share of transcripts that are right, and the loss of a symbol."""
        texts, errors = self._found(outputs)
        return self._metrics(self._units(outputs, errors)) | own_metrics(NAME, self._gold, texts)

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where nothing is recognised anywhere."""
        if any(self._texts(outputs, "greedy")):
            return ()
        return ("nothing is recognised anywhere: the model says blanks alone, as CTC does at first. Train for longer.",)

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores, some transcripts, and those with the most wrong characters."""
        del calibration
        texts, errors = self._found(outputs)
        units, own = self._units(outputs, errors), own_metrics(NAME, self._gold, texts)
        metrics, greedy = self._metrics(units) | own, self._greedy(outputs)
        decodings = {self.spec.decoding.method: metrics} | ({"greedy": greedy} if greedy else {})
        table = Table(
            f"Transcripts: {len(texts):,} clips, {int(errors.words.sum()):,} words",
            ("decoding", "word error rate", "character error rate", "right"),
            [(method, *(found[name] for name in _RATES)) for method, found in decodings.items()],
        )
        samples = list(zip(self._gold, texts, strict=True))[:_SAMPLES]
        return Evaluation(
            metrics=metrics,
            scores=metrics | ({"greedy": greedy} if greedy else {}),
            tables=(table, Table("Samples", ("said", "recognised"), samples), *own_metrics_table(own)),
            predictions=self._records(texts, errors),
            warnings=self.warnings(outputs),
            bootstrap_data=BootstrapData(
                "clips",
                units,
                _rates,
                [(example.origin, example.text) for example in self.examples],
                right=units["exact"] > 0,
                less_is_better=("wer", "cer", "loss"),
                shares=("exact_match",),
            ),
            wrong=self._worst(texts, errors),
        )

    @property
    def _gold(self) -> list[str]:
        return [example.text for example in self.examples]

    def _found(self, outputs: Mapping[str, np.ndarray]) -> tuple[list[str], TranscriptErrors]:
        texts = self._texts(outputs, self.spec.decoding.method)
        return texts, transcript_errors(self._gold, texts)

    def _texts(self, outputs: Mapping[str, np.ndarray], method: str) -> list[str]:
        return texts_of_rows(self.spec, self.rows, outputs, method)

    def _greedy(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Returns the rates of greedy decoding, where another one is used; else nothing."""
        if self.spec.decoding.method == "greedy":
            return {}
        texts = self._texts(outputs, "greedy")
        found = self._metrics(self._units(outputs, transcript_errors(self._gold, texts)))
        return {name: found[name] for name in _RATES}

    def _units(self, outputs: Mapping[str, np.ndarray], errors: TranscriptErrors) -> dict[str, np.ndarray]:
        return {
            **errors.units,
            "exact": (errors.character_edits == 0).astype(np.float64),
            "loss": per_segment(self.rows, outputs["loss"]).astype(np.float64),
            "symbols": self.symbols.astype(np.float64),
        }

    def _metrics(self, units: Units) -> dict[str, float]:
        every = np.ones((1, len(self.examples)))
        return {name: float(value) for name, (value,) in _rates(units, every).items()}

    def _worst(self, texts: list[str], errors: TranscriptErrors) -> tuple[WrongExample, ...]:
        order = np.argsort(-errors.character_edits, kind="stable")[:SHOWN]
        return tuple(
            WrongExample(
                self.examples[index].origin,
                (View("said", self.examples[index].text), View("recognised", texts[index])),
                (("wrong words", float(errors.word_edits[index])), ("wrong characters", float(edits))),
            )
            for index in order.tolist()
            if (edits := errors.character_edits[index])
        )

    def _records(self, texts: Sequence[str], errors: TranscriptErrors) -> Iterator[dict[str, Any]]:
        """Yields one record a clip: where it was read, what was said and what was recognised."""
        for example, text, edits in zip(self.examples, texts, errors.word_edits.tolist(), strict=True):
            yield {
                "origin": example.origin,
                "audio": example.clip.origin,
                "gold": example.text,
                "predicted": text,
                "wrong_words": int(edits),
            }


def _rates(units: Units, weight_RE: np.ndarray) -> dict[str, np.ndarray]:
    return {
        **error_rates(units, weight_RE),
        "exact_match": weight_RE @ units["exact"] / np.maximum(weight_RE.sum(axis=1), 1e-12),
        "loss": weight_RE @ units["loss"] / np.maximum(weight_RE @ units["symbols"], 1e-12),
    }
