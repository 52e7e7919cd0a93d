"""A picture of scores with intervals, a panel a score: how faithful attributions are, what layers have learned."""

import os
from collections.abc import Mapping, Sequence

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style

_OTHERS = "#9aa5b4"


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
