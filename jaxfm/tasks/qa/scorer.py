"""Scores of a split of questions; see jaxfm.evaluation.answers for what is counted."""

# E questions, G temperatures

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.questions import Question
from jaxfm.evaluation import answers as answers_lib
from jaxfm.evaluation.calibration import TEMPERATURES, Reliability, fit_of_losses
from jaxfm.observe import plots
from jaxfm.observe.tables import Table
from jaxfm.tasks.qa.decoding import Reading, Span, read
from jaxfm.tasks.qa.errors import worst_questions
from jaxfm.tasks.qa.spec import NAME, EncodedQuestions, QaSpec, token_span

# What `calibrate` keeps beside a temperature: the margin of "no answer" from which a question is left unanswered.
THRESHOLD = "no_answer_threshold"
_LARGEST_LOSS = 30.0  # nats, of a gold answer that is out of reach


def directions(spec: QaSpec) -> dict[str, bool]:
    """Returns the metrics that may choose a checkpoint -> is more better?"""
    found = {"f1": True, "exact_match": True, "loss": False}
    return found | ({"has_answer_f1": True, "no_answer_accuracy": True} if spec.no_answer else {})


class _Answered(NamedTuple):
    """What is answered to a question: "" for nothing.

    Attributes:
      text: of the answer.
      span: in the context; None where nothing is answered.
      probability: of what is answered.
      loss: of the gold answers, in nats.
    """

    text: str
    span: Span | None
    probability: float
    loss: float


@dataclasses.dataclass(frozen=True)
class QaScorer:
    """A split's questions and their rows (implements jaxfm.core.task.Scorer)."""

    spec: QaSpec
    questions: tuple[Question, ...]
    encoded: EncodedQuestions

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """F1, exact match and loss, where a question is left unanswered that seems likelier to have no answer."""
        found = self._answered(outputs, NOT_CALIBRATED)
        data = self._data(found)
        return {**answers_lib.as_metrics(data), **self._own_metrics(found)}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature where that helps, and the threshold of no answer that gives the best F1."""
        losses, margins, right = [], [], []
        for question, reading in self._readings(outputs):
            gold = _gold_scores(self.spec, question, reading)
            if len(gold):
                losses.append([_loss(gold, reading, t) for t in TEMPERATURES])
            spoken = _spoken(question, reading.best(1))
            margins.append(reading.margin())
            right.append(answers_lib.score_answer(spoken, [each.text for each in question.answers]).f1)
        fitted = fit_of_losses(np.asarray(losses, np.float64).reshape(-1, len(TEMPERATURES)))
        has_E = self._has_answer()
        if self.spec.no_answer and has_E.any() and not has_E.all():
            fitted[THRESHOLD], _ = answers_lib.best_threshold(np.asarray(margins), np.asarray(right), has_E)
        return fitted

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; answers are those at the fitted threshold."""
        found = self._answered(outputs, calibration)
        data = self._data(found)
        metrics, own = answers_lib.as_metrics(data), self._own_metrics(found)
        exact_E = data.units["exact_match"]
        reliability = Reliability.of(np.asarray([each.probability for each in found]), exact_E == 1)
        sure = {
            "ece": reliability.error,
            "confidence": float(np.mean([each.probability for each in found])),
            "exact_match": float(exact_E.mean()),
        } | dict(calibration)
        series = {f"ECE {reliability.error:.3f}": (reliability.confidence, reliability.accuracy, reliability.count)}
        return Evaluation(
            metrics={**metrics, **own},
            scores={**metrics, **own, "calibration": sure},
            tables=(*self._tables(exact_E, metrics, sure), *own_metrics_table(own)),
            predictions=self._records(found, data),
            warnings=_silence(self.spec, found, self._has_answer()),
            bootstrap_data=data,
            plots={"reliability": lambda path: plots.plot_reliability(series, path, y_label="exact match")},
            wrong=worst_questions(
                self.questions,
                [each.span for each in found],
                [each.probability for each in found],
                data.units["f1"],
                data.units["loss"],
            ),
        )

    def _own_metrics(self, found: Sequence[_Answered]) -> dict[str, float]:
        gold = [tuple(answer.text for answer in question.answers) for question in self.questions]
        return own_metrics(NAME, gold, [each.text for each in found])

    def _readings(self, outputs: Mapping[str, np.ndarray]) -> Iterator[tuple[Question, Reading]]:
        return zip(self.questions, read(self.spec, self.encoded, outputs["spans"]), strict=True)

    def _answered(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> list[_Answered]:
        return [_answer(self.spec, question, reading, calibration) for question, reading in self._readings(outputs)]

    def _has_answer(self) -> np.ndarray:
        return np.asarray([bool(question.answers) for question in self.questions])

    def _data(self, found: Sequence[_Answered]) -> Any:
        scores = [
            answers_lib.score_answer(each.text, [answer.text for answer in question.answers])
            for question, each in zip(self.questions, found, strict=True)
        ]
        identity = [(each.question, each.context, each.answers) for each in self.questions]
        return answers_lib.answer_metrics(
            scores, self._has_answer(), np.asarray([each.loss for each in found]), identity
        )

    def _tables(
        self, exact_E: np.ndarray, metrics: Mapping[str, float], sure: Mapping[str, float]
    ) -> tuple[Table, ...]:
        has_E = self._has_answer()
        rows = [("all", len(exact_E), metrics["f1"], metrics["exact_match"])]
        if "has_answer_f1" in metrics:
            exact_has = float(exact_E[has_E].mean())
            none = metrics["no_answer_accuracy"]
            rows += [
                ("with an answer", int(has_E.sum()), metrics["has_answer_f1"], exact_has),
                ("without", int((~has_E).sum()), none, none),
            ]
        at = f" (no answer from a margin of {sure[THRESHOLD]:.2f})" if THRESHOLD in sure else ""
        temperature = f" at temperature {sure['temperature']:.3f}" if "temperature" in sure else ""
        calibration = (sure["ece"], sure["confidence"], sure["exact_match"])
        return (
            Table(f"Answers{at}", ("questions", "number", "F1", "exact match"), rows),
            Table(f"Calibration{temperature}", ("ECE", "mean confidence", "exact match"), [calibration]),
        )

    def _records(self, found: Sequence[_Answered], data: Any) -> Iterator[dict[str, Any]]:
        """Yields one record a question."""
        scored = zip(self.questions, found, data.units["f1"], data.units["exact_match"], strict=True)
        for question, each, f1, exact in scored:
            yield {
                "origin": question.origin,
                **({"id": question.id} if question.id else {}),
                "question": question.question,
                "gold": [answer.text for answer in question.answers],
                "predicted": each.text,
                **({"start": each.span.start, "end": each.span.end} if each.span else {}),
                "probability": round(each.probability, 4),
                "correct": bool(exact),
                "f1": round(float(f1), 4),
            }


def _spoken(question: Question, best: Sequence[Span]) -> str:
    return question.context[best[0].start : best[0].end] if best else ""


def is_unanswered(spec: QaSpec, margin: float, calibration: Mapping[str, float]) -> bool:
    """Whether a question is left unanswered whose best span scores by `margin` less than no answer."""
    return not np.isfinite(margin) or (spec.no_answer and margin > calibration.get(THRESHOLD, 0.0))


def _answer(spec: QaSpec, question: Question, reading: Reading, calibration: Mapping[str, float]) -> _Answered:
    temperature = calibration.get("temperature", 1.0)
    best = reading.best(1)
    nothing = is_unanswered(spec, reading.margin(), calibration)
    (log_total,) = reading.log_total([temperature])
    score = reading.nothing if nothing else best[0].score
    return _Answered(
        text="" if nothing else _spoken(question, best),
        span=None if nothing else best[0],
        probability=float(np.exp(score / temperature - log_total)),
        loss=_loss(_gold_scores(spec, question, reading), reading, 1.0),
    )


def _gold_scores(spec: QaSpec, question: Question, reading: Reading) -> np.ndarray:
    """Returns the scores of the gold answers, of having none where there is none; empty where all are out of reach."""
    if not question.answers:
        return np.asarray([reading.nothing] if spec.no_answer else [])
    spans = {token_span(reading.offsets, answer.start, answer.end) for answer in question.answers} - {None}
    inside = [(i, last - i) for i, last in spans if last - i < spec.max_answer]  # type: ignore[misc]
    scores = np.asarray([reading.scores[place] for place in inside], np.float64)
    return scores[np.isfinite(scores)]


def _loss(gold: np.ndarray, reading: Reading, temperature: float) -> float:
    """Returns the negative log-likelihood of any of the gold answers, at most `_LARGEST_LOSS`."""
    if not len(gold):
        return _LARGEST_LOSS
    (total,) = reading.log_total([temperature])
    return float(min(total - np.logaddexp.reduce(gold / temperature), _LARGEST_LOSS))


def _silence(spec: QaSpec, found: Sequence[_Answered], has_answer_E: np.ndarray) -> tuple[str, ...]:
    if not spec.no_answer or any(each.text for each in found) or not has_answer_E.any():
        return ()
    return (
        f"the model answers none of the {len(found):,} questions: as if nothing had been learned. Train longer "
        "(--config.train.epochs), or look at the data: python -m jaxfm.check.",
    )
