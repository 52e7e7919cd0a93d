"""Pictures of learning in stages: heat maps of the scores, curves of their means, and of each stage's score."""

# T stages

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style

Matrix = Sequence[Sequence[float | None]]
_COLUMNS = 3
_MARKS = "osDv^P"
_DARK = 0.6
"""Share of the scale from which a cell is dark, so that its number is white."""


def plot_matrices(
    matrices: Mapping[str, Matrix], stages: Sequence[str], path: str | os.PathLike[str], *, y_label: str
) -> None:
    """Draws a heat map a method, all on one scale: rows are stages after which, columns those on whose data is scored.

    Raises OSError when the file cannot be written.
    """
    whole = {name: _array(matrix) for name, matrix in matrices.items()}
    known = np.concatenate([each[~np.isnan(each)] for each in whole.values()])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    high = high if high > low else low + 1.0
    columns = min(_COLUMNS, len(whole))
    rows, count = -(-len(whole) // columns), len(stages)
    size = max(2.6, 0.62 * count + 1.3)
    figure = new_figure(0.7 + size * rows, (size + 0.3) * columns + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, matrix_TT) in zip(panels, whole.items(), strict=False):
        axes.imshow(np.ma.masked_invalid(matrix_TT), cmap="Blues", vmin=low, vmax=high)
        for after, row in enumerate(matrix_TT):
            for on, value in enumerate(row):
                if not math.isnan(value):
                    colour = "white" if (value - low) / (high - low) > _DARK else INK
                    axes.text(on, after, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
        axes.set_title(name, loc="left", color=INK, fontsize=11, parse_math=False)
        turned = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(count), labels=[_short(each) for each in stages], fontsize=8, parse_math=False, **turned)
        axes.set_yticks(range(count), labels=[_short(each) for each in stages], fontsize=8, parse_math=False)
        axes.tick_params(length=0, colors=INK)
        for side in axes.spines.values():
            side.set_visible(False)
    for axes in list(figure.axes)[len(whole) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{y_label} on the data of", color=INK, fontsize=11)
    figure.supylabel("after", color=INK, fontsize=11)
    save_figure(figure, path)


def plot_averages(
    curves: Mapping[str, Sequence[float]], stages: Sequence[str], path: str | os.PathLike[str], *, y_label: str
) -> None:
    """Draws the mean score of all stages so far after each stage, a line a method.

    Raises OSError when the file cannot be written.
    """
    figure = new_figure(4.6)
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(range(len(values)), values, label=name, **_line(number))
    style(axes, title="Mean over the stages so far", x_label="after stage", y_label=y_label)
    axes.set_xticks(range(len(stages)), labels=[_short(each) for each in stages], parse_math=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    save_figure(figure, path)


def plot_stages(
    matrices: Mapping[str, Matrix], stages: Sequence[str], path: str | os.PathLike[str], *, y_label: str
) -> None:
    """Draws the score on each stage's data after every stage from its own on, a panel a stage, a line a method.

    Raises OSError when the file cannot be written.
    """
    columns = min(_COLUMNS, len(stages))
    rows, count = -(-len(stages) // columns), len(stages)
    figure = new_figure(0.9 + 2.5 * rows, 3.0 * columns + 1.6)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    whole = {name: _array(matrix) for name, matrix in matrices.items()}
    for on, stage in enumerate(stages):
        for number, (name, matrix_TT) in enumerate(whole.items()):
            panels[on].plot(range(on, count), matrix_TT[on:, on], label=name, **_line(number))
        panels[on].set_title(f"on {_short(stage)}", loc="left", color=INK, fontsize=11, parse_math=False)
        panels[on].set_xlim(-0.3, count - 0.7)
        panels[on].set_xticks(range(count), labels=[str(each + 1) for each in range(count)])
        panels[on].tick_params(colors=INK, labelsize=9)
        panels[on].grid(axis="y", color=GRID, linewidth=0.8)
        for side in ("top", "right"):
            panels[on].spines[side].set_visible(False)
    for axes in panels[count:]:
        axes.set_visible(False)
    panels[min(columns, count) - 1].legend(
        frameon=False, labelcolor=INK, bbox_to_anchor=(1.02, 1.0), loc="upper left", fontsize=9
    )
    figure.supxlabel("after stage", color=INK, fontsize=11)
    figure.supylabel(y_label, color=INK, fontsize=11)
    save_figure(figure, path)


def _line(number: int) -> dict[str, Any]:
    """Returns how the line of method `number` looks; more methods than colours have other dashes and marks."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": _MARKS[number % len(_MARKS)],
        "linestyle": ("-", "--", ":")[number // len(COLOURS) % 3],
        "linewidth": 2,
        "markersize": 5,
    }


def _array(matrix: Matrix) -> np.ndarray:
    return np.asarray([[math.nan if value is None else value for value in row] for row in matrix], np.float64)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
