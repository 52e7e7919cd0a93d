"""What a search among subnets leaves: subnets.json, subnets.md, a plot, and a config that fine-tunes the winner."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.evaluation.classes import spearman
from jaxfm.observe.search_plots import plot_front
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.tuning.costs import FORMATS
from jaxfm.tuning.trials import Trial, pareto_front

JSON_FILE, MARKDOWN_FILE, CONFIG_FILE, PLOT_FILE = "subnets.json", "subnets.md", "fine_tune.py", "front.png"
MOST_ROWS = 20
"""Subnets in the table; subnets.json has all."""


def gather(
    scored: Sequence[Mapping[str, Any]], *, metric: str, more_is_better: bool, limits: Mapping[str, float], best: int
) -> dict[str, Any]:
    """Returns subnets.json, but for what is known of runs trained alone.

    Args:
      scored: of each subnet "depth", "heads", "ffn_size", "score" (None: not defined), "costs" (name -> value) and
        "shares" (name -> share of the largest model's); the largest model is the last.
      metric: that they are compared by.
      more_is_better: of the metric.
      limits: cost -> share of the largest model's that a subnet may have.
      best: number of the winner.
    """
    cost = next(iter(limits))
    points = [
        Trial(number, "finished", values=(math.nan if each["score"] is None else each["score"], each["costs"][cost]))
        for number, each in enumerate(scored)
    ]
    front = pareto_front([each for each in points if math.isfinite(each.values[0])], (more_is_better, False))
    return {
        "metric": metric,
        "more_is_better": more_is_better,
        "most": dict(limits),
        "cost": cost,
        "best": best,
        "front": [each.number for each in front],
        "subnets": [dict(each) for each in scored],
    }


def rank_correlation(alone: Sequence[Mapping[str, Any]]) -> float | None:
    """Returns Spearman's correlation of "score" and "alone" of shapes; None where it is not defined."""
    found = spearman(*(np.array([each[name] for each in alone], np.float64) for name in ("score", "alone")))
    return found if math.isfinite(found) else None


def table(found: Mapping[str, Any]) -> Table:
    """Returns the best subnets, and the largest model at the end."""
    subnets, sign = found["subnets"], -1 if found["more_is_better"] else 1
    last = len(subnets) - 1
    order = sorted(
        range(last),
        key=lambda number: (subnets[number]["score"] is None, sign * (subnets[number]["score"] or 0.0), number),
    )
    limits = list(found["most"])
    columns = ("subnet", found["metric"], "layers", "heads", "neurons", *limits, *(f"{name}, share" for name in limits))
    rows: list[tuple[Cell, ...]] = []
    for number in (*order[:MOST_ROWS], last):
        each = subnets[number]
        name = "largest" if number == last else f"{number}{' (best)' if number == found['best'] else ''}"
        costs = [each["costs"][one] for one in limits], [each["shares"][one] for one in limits]
        rows.append((name, each["score"], each["depth"], each["heads"], each["ffn_size"], *costs[0], *costs[1]))
    formats = {name: FORMATS[name] for name in limits} | {f"{name}, share": ".1%" for name in limits}
    return Table("Subnets, the best first", columns, rows, footer=1, formats=formats)


def alone_table(found: Mapping[str, Any]) -> Table:
    """Returns the shapes that were trained alone, beside their scores in the supernet."""
    rows = [
        (each["run"], each["depth"], each["heads"], each["ffn_size"], each["alone"], each["score"])
        for each in sorted(found["alone"], key=lambda each: -each["alone"])
    ]
    metric = found["metric"]
    columns = ("run", "layers", "heads", "neurons", f"{metric} alone", f"{metric} in the supernet")
    return Table(f"Shapes trained alone; {correlation_in_words(found)}", columns, rows)


def correlation_in_words(found: Mapping[str, Any]) -> str:
    """Returns the rank correlation as a phrase."""
    value = found["spearman"]
    return f"Spearman {'not defined' if value is None else format(value, '.3f')} over {len(found['alone'])}"


def headline(found: Mapping[str, Any]) -> str:
    """Returns the winner with its score and its costs."""
    best, whole = found["subnets"][found["best"]], found["subnets"][-1]
    score = ["not defined" if each["score"] is None else f"{each['score']:.4f}" for each in (best, whole)]
    costs = ", ".join(f"{best['shares'][name]:.1%} of the {name}" for name in found["most"])
    shape = f"{best['depth']} layers, {best['heads']} heads, {best['ffn_size']} neurons"
    return (
        f"best of {len(found['subnets']) - 1} subnets: {shape}, valid {found['metric']} {score[0]} with {costs} "
        f"(largest model: {score[1]})"
    )


def write_all(folder: pathlib.Path, found: Mapping[str, Any], commands: Sequence[str]) -> None:
    """Writes subnets.md, the plot and, last, subnets.json."""
    points = [
        (number, each["score"], each["costs"][found["cost"]])
        for number, each in enumerate(found["subnets"])
        if each["score"] is not None
    ]
    plot_front(points, found["front"], folder / PLOT_FILE, names=(found["metric"], found["cost"]), numbered="subnets")
    best = table(found)
    parts = ["# Subnets of a supernet", f"**{headline(found)}**"]
    parts += [
        "Scores are of the validation split, with the weights of the supernet. The best of many is chosen by them, so "
        "its score is above what other data will give.",
        "```\n" + "\n".join(commands) + "\n```",
        f"## {best.title}",
        to_markdown(best).strip(),
    ]
    if found.get("alone"):
        alone = alone_table(found)
        parts += [f"## {alone.title}", to_markdown(alone).strip()]
    files.write_text(folder / MARKDOWN_FILE, "\n\n".join([*parts, f"![front]({PLOT_FILE})"]) + "\n")
    files.write_json(folder / JSON_FILE, to_json(dict(found)))
