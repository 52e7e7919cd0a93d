"""A picture of many runs: their scores with intervals, and their curves."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style, title_of, whole_steps

MOST_RUNS = 30
_OTHERS = "#9aa5b4"


class Scored(NamedTuple):
    """A run with a score.

    Attributes:
      name: how it is called.
      score: of the metric that runs are compared by.
      interval: of the score; None where it has none.
      curve: (step, value) of the same metric on the validation split.
    """

    name: str
    score: float
    interval: tuple[float, float] | None
    curve: Sequence[tuple[int, float]]


def plot_runs(runs: Sequence[Scored], path: str | os.PathLike[str], *, metric: str, split: str) -> None:
    """Draws the score of each run, the first one at the top, and the curves of all, the first six in colours.

    Of more than 30 runs the first 30 are shown. Raises OSError when the file cannot be written.
    """
    assert runs, "no runs to plot"
    shown = runs[:MOST_RUNS]
    has_curves = any(run.curve for run in shown)
    figure = new_figure(max(3.4, 1.3 + 0.32 * len(shown)))
    panels = figure.subplots(1, 2 if has_curves else 1, squeeze=False, width_ratios=[1, 1.1] if has_curves else [1])[0]
    colours = _colours(shown)
    left = panels[0]
    for row, run in enumerate(shown):
        if run.interval is not None:
            left.plot(run.interval, [row, row], color=colours[run.name], linewidth=2.5, solid_capstyle="butt")
        left.plot([run.score], [row], color=colours[run.name], marker="o", markersize=7)
    left.set_yticks(range(len(shown)), labels=[run.name for run in shown], parse_math=False)
    left.set_ylim(len(shown) - 0.5, -0.5)
    of_all = f" (the first {len(shown)} of {len(runs):,})" if len(shown) < len(runs) else ""
    intervals = "with 95 % interval" if any(run.interval for run in shown) else ""
    label = title_of(metric)
    style(left, title=f"{label} on {split}{of_all}", x_label=f"{label} {intervals}".strip(), y_label="")
    left.grid(axis="x", color=GRID, linewidth=0.8)
    left.tick_params(axis="y", length=0)
    if has_curves:
        _draw_curves(panels[1], shown, colours, label)
    save_figure(figure, path)


def _colours(shown: Sequence[Scored]) -> Mapping[str, str]:
    return {run.name: COLOURS[row] if row < len(COLOURS) else _OTHERS for row, run in enumerate(shown)}


def _draw_curves(axes: Any, shown: Sequence[Scored], colours: Mapping[str, str], label: str) -> None:
    for row, run in reversed(list(enumerate(shown))):  # the best one lies on top
        if run.curve:
            named = run.name if row < len(COLOURS) else None
            steps, values = zip(*run.curve, strict=True)
            axes.plot(steps, values, color=colours[run.name], linewidth=2 if named else 1, marker="o", markersize=3.5)
    style(axes, title=f"{label} on valid by step", x_label="step (optimiser updates)", y_label="")
    whole_steps(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK)
