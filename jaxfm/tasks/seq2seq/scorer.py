"""Scores of a split of pairs: the loss of known targets, and what is written for some of the sources."""

# E examples, n written ones, R rounds

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.text_pairs import TextPair
from jaxfm.observe.tables import Table
from jaxfm.tasks.held_out import HeldOut
from jaxfm.tasks.seq2seq.errors import worst_pairs
from jaxfm.tasks.seq2seq.spec import NAME
from jaxfm.tasks.seq2seq.text_scores import EXACT, RANKED, baselines, exact_matches, text_scores
from jaxfm.tasks.seq2seq.texts import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DIRECTIONS = {"loss": False, "accuracy": True, EXACT: True} | dict.fromkeys(RANKED, True)
_SAMPLES = 5  # of the table of samples
_SHOWN = 160  # characters of a text in it
_COPIES = 0.5  # share of what is written that is its source, from which it is said
_ONE = 0.9  # share of what is written that is one text, from which it is said


@dataclasses.dataclass(frozen=True)
class _Found:
    """What is found of a split.

    Attributes:
      sums: of each example, see `HeldOut.sums`.
      texts: what is written for the chosen examples.
      exact: bool [n], whether these are the tokens of a reference.
      scores: of the texts; empty without any.
    """

    sums: Mapping[str, np.ndarray]
    texts: tuple[str, ...]
    exact: np.ndarray
    scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Seq2SeqScorer:
    """A split's pairs and their rows (implements jaxfm.core.task.Scorer)."""

    tokenizer: "PreTrainedTokenizerFast"
    pairs: tuple[TextPair, ...]
    rows: HeldOut

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Loss (nats a target token) and accuracy of target tokens; scores of what is written, where any is."""
        return self._metrics(self._found(outputs))

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Warns of a model that writes the same text, or nothing, whatever the source, or the source itself."""
        return self._warnings(self._found(outputs))

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores beside those of copying the source, samples, and all that is written."""
        del calibration
        found = self._found(outputs)
        metrics = self._metrics(found)
        loss = (found.sums["loss"] / np.maximum(found.sums["count"], 1.0))[self.rows.chosen]
        others = baselines([pair.source for pair in self._chosen()], self._references(), self._tokens)
        own = own_metrics(NAME, self._references(), found.texts) if found.texts else {}
        return Evaluation(
            metrics={**metrics, **own},
            scores={**metrics, **own, "written": len(found.texts), "baselines": others},
            tables=(*self._tables(found, metrics, others), *own_metrics_table(own)),
            predictions=self._records(found, self.rows.scores(outputs)),
            warnings=self._warnings(found),
            bootstrap_data=self._bootstrap_data(found),
            wrong=worst_pairs(self._chosen(), found.texts, found.exact, loss),
        )

    def _chosen(self) -> list[TextPair]:
        return [self.pairs[index] for index in self.rows.chosen.tolist()]

    def _references(self) -> list[tuple[str, ...]]:
        return [pair.targets for pair in self._chosen()]

    def _found(self, outputs: Mapping[str, np.ndarray]) -> _Found:
        written = self.rows.written(outputs)
        texts = tuple(text_of(self.tokenizer, tokens) for tokens in written)
        references = self._references()
        exact = exact_matches(written, references, self._tokens)
        scores = text_scores(texts, references)
        return _Found(self.rows.sums(outputs), texts, np.asarray(exact, bool), scores)

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _metrics(self, found: _Found) -> dict[str, float]:
        sums = {name: float(values.sum()) for name, values in found.sums.items()}
        metrics = {
            "loss": sums["loss"] / max(sums["count"], 1.0),
            "accuracy": sums["right"] / max(sums["weight"], 1e-9),
        }
        return metrics | ({EXACT: float(found.exact.mean()), **found.scores} if found.texts else {})

    def _warnings(self, found: _Found) -> tuple[str, ...]:
        texts, chosen = found.texts, self._chosen()
        if len(texts) < 2:
            return ()
        copies = sum(text == pair.source for text, pair in zip(texts, chosen, strict=True))
        most = max(set(texts), key=texts.count)
        different = len({pair.source for pair in chosen}) > 1
        said = []
        if different and texts.count(most) >= _ONE * len(texts):
            what = f"{most[:40]!r}" if most else "nothing"
            said.append(
                f"{what} is written for {texts.count(most):,} of {len(texts):,} sources: the source is not used yet. "
                "Train longer, or with a higher config.optim.learning_rate."
            )
        elif copies >= _COPIES * len(texts) and not found.exact.mean() >= _COPIES:
            said.append(f"{copies:,} of {len(texts):,} sources are copied as they are.")
        return tuple(said)

    def _bootstrap_data(self, found: _Found) -> BootstrapData:
        """Returns loss, accuracy and exact match as a function of the pairs; what is not written does not count."""
        written_E, exact_E = np.zeros(len(self.pairs)), np.zeros(len(self.pairs))
        written_E[self.rows.chosen], exact_E[self.rows.chosen] = 1.0, found.exact
        return BootstrapData(
            sampling_unit="pairs",
            units={**found.sums, "written": written_E, "exact": exact_E},
            computed=_with_exact if len(self.rows.chosen) else _sums,
            identity=[(pair.source, pair.targets) for pair in self.pairs],
            less_is_better=("loss",),
        )

    def _tables(
        self, found: _Found, metrics: Mapping[str, float], others: Mapping[str, Mapping[str, float]]
    ) -> tuple[Table, ...]:
        known = (len(self.pairs), metrics["loss"], metrics["accuracy"])
        table = Table("Target tokens", ("pairs", "loss", "accuracy"), [known])
        if not found.texts:
            return (table,)
        names = (EXACT, *found.scores)
        rows = [("model", *(metrics[name] for name in names))]
        rows += [(name, *(each.get(key) for key in names)) for name, each in others.items()]
        samples = [
            (_cut(pair.source), _cut(pair.targets[0]), _cut(text))
            for pair, text in list(zip(self._chosen(), found.texts, strict=True))[:_SAMPLES]
        ]
        return (
            table,
            Table(f"Written for {len(found.texts):,} sources", ("", *names), rows),
            Table("Samples", ("source", "reference", "written"), samples),
        )

    def _records(self, found: _Found, scores: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields one record a written example."""
        for pair, text, exact, score in zip(self._chosen(), found.texts, found.exact, scores, strict=True):
            yield {
                "origin": pair.origin,
                "source": pair.source,
                **pair.controls,
                "gold": list(pair.targets),
                "predicted": text,
                "correct": bool(exact),
                "score": round(float(score), 4),
            }


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."


def _sums(units: Units, weight_RE: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "loss": weight_RE @ units["loss"] / np.maximum(weight_RE @ units["count"], 1e-12),
        "accuracy": weight_RE @ units["right"] / np.maximum(weight_RE @ units["weight"], 1e-12),
    }


def _with_exact(units: Units, weight_RE: np.ndarray) -> dict[str, np.ndarray]:
    exact_R = weight_RE @ units["exact"] / np.maximum(weight_RE @ units["written"], 1e-12)
    return _sums(units, weight_RE) | {EXACT: exact_R}
