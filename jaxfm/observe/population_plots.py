"""A picture of a population of runs: the values of its members over their updates."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style, whole_steps
from jaxfm.observe.search_plots import Scale, place

Life = Sequence[tuple[int, Sequence[Any]]]
"""(updates done, value of each key from there on) of a run."""
COLUMNS, MOST_PANELS = 2, 6
_MEMBER = "#b9c2cd"


def plot_schedules(
    lives: Mapping[int, Life],
    best: Life,
    ends: Mapping[int, int],
    scales: Sequence[Scale],
    path: str | os.PathLike[str],
) -> None:
    """Draws a panel for each of the first six keys: its value over the updates, of each member and of the best weights.

    Args:
      lives: number of a member -> its values; it has a dot where it took over another one.
      best: the values by which the best member's weights were trained, whoever had them then.
      ends: number of a member -> its last update.
      scales: of the keys.
      path: of the PNG.

    Raises OSError when it cannot be written.
    """
    kept = scales[:MOST_PANELS]
    columns = min(COLUMNS, len(kept))
    rows = math.ceil(len(kept) / columns)
    figure = new_figure(0.8 + 3.0 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    last = max(ends.values(), default=0)
    for index, axes in enumerate(panels.flat):
        if index >= len(kept):
            axes.set_visible(False)
            continue
        scale = kept[index]
        for number, life in lives.items():
            steps = [*(step for step, _ in life), max(ends.get(number, 0), life[-1][0])]
            heights = [place(scale, values[index]) for _, values in life]
            axes.step(steps, [*heights, heights[-1]], where="post", color=_MEMBER, linewidth=1.2)
            axes.scatter(
                steps[1:-1], heights[1:], s=16, color=_MEMBER, label="took over another" if number == 0 else ""
            )
        heights = [place(scale, values[index]) for _, values in best]
        steps = [*(step for step, _ in best), last]
        axes.step(
            steps, [*heights, heights[-1]], where="post", color=COLOURS[1], linewidth=2.4, label="the best weights"
        )
        style(axes, title="", x_label="updates" if index >= len(kept) - columns else "", y_label=scale.key)
        if scale.choices is not None:
            axes.set_yticks(range(len(scale.choices)), labels=scale.choices, parse_math=False)
        elif scale.log:
            axes.set_yscale("log")
        whole_steps(axes)
        axes.tick_params(labelbottom=index >= len(kept) - columns)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, labelcolor=INK)
    of_all = f" (the first {len(kept)} of {len(scales)} keys)" if len(kept) < len(scales) else ""
    title = f"Values of the members over their updates{of_all}"
    figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=13, fontweight="bold")
    save_figure(figure, path)
