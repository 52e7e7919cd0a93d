"""Numbers with their intervals as dots and lines, one below the other."""

import os
from collections.abc import Sequence

from jaxfm.observe.plots import ALARM, COLOURS, GRID, INK, new_figure, save_figure, style

MOST = 40
Line = tuple[str, float, float, float, bool]
"""Name, value, ends of its interval, and whether it stands out."""


def plot_intervals(lines: Sequence[Line], path: str | os.PathLike[str], *, title: str, x_label: str) -> None:
    """Draws values around 0, the first `MOST` from the top, those that stand out in red.

    Raises OSError when the file cannot be written.
    """
    assert lines, "no intervals to plot"
    shown = list(lines)[:MOST][::-1]
    of_all = f": the first {MOST} of {len(lines):,}" if len(lines) > MOST else ""
    figure = new_figure(1.3 + 0.26 * len(shown))
    axes = figure.subplots()
    for row, (_, value, low, high, stands_out) in enumerate(shown):
        colour = ALARM if stands_out else COLOURS[0]
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([value], [row], color=colour, marker="o", markersize=6)
    axes.axvline(0.0, color=INK, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(shown)), labels=[line[0] for line in shown], parse_math=False)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    style(axes, title=f"{title}{of_all}", x_label=x_label, y_label="")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    save_figure(figure, path)
