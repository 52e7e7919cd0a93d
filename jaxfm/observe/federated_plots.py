"""Picture of a federated simulation: scores by round, and each client's score by model."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.observe.plots import ALARM, COLOURS, GRID, INK, new_figure, save_figure, style, title_of, whole_steps

MOST_CLIENTS = 40
Points = Sequence[tuple[int, float | None]]


def plot_rounds(
    series: Mapping[str, Points],
    levels: Mapping[str, float | None],
    refused: Sequence[int],
    clients: Mapping[str, Sequence[float | None]],
    path: str | os.PathLike[str],
    *,
    metric: str,
    kept: int,
) -> None:
    """Draws scores by round and, beside them, the score of each client by model.

    Args:
      series: name -> (round, score); scores of None are left out.
      levels: name -> score of models that are compared with, as horizontal lines.
      refused: rounds whose model was not taken.
      clients: model -> score of each client, from client 0; of more than MOST_CLIENTS there is no second panel.
      path: the PNG file.
      metric: name of the score.
      kept: the round whose model is kept.

    Raises OSError when the file cannot be written.
    """
    several = all(0 < len(values) <= MOST_CLIENTS for values in clients.values())
    figure = new_figure(4.8)
    left, *right = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
    label = title_of(metric)
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        known = [(round, value) for round, value in points if value is not None and math.isfinite(value)]
        if known:
            left.plot(*zip(*known, strict=True), color=colour, linewidth=2, marker="o", markersize=3.5, label=name)
    for (name, value), line in zip(levels.items(), ("--", ":", "-."), strict=False):
        if value is not None and math.isfinite(value):
            left.axhline(value, color=INK, linewidth=1, linestyle=line, label=name)
    for number, round in enumerate(refused):
        left.axvline(round, color=ALARM, linewidth=1, alpha=0.6, label="refused" if number == 0 else None)
    left.axvline(kept, color=INK, linewidth=1, linestyle=(0, (1, 3)), label=f"kept: round {kept}")
    style(left, title=f"{label} by round", x_label="round", y_label=label)
    whole_steps(left)
    left.grid(axis="y", color=GRID, linewidth=0.8)
    _legend(left)
    if right:
        _draw_clients(right[0], clients, label)
    save_figure(figure, path)


def _draw_clients(axes: Any, clients: Mapping[str, Sequence[float | None]], label: str) -> None:
    markers = ("o", "s", "^")
    for (name, values), colour, marker in zip(clients.items(), COLOURS, markers, strict=False):
        known = [(client, value) for client, value in enumerate(values) if value is not None]
        if known:
            axes.scatter(*zip(*known, strict=True), color=colour, marker=marker, s=36, label=name, zorder=3)
    style(axes, title=f"{label} of each client", x_label="client", y_label="on what it holds out")
    whole_steps(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    _legend(axes)


def _legend(axes: Any) -> None:
    """Puts the names under the panel, where they hide no line."""
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
