"""Scores of held-out text under fixed masks."""

# N rows, P masked positions a row

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.observe.examples import WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.mask_shares import row_counts, scored_part
from jaxfm.tasks.masked_errors import TokenMark, show_row, worst_rows
from jaxfm.tasks.masked_scores import (
    row_identity,
    row_metrics,
    row_sums,
    unigram_plateau_warning,
    unit_parts,
    unit_scores,
)
from jaxfm.tasks.masked_text import MaskedText

DIRECTIONS = {"loss": False, "accuracy": True, "perplexity": False}


@dataclasses.dataclass(frozen=True)
class MaskedLMScorer:
    """A split of masked text (implements jaxfm.core.task.Scorer)."""

    text: MaskedText
    split: str

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Masked loss (nats a masked token), accuracy and perplexity by the run's own unit; others by their name."""
        return self._metrics(self._by_unit(outputs))

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where nothing but frequencies is learnt yet."""
        own = self._by_unit(outputs)[self.text.masking.unit]
        return unigram_plateau_warning(own["loss"], own["unigram_loss"])

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores of each unit beside predicting by frequency, and what was predicted."""
        del calibration
        by_unit = self._by_unit(outputs)
        metrics = self._metrics(by_unit)
        rows = self.text.held_out[self.split]
        title = f"{self.text.ratios[-1]:.0%} of the text, by unit{scored_part(rows)}"
        return Evaluation(
            metrics=metrics,
            scores={**metrics, "units": by_unit, **row_counts(rows)},
            tables=(_table(by_unit, title),),
            predictions=self._records(outputs),
            bootstrap_data=self._bootstrap_data(outputs),
            wrong=self._worst(outputs),
        )

    def _by_unit(self, outputs: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
        return {
            unit: unit_scores({name: values[part] for name, values in outputs.items()}, self.text.baseline)
            for unit, part in unit_parts(self.text.units, outputs).items()
        }

    def _metrics(self, by_unit: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        own = self.text.masking.unit
        metrics = {name: by_unit[own][name] for name in DIRECTIONS}
        for unit, scores in by_unit.items():
            if unit != own:
                metrics |= {f"{name}_{unit}": scores[name] for name in ("loss", "accuracy")}
        return metrics

    def _bootstrap_data(self, outputs: Mapping[str, np.ndarray]) -> BootstrapData:
        """Returns loss, accuracy and perplexity as a function of the packed rows, under the masks of every unit."""
        valid, right = outputs["target"] >= 0, outputs["target"] == outputs["predicted"]
        each = {"targets": valid, "right": right & valid, "loss": np.where(valid, outputs["loss"], 0.0)}
        units = self.text.units
        return BootstrapData(
            sampling_unit="rows",
            units=row_sums(
                units, outputs, {name: values.sum(axis=-1, dtype=np.float64) for name, values in each.items()}
            ),
            computed=functools.partial(row_metrics, own=self.text.masking.unit, units=units),
            identity=row_identity(units, outputs, {"masked": outputs["target"]}),
            less_is_better=("loss", "perplexity", *(f"loss_{unit}" for unit in units)),
        )

    def _worst(self, outputs: Mapping[str, np.ndarray]) -> tuple[WrongExample, ...]:
        """Returns the rows of the largest mean loss under the masks of the run's own unit: what was predicted where."""
        text, rows = self.text, self.text.held_out[self.split]
        part = unit_parts(text.units, outputs)[text.masking.unit]
        target, predicted, loss = (outputs[name][part] for name in ("target", "predicted", "loss"))
        valid = target >= 0
        mean_N = np.where(valid, loss, 0.0).sum(axis=-1) / np.maximum(valid.sum(axis=-1), 1)
        tokens_NT = rows.tokens[text.units.index(text.masking.unit)]
        shown = []
        for row in worst_rows(mean_N, (valid & (target != predicted)).any(axis=-1)):
            at = outputs["place"][part][row][valid[row]]
            gold, said = target[row][valid[row]], predicted[row][valid[row]]
            tokens_T = tokens_NT[row].astype(np.int32)
            tokens_T[at] = gold
            labels = text.tokenizer.convert_ids_to_tokens(said.tolist())
            marks = [
                TokenMark(int(place), str(label), "right" if right else "wrong")
                for place, label, right in zip(at, labels, gold == said, strict=True)
            ]
            facts = (("masked", str(len(gold))), ("right", str((gold == said).sum())), ("loss", float(mean_N[row])))
            shown.append(show_row(text.tokenizer, tokens_T, marks, f"row {rows.index[row]:,}", facts))
        return tuple(shown)

    def _records(self, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields one record a row under the masks of the run's own unit: the masked tokens, and what was predicted."""
        text = self.text
        part = unit_parts(text.units, outputs)[text.masking.unit]
        rows = text.held_out[self.split]
        tokens_NT, pad_id = rows.tokens[text.units.index(text.masking.unit)], rows.spec["tokens"].fill
        to_text = text.tokenizer.convert_ids_to_tokens
        for index, tokens_T in enumerate(tokens_NT):
            row = part.start + index
            valid = outputs["target"][row] >= 0
            gold, predicted = outputs["target"][row][valid], outputs["predicted"][row][valid]
            yield {
                "row": int(rows.index[index]),
                "correct": bool((gold == predicted).all()),
                "text": text.tokenizer.decode(tokens_T[tokens_T != pad_id].tolist()),
                "hidden": [
                    {"place": int(place), "token": wanted, "predicted": found, "loss": round(float(loss), 4)}
                    for place, wanted, found, loss in zip(
                        outputs["place"][row][valid],
                        to_text(gold.tolist()),
                        to_text(predicted.tolist()),
                        outputs["loss"][row][valid],
                        strict=True,
                    )
                ],
            }


def _table(by_unit: Mapping[str, Mapping[str, float]], what: str) -> Table:
    columns = ("unit", "loss", "perplexity", "accuracy", "unigram loss", "unigram accuracy", "targets")
    names = ("loss", "perplexity", "accuracy", "unigram_loss", "unigram_accuracy", "targets")
    rows = [(unit, *(scores.get(name) for name in names)) for unit, scores in by_unit.items()]
    return Table(f"Masked tokens ({what})", columns, rows, formats={"perplexity": ",.1f"})
