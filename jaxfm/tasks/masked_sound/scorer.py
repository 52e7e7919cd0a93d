"""Scores of held-out clips of which the same steps are always hidden."""

# E clips, R rounds

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.audio.examples import SoundExample
from jaxfm.data.audio.rows import SoundRows
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.masked_sound.spec import MASKED, MaskedSoundSpec
from jaxfm.tasks.segment_scorer import per_segment

DIRECTIONS = {"loss": False, "accuracy": True}


@dataclasses.dataclass(frozen=True)
class MaskedSoundScorer:
    """A split of clips (implements jaxfm.core.task.Scorer)."""

    spec: MaskedSoundSpec
    examples: tuple[SoundExample, ...]
    rows: SoundRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """The loss of a hidden step, the share of these whose cluster is found, and that of the commonest cluster."""
        every = np.ones((1, len(self.examples)))
        found = {name: float(value) for name, (value,) in _shares(self._units(outputs), every).items()}
        return found | {"commonest": self.commonest}

    @property
    def commonest(self) -> float:
        """The share of the hidden steps that have the commonest cluster of hidden steps."""
        labels = self.rows.more["labels"][(self.rows.more[MASKED] > 0) & (self.rows.more["labels"] >= 0)]
        return float(np.bincount(labels, minlength=1).max() / max(len(labels), 1))

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where nothing but the commonest cluster is learnt yet."""
        found = self.metrics(outputs)
        if found["accuracy"] > found["commonest"]:
            return ()
        return (f"accuracy {found['accuracy']:.4f}: the commonest cluster alone has {found['commonest']:.4f}.",)

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores, and the clips that were predicted worst."""
        del calibration
        metrics, units = dict(self.metrics(outputs)), self._units(outputs)
        mean_E = units["loss"] / np.maximum(units["hidden"], 1)
        table = Table(
            f"{int(units['hidden'].sum()):,} hidden steps, {self.spec.clusters} clusters",
            ("", "accuracy", "loss"),
            [("model", metrics["accuracy"], metrics["loss"]), ("commonest cluster", metrics["commonest"], None)],
        )
        return Evaluation(
            metrics=metrics,
            scores=metrics,
            tables=(table,),
            predictions=self._records(units, mean_E),
            warnings=self.warnings(outputs),
            bootstrap_data=BootstrapData(
                "clips", units, _shares, [example.origin for example in self.examples], less_is_better=("loss",)
            ),
            wrong=tuple(
                WrongExample(
                    self.examples[index].origin,
                    (View("recording", self.examples[index].clip.origin),),
                    (("loss", float(mean_E[index])),),
                )
                for index in np.argsort(-mean_E, kind="stable")[:SHOWN].tolist()
            ),
        )

    def _units(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: per_segment(self.rows, outputs[name]).astype(np.float64) for name in ("loss", "right", "hidden")}

    def _records(self, units: Units, mean_E: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields one record a clip: where it was read, its mean loss and its share of clusters found."""
        shares_E = units["right"] / np.maximum(units["hidden"], 1)
        for example, loss, share in zip(self.examples, mean_E.tolist(), shares_E.tolist(), strict=True):
            yield {
                "origin": example.origin,
                "audio": example.clip.origin,
                "loss": round(loss, 4),
                "accuracy": round(share, 4),
            }


def _shares(units: Units, weight_RE: np.ndarray) -> dict[str, np.ndarray]:
    hidden_R = np.maximum(weight_RE @ units["hidden"], 1e-12)
    return {"loss": weight_RE @ units["loss"] / hidden_R, "accuracy": weight_RE @ units["right"] / hidden_R}
