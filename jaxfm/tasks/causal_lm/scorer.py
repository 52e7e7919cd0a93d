"""Scores of held-out text: how well each next token is predicted."""

# N rows, T tokens

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.observe.examples import WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.causal_lm.text import CausalText
from jaxfm.tasks.mask_shares import row_counts, scored_part
from jaxfm.tasks.masked_errors import TokenMark, show_row, worst_rows
from jaxfm.tasks.masked_scores import row_identity, row_metrics, row_sums, unigram_plateau_warning, unit_scores

DIRECTIONS = {"loss": False, "accuracy": True, "perplexity": False}
# Every token is predicted, so there is one way to score held-out text, unlike that of masked LM.
_ONLY = ("next",)
_SHOWN = 8  # tokens of a row that are shown


@dataclasses.dataclass(frozen=True)
class CausalLMScorer:
    """A split of text (implements jaxfm.core.task.Scorer)."""

    text: CausalText
    split: str

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Loss (nats a token), accuracy and perplexity over all tokens but the first of each segment."""
        scores = unit_scores(outputs, self.text.baseline)
        return {name: scores[name] for name in DIRECTIONS}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where nothing but frequencies is learnt yet."""
        scores = unit_scores(outputs, self.text.baseline)
        return unigram_plateau_warning(scores["loss"], scores["unigram_loss"], "loss of next tokens")

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores beside predicting by frequency, and what was predicted worst."""
        del calibration
        scores, rows = unit_scores(outputs, self.text.baseline), self.text.held_out[self.split]
        metrics = {name: scores[name] for name in DIRECTIONS}
        return Evaluation(
            metrics=metrics,
            scores={**scores, **row_counts(rows)},
            tables=(_table(scores, f"Next tokens{scored_part(rows)}"),),
            predictions=self._records(outputs),
            bootstrap_data=self._bootstrap_data(outputs),
            wrong=self._worst(outputs),
        )

    def _bootstrap_data(self, outputs: Mapping[str, np.ndarray]) -> BootstrapData:
        """Returns loss, accuracy and perplexity as a function of the packed rows."""
        valid, right = outputs["target"] >= 0, outputs["target"] == outputs["predicted"]
        each = {"targets": valid, "right": right & valid, "loss": np.where(valid, outputs["loss"], 0.0)}
        sums = {name: values.sum(axis=-1, dtype=np.float64) for name, values in each.items()}
        return BootstrapData(
            sampling_unit="rows",
            units=row_sums(_ONLY, outputs, sums),
            computed=functools.partial(row_metrics, own=_ONLY[0], units=_ONLY),
            identity=row_identity(_ONLY, outputs, {"next": outputs["target"]}),
            less_is_better=("loss", "perplexity"),
        )

    def _worst(self, outputs: Mapping[str, np.ndarray]) -> tuple[WrongExample, ...]:
        """Returns the rows of the largest mean loss, with their least expected tokens."""
        rows, tokenizer = self.text.held_out[self.split], self.text.tokenizer
        valid, wrong = outputs["target"] >= 0, outputs["target"] != outputs["predicted"]
        mean_N = _row_means(outputs["loss"], valid)
        shown = []
        for row in worst_rows(mean_N, (valid & wrong).any(axis=-1)):
            tokens_T = rows.take(np.asarray([row]))["tokens"][0]
            at = self._least_expected(outputs, row)
            labels = tokenizer.convert_ids_to_tokens(outputs["predicted"][row][at].tolist())
            marks = [
                TokenMark(place + 1, str(label), "wrong" if wrong[row, place] else "right")
                for place, label in zip(at.tolist(), labels, strict=True)
            ]
            targets, right = int(valid[row].sum()), int((valid[row] & ~wrong[row]).sum())
            facts = (("tokens", str(targets)), ("right", str(right)), ("loss", float(mean_N[row])))
            shown.append(show_row(tokenizer, tokens_T, marks, f"row {rows.index[row]:,}", facts))
        return tuple(shown)

    def _least_expected(self, outputs: Mapping[str, np.ndarray], row: int) -> np.ndarray:
        """Returns the positions of a row before its least expected tokens, that of the largest loss first."""
        loss_T = np.where(outputs["target"][row] >= 0, outputs["loss"][row], -1.0)
        order = np.argsort(-loss_T, kind="stable")[:_SHOWN]
        return order[outputs["target"][row][order] >= 0]

    def _records(self, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields one record a row: its text, its loss, and the least expected of its tokens."""
        rows, tokenizer = self.text.held_out[self.split], self.text.tokenizer
        pad_id, name = rows.spec["tokens"].fill, tokenizer.convert_ids_to_tokens
        valid = outputs["target"] >= 0
        mean_N = _row_means(outputs["loss"], valid)
        for row in range(len(rows)):
            at = self._least_expected(outputs, row)
            gold, predicted = outputs["target"][row], outputs["predicted"][row]
            tokens_T = rows.take(np.asarray([row]))["tokens"][0]
            yield {
                "row": int(rows.index[row]),
                "correct": bool((gold == predicted)[valid[row]].all()),
                "text": tokenizer.decode(tokens_T[tokens_T != pad_id].tolist()),
                "targets": int(valid[row].sum()),
                "loss": round(float(mean_N[row]), 4),
                "least_expected": [
                    {"place": int(place) + 1, "token": token, "predicted": found, "loss": round(float(loss), 4)}
                    for place, token, found, loss in zip(
                        at, name(gold[at].tolist()), name(predicted[at].tolist()), outputs["loss"][row][at], strict=True
                    )
                ],
            }


def _row_means(loss_NT: np.ndarray, valid_NT: np.ndarray) -> np.ndarray:
    """Returns the mean loss of each row [N]; 0 without a target."""
    return np.where(valid_NT, loss_NT, 0.0).sum(axis=-1) / np.maximum(valid_NT.sum(axis=-1), 1)


def _table(scores: Mapping[str, float], title: str) -> Table:
    names = ("loss", "perplexity", "accuracy", "unigram_loss", "unigram_accuracy", "targets")
    row = tuple(scores[name] for name in names)
    columns = tuple(name.replace("_", " ") for name in names)
    return Table(title, columns, [row], formats={"perplexity": ",.1f"})
