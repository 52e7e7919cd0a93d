"""`jaxfm explain --faithfulness`: methods of attribution against random orders of words, over many records."""

# N records

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import RenderableType

from jaxfm import files
from jaxfm.core.explained import SCORES as LOGITS
from jaxfm.errors import UserError
from jaxfm.evaluation.faithfulness import RANDOM, SCORES, Faithfulness, faithfulness_table, measure, to_values
from jaxfm.observe.interval_plots import plot_intervals
from jaxfm.observe.tables import Table, to_markdown, to_rich
from jaxfm.observe.writers import to_json
from jaxfm.programs.explanations import Explainer
from jaxfm.training.attribution import INTEGRATED, STEPS, Shares
from jaxfm.training.faithfulness import FRACTIONS, by_share, erase, random_orders

JSON_FILE, MARKDOWN_FILE, PICTURE_FILE = "faithfulness.json", "faithfulness.md", "faithfulness.png"
ORDERS = 5
HOW_TO_READ = f"""\
Words are taken out by putting a token that means nothing in their place. Comprehensiveness: how much of the probability
is lost without the words that a method names first; more is better. Sufficiency: how much is lost without all others;
less is better. Both are means over the first {", ".join(f"{each:.0%}" for each in FRACTIONS)} of the words (one at
least). p: how often a difference to random orders at least as large comes about by chance (paired randomisation test
over records)."""


@dataclasses.dataclass(frozen=True)
class FaithfulnessReport:
    """What was measured.

    Attributes:
      found: method -> its scores; of random orders first.
      records: that have something to explain.
      parts: of their results.
      seconds: method -> what explaining took, compilation included.
      missing: completeness error of integrated gradients, of what words make; None where they were not asked for.
    """

    found: Mapping[str, Faithfulness]
    records: int
    parts: int
    seconds: Mapping[str, float]
    missing: float | None

    @property
    def tables(self) -> tuple[Table, ...]:
        """Scores, and the seconds that explaining took."""
        rows = [(name.replace("_", " "), each) for name, each in self.seconds.items()]
        title = f"Seconds for {self.records:,} records, compilation included"
        return faithfulness_table(self.found, self.records), Table(title, ("method", "s"), rows, formats={"s": ".1f"})

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        named = {"records": self.records, "parts": self.parts, "fractions": FRACTIONS, "seconds": dict(self.seconds)}
        return {**named, "completeness_error": self.missing, "methods": to_values(self.found)}

    def __rich__(self) -> RenderableType:
        return to_rich(self.tables[0])


def faithfulness(
    explainer: Explainer,
    records: Iterable[Mapping[str, Any]],
    methods: Sequence[str],
    *,
    orders: int = ORDERS,
    steps: int = STEPS,
    seed: int = 0,
    advance: Callable[[int], None] = lambda done: None,
) -> FaithfulnessReport:
    """Measures methods against random orders.

    Args:
      explainer: of a model.
      records: as its predictor reads them.
      methods: of `training.attribution.METHODS`; their shares are of scores, what is lost is probability.
      orders: random ones, of which the mean is taken.
      steps: of integrated gradients.
      seed: of the random orders.
      advance: is told of records that are done.

    Raises UserError where fewer than two records have something to explain.
    """
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in (RANDOM, *methods)}
    seconds, count, parts = dict.fromkeys(methods, 0.0), 0, 0
    integrated: list[Shares] = []
    for rows, explained in explainer.prepared(records):
        attribution = explainer.attribution(explained, steps)
        several = []
        for number in range(orders):
            drawn = [random_orders(each, (seed, count + record, number)) for record, each in enumerate(explained)]
            several.append(erase(attribution, explainer.params, rows, explained, drawn))
        scores[RANDOM] += np.mean(several, axis=0).tolist()
        for method in methods:
            began = time.monotonic()
            found = attribution(explainer.params, rows, explained, method, LOGITS)
            seconds[method] += time.monotonic() - began
            integrated += [each for record in found for each in record] if method == INTEGRATED else []
            scores[method] += erase(attribution, explainer.params, rows, explained, list(map(by_share, found)))
        count += len(explained)
        parts += sum(len(each) for each in drawn)
        advance(len(explained))
    arrays = {name: np.asarray(values, np.float64).reshape(-1, 2) for name, values in scores.items()}
    kept = int((~np.isnan(arrays[RANDOM]).any(axis=-1)).sum())
    if kept < 2:
        raise UserError(
            f"--faithfulness: {kept} of {count} records have something to explain in their results, but a comparison "
            "needs two at least. Give more records."
        )
    missing = None
    if INTEGRATED in methods:
        made = sum(abs(each.number - each.without) for each in integrated)
        missing = sum(abs(each.missing) for each in integrated) / max(made, 1e-12)
    return FaithfulnessReport(measure(arrays), kept, parts, seconds, missing)


def write(report: FaithfulnessReport, folder: pathlib.Path, name: str) -> None:
    """Writes JSON, Markdown and a picture into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / JSON_FILE, to_json(report.to_dict()))
    tables = "\n".join(f"## {table.title}\n\n{to_markdown(table)}" for table in report.tables)
    files.write_text(folder / MARKDOWN_FILE, f"# Faithfulness of attributions of {name}\n\n{tables}\n{HOW_TO_READ}\n")
    panels = {
        f"{score} ({'more' if score == SCORES[0] else 'less'} is better)": {
            method.replace("_", " "): dataclasses.astuple(each.intervals[score])
            for method, each in report.found.items()
        }
        for score in SCORES
    }
    title = f"Faithfulness of attributions of {name}, {report.records:,} records"
    plot_intervals(panels, folder / PICTURE_FILE, title=title, beside=(RANDOM,))
