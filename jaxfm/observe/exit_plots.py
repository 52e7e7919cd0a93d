"""What early exit gives for what it costs, as a plot."""

import os
from collections.abc import Mapping, Sequence

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style, title_of

Point = tuple[float, float]


def plot_exits(
    curve: Sequence[Point],
    heads: Mapping[int, float],
    chosen: Point | None,
    path: str | os.PathLike[str],
    *,
    metric: str,
    split: str,
) -> None:
    """Draws the score over the mean number of layers.

    Args:
      curve: mean number of layers and score of each threshold.
      heads: layers below a head -> score where all examples leave there, the whole model last.
      chosen: the point of the run's threshold; None: no example leaves early.
      path: of the PNG file; OSError where it cannot be written.
      metric: the score's name.
      split: what it is of.
    """
    figure = new_figure(4.4)
    axes = figure.subplots()
    axes.plot(*zip(*sorted(curve), strict=True), color=COLOURS[0], linewidth=2, marker="o", markersize=4,
              label="early exit, by threshold")  # fmt: skip
    axes.plot(*zip(*heads.items(), strict=True), color=COLOURS[4], linewidth=0, marker="s", markersize=6,
              label="all examples leave at one head")  # fmt: skip
    if chosen is not None:
        axes.plot(*chosen, color=COLOURS[1], linewidth=0, marker="*", markersize=15, label="the run's threshold")
    whole = list(heads.values())[-1]
    axes.axhline(whole, color=INK, linewidth=1, linestyle=":", label="all layers")
    name = title_of(metric)
    style(axes, title=f"{name} against layers, {split}", x_label="layers an example, on average", y_label=name)
    axes.set_xlim(0, list(heads)[-1] * 1.03)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)
