"""A picture of what new data have in common with others: each distance beside what it is by chance, and confidences."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfm.observe.plots import ALARM, COLOURS, GRID, INK, new_figure, save_figure, style

_CHANCE = "#c9d1dc"
_BINS = 20


class Line(NamedTuple):
    """A distance.

    Attributes:
      name: what is compared.
      value: the distance.
      chance: what equal data seldom reach.
      differs: whether it stands out.
    """

    name: str
    value: float
    chance: float
    differs: bool


def plot_drift(
    lines: Sequence[Line],
    path: str | os.PathLike[str],
    *,
    title: str,
    confidences: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Draws distances from the top, those that stand out in red, and the confidences of reference and new data.

    Raises OSError when the file cannot be written.
    """
    assert lines, "no distances to plot"
    figure = new_figure(1.8 + 0.38 * len(lines))
    figure.suptitle(title, color=INK, fontsize=13, x=0.02, ha="left", fontweight="bold", parse_math=False)
    panels = figure.subplots(1, 1 if confidences is None else 2, squeeze=False)[0]
    axes = panels[0]
    for row, line in enumerate(lines):
        axes.plot([0, line.chance], [row, row], color=_CHANCE, linewidth=7, solid_capstyle="butt")
        axes.plot([line.value], [row], color=ALARM if line.differs else COLOURS[0], marker="o", markersize=6)
    axes.set_yticks(range(len(lines)), labels=[line.name for line in lines], parse_math=False)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, *(line.value for line in lines)) * 1.02)
    style(axes, title="", x_label="distance (grey: reached by equal data)", y_label="")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    if confidences is not None:
        axes = panels[1]
        edges = np.linspace(min(float(each.min()) for each in confidences), 1.0 + 1e-9, _BINS + 1)
        for values, name, colour in zip(confidences, ("reference", "new"), (COLOURS[0], COLOURS[1]), strict=True):
            counts, _ = np.histogram(values, edges)
            axes.stairs(counts / max(len(values), 1), edges, color=colour, linewidth=2, label=name)
        style(axes, title="", x_label="confidence of a record", y_label="share of the records")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)
