"""Scores of replaced-token detection on held-out text under fixed masks and samples."""

# N rows, P masked positions a row, R rounds

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.observe.examples import WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.mask_shares import row_counts, scored_part
from jaxfm.tasks.masked_errors import TokenMark, show_row, worst_rows
from jaxfm.tasks.masked_scores import row_identity, row_sums, unigram_plateau_warning, unit_parts, unit_scores
from jaxfm.tasks.masked_text import MaskedText

DIRECTIONS = {
    "loss": False,
    "generator_loss": False,
    "generator_accuracy": True,
    "discriminator_loss": False,
    "discriminator_accuracy": True,
    "precision": True,
    "recall": True,
    "f1": True,
}
# Metrics under masks of another unit than the run's own.
_OTHER_UNITS = ("generator_loss", "discriminator_loss", "f1")


@dataclasses.dataclass(frozen=True)
class ReplacedTokenScorer:
    """A split of masked text (implements jaxfm.core.task.Scorer).

    Attributes:
      text: with its held-out rows.
      split: which of them.
      discriminator_factor: what the discriminator's summed loss is multiplied by at the end of the run.
    """

    text: MaskedText
    split: str
    discriminator_factor: float

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Both losses, the generator's accuracy, and how many replaced tokens are found; other units by name."""
        return self._metrics(self._by_unit(outputs))

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where the generator has learnt nothing but frequencies yet."""
        own = self._by_unit(outputs)[self.text.masking.unit]
        return unigram_plateau_warning(own["generator_loss"], own["unigram_loss"])

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores of each unit, and what was replaced and flagged."""
        del calibration
        by_unit = self._by_unit(outputs)
        metrics = self._metrics(by_unit)
        rows = self.text.held_out[self.split]
        title = f"{self.text.ratios[-1]:.0%} of the text masked, by unit{scored_part(rows)}"
        return Evaluation(
            metrics=metrics,
            scores={**metrics, "units": by_unit, **row_counts(rows)},
            tables=(_table(by_unit, title),),
            predictions=self._records(outputs),
            bootstrap_data=self._bootstrap_data(outputs),
            wrong=self._worst(outputs),
        )

    def _by_unit(self, outputs: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
        by_unit = {}
        for unit, part in unit_parts(self.text.units, outputs).items():
            ours = {name: values[part] for name, values in outputs.items()}
            generated = unit_scores(ours, self.text.baseline)
            by_unit[unit] = generated | _totals(ours) | {"generator_loss": generated["loss"]}
            by_unit[unit]["generator_accuracy"] = generated["accuracy"]
            # As in training; the z-loss, which only steadies training, is left out.
            discriminator = float(ours["row_loss"].sum(dtype=np.float64)) / max(generated["targets"], 1)
            by_unit[unit]["loss"] = generated["loss"] + self.discriminator_factor * discriminator
        return by_unit

    def _metrics(self, by_unit: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        own = self.text.masking.unit
        metrics = {name: by_unit[own][name] for name in DIRECTIONS}
        for unit, scores in by_unit.items():
            if unit != own:
                metrics |= {f"{name}_{unit}": scores[name] for name in _OTHER_UNITS}
        return metrics

    def _bootstrap_data(self, outputs: Mapping[str, np.ndarray]) -> BootstrapData:
        """Returns the metrics as a function of the packed rows; other replacements are other data."""
        valid, right = outputs["target"] >= 0, outputs["target"] == outputs["predicted"]
        generated = {"targets": valid, "right": right & valid, "loss": np.where(valid, outputs["loss"], 0.0)}
        each = {f"generated_{name}": values.sum(axis=-1, dtype=np.float64) for name, values in generated.items()}
        each |= {name: values for name, values in outputs.items() if name.startswith("row_")}
        losses = ("generator_loss", "discriminator_loss")
        gold = {"masked": outputs["target"], "sampled": np.where(valid, outputs["sampled"], -1)}
        return BootstrapData(
            sampling_unit="rows",
            units=row_sums(self.text.units, outputs, each),
            computed=self._row_metrics,
            identity=row_identity(self.text.units, outputs, gold),
            less_is_better=("loss", *losses, *(f"{name}_{unit}" for name in losses for unit in self.text.units)),
        )

    def _row_metrics(self, rows: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        metrics = {}
        for unit in self.text.units:
            total = {
                name.removesuffix(f" {unit}"): weight_RN @ values
                for name, values in rows.items()
                if name.endswith(f" {unit}")
            }
            found = _detection(total)
            found["generator_loss"] = _share(total["generated_loss"], total["generated_targets"])
            found["generator_accuracy"] = _share(total["generated_right"], total["generated_targets"])
            discriminator = total["row_loss"] / np.maximum(total["generated_targets"], 1.0)
            found["loss"] = found["generator_loss"] + self.discriminator_factor * discriminator
            if unit == self.text.masking.unit:
                metrics |= {name: found[name] for name in DIRECTIONS}
            else:
                metrics |= {f"{name}_{unit}": found[name] for name in _OTHER_UNITS}
        return metrics

    def _worst(self, outputs: Mapping[str, np.ndarray]) -> tuple[WrongExample, ...]:
        """Returns the rows of the largest discriminator loss: the text as the encoder saw it, with what was replaced.

        A mark's label is the token that stood there; it is missed where the discriminator did not flag it.
        """
        text, rows = self.text, self.text.held_out[self.split]
        part = unit_parts(text.units, outputs)[text.masking.unit]
        own = {name: values[part] for name, values in outputs.items()}
        replaced = (own["target"] >= 0) & (own["target"] != own["sampled"])
        loss_N = own["row_loss"] / np.maximum(own["row_tokens"], 1)
        tokens_NT = rows.tokens[text.units.index(text.masking.unit)]
        shown = []
        for row in worst_rows(loss_N, own["row_right"] != own["row_tokens"]):
            valid, tokens_T = own["target"][row] >= 0, tokens_NT[row].astype(np.int32)
            tokens_T[own["place"][row][valid]] = own["sampled"][row][valid]
            there = replaced[row]
            labels = text.tokenizer.convert_ids_to_tokens(own["target"][row][there].tolist())
            marks = [
                TokenMark(int(place), str(label), "right" if suspicion > 0.5 else "missed")
                for place, label, suspicion in zip(
                    own["place"][row][there], labels, own["suspicion"][row][there], strict=True
                )
            ]
            alarms = int(own["row_flagged"][row] - own["row_found"][row])
            facts = (("replaced", str(len(marks))), ("false alarms", str(alarms)), ("loss", float(loss_N[row])))
            shown.append(show_row(text.tokenizer, tokens_T, marks, f"row {rows.index[row]:,}", facts))
        return tuple(shown)

    def _records(self, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields one record a row under the masks of the run's own unit: its text as the encoder saw it, and what was
        replaced in it.
        """
        text = self.text
        part = unit_parts(text.units, outputs)[text.masking.unit]
        rows, tokenizer = text.held_out[self.split], text.tokenizer
        pad_id = rows.spec["tokens"].fill
        for index, tokens_T in enumerate(rows.tokens[text.units.index(text.masking.unit)]):
            row = part.start + index
            gold, sampled = outputs["target"][row], outputs["sampled"][row]
            valid, seen_T = gold >= 0, tokens_T.astype(np.int32)
            seen_T[outputs["place"][row][valid]] = sampled[valid]
            valid &= gold != sampled
            yield {
                "row": int(rows.index[index]),
                "correct": bool(outputs["row_right"][row] == outputs["row_tokens"][row]),
                "text": tokenizer.decode(seen_T[seen_T != pad_id].tolist()),
                "replaced": [
                    {"place": int(place), "token": token, "by": by, "probability": round(float(probability), 4)}
                    for place, token, by, probability in zip(
                        outputs["place"][row][valid],
                        tokenizer.convert_ids_to_tokens(gold[valid].tolist()),
                        tokenizer.convert_ids_to_tokens(sampled[valid].tolist()),
                        outputs["suspicion"][row][valid],
                        strict=True,
                    )
                ],
                "false_alarms": int(outputs["row_flagged"][row] - outputs["row_found"][row]),
            }


def _detection(total: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the discriminator's scores from sums over rows, numbers or arrays."""
    flagged, replaced = total["row_flagged"], total["row_replaced"]
    return {
        "replaced": _share(replaced, total["row_tokens"]),
        "discriminator_loss": _share(total["row_loss"], total["row_tokens"]),
        "discriminator_accuracy": _share(total["row_right"], total["row_tokens"]),
        # As scikit-learn and conlleval: nothing flagged is no success.
        "precision": total["row_found"] / np.maximum(flagged, 1.0),
        "recall": _share(total["row_found"], replaced),
        "f1": _share(2 * total["row_found"], flagged + replaced),
    }


def _totals(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the discriminator's scores over all rows."""
    total = {name: values.sum(dtype=np.float64) for name, values in outputs.items() if name.startswith("row_")}
    return {name: float(value) for name, value in _detection(total).items()}


def _share(part: Any, whole: Any) -> Any:
    """Returns part / whole; NaN where there is no whole."""
    return part / np.where(np.asarray(whole) > 0, whole, math.nan)


def _table(by_unit: Mapping[str, Mapping[str, float]], what: str) -> Table:
    names = {
        "generator_loss": "generator loss",
        "generator_accuracy": "its accuracy",
        "unigram_loss": "unigram loss",
        "replaced": "replaced",
        "discriminator_loss": "discriminator loss",
        "discriminator_accuracy": "accuracy",
        "precision": "precision",
        "recall": "recall",
        "f1": "f1",
    }
    rows = [(unit, *(scores.get(name) for name in names)) for unit, scores in by_unit.items()]
    return Table(f"Replaced tokens ({what})", ("unit", *names.values()), rows)
