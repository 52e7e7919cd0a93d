"""Pictures of numbers with intervals: gaps from 0 below each other; scores, a panel a score."""

import os
from collections.abc import Mapping, Sequence

from jaxfm.observe.plots import ALARM, COLOURS, GRID, INK, new_figure, save_figure, style

MOST = 40
Line = tuple[str, float, float, float, bool]
"""Name, value, ends of its interval, and whether it stands out."""
_OTHERS = "#9aa5b4"


def plot_gaps(lines: Sequence[Line], path: str | os.PathLike[str], *, title: str, x_label: str) -> None:
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


def plot_intervals(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    path: str | os.PathLike[str],
    *,
    title: str,
    beside: Sequence[str] = (),
) -> None:
    """Draws a point and its interval a name, the first at the top, panels beside each other.

    Args:
      panels: heading -> name -> (value, low, high).
      path: the PNG file.
      title: above all panels.
      beside: names that the others are compared with, in grey.

    Raises OSError when the file cannot be written.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    assert names, "no scores to plot"
    figure = new_figure(1.5 + 0.34 * len(names))
    figure.suptitle(title, color=INK, fontsize=13, x=0.02, ha="left", fontweight="bold", parse_math=False)
    for axes, (heading, panel) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        for name, (value, low, high) in panel.items():
            place, colour = names.index(name), _OTHERS if name in beside else COLOURS[0]
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot([value], [place], color=colour, marker="o", markersize=6)
        axes.set_yticks(range(len(names)), labels=names, parse_math=False)
        axes.set_ylim(len(names) - 0.4, -0.6)
        style(axes, title="", x_label=heading, y_label="")
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.15)
    save_figure(figure, path)
