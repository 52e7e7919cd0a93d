"""The picture of a stress test: the score by severity, a panel a kind of change."""

import math
import os
from collections.abc import Mapping, Sequence

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure

# Severity, score, and the ends of the score's interval.
Point = tuple[int, float, float, float]
_COLUMNS = 4


def plot_stress(
    points: Mapping[str, Sequence[Point]], clean: float, path: str | os.PathLike[str], *, y_label: str
) -> None:
    """Draws a panel for each kind with its interval, all on one scale; the dotted line is the score without a change.

    Raises OSError when the file cannot be written.
    """
    columns = min(_COLUMNS, len(points))
    rows = -(-len(points) // columns)
    figure = new_figure(0.9 + 2.1 * rows, 2.6 * columns + 0.6)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    severities = sorted({point[0] for each in points.values() for point in each})
    for axes, (kind, found) in zip(panels, points.items(), strict=False):
        at, values, lows, highs = (list(each) for each in zip(*found, strict=True))
        axes.axhline(clean, color=INK, linewidth=1, linestyle=":")
        ends = [(low, high) for low, high in zip(lows, highs, strict=True)]
        if not any(math.isnan(end) for pair in ends for end in pair):
            spread = [
                [max(value - low, 0) for value, low in zip(values, lows, strict=True)],
                [max(high - value, 0) for value, high in zip(values, highs, strict=True)],
            ]
            axes.errorbar(at, values, yerr=spread, color=COLOURS[0], linewidth=1, capsize=3)
        axes.plot(at, values, color=COLOURS[0], linewidth=2, marker="o", markersize=5)
        axes.set_title(kind, loc="left", color=INK, fontsize=11, parse_math=False)
        axes.set_xticks(severities)
        axes.tick_params(colors=INK, labelsize=9)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    for axes in list(figure.axes)[len(points) :]:
        axes.set_visible(False)
    figure.supxlabel("severity (dotted: as it is)", color=INK, fontsize=11)
    figure.supylabel(y_label, color=INK, fontsize=11)
    save_figure(figure, path)
