"""Pictures of a search: scores over its trials, over the values of each key, and of several objectives."""

import json
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style, title_of, whole_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
MOST_AXES = 8
_MOST_LETTERS = 16  # of a choice
_OPEN, _OPEN_LINE = "#9aa5b4", "#d3d9e0"


class Shown(NamedTuple):
    """A trial as it is drawn.

    Attributes:
      number: of the trial.
      values: of each key.
      score: the last one that it has.
      is_finished: whether it came to its end.
    """

    number: int
    values: Sequence[Any]
    score: float
    is_finished: bool


class Scale(NamedTuple):
    """How the values of a key lie along an axis.

    Attributes:
      key: its name.
      choices: texts of the values, where they are listed; None for numbers.
      log: whether the numbers lie along a logarithm.
    """

    key: str
    choices: Sequence[str] | None
    log: bool


def plot_scores(trials: Sequence[Shown], path: str | os.PathLike[str], *, metric: str, more_is_better: bool) -> None:
    """Draws the score of each trial in their order, and the best so far. Raises OSError when it cannot be written."""
    figure = new_figure(4.2)
    axes = figure.subplots()
    _scatter(axes, [(each.number, each) for each in trials])
    finished = [each for each in trials if each.is_finished]
    scores = [each.score for each in finished]
    if scores:
        so_far = np.maximum.accumulate(scores) if more_is_better else np.minimum.accumulate(scores)
        last = max(each.number for each in trials)
        steps = [*(each.number for each in finished), last]
        axes.step(steps, [*so_far, so_far[-1]], where="post", color=COLOURS[1], linewidth=2, label="best so far")
    label = title_of(metric)
    style(axes, title=f"{label} of the trials", x_label="trial", y_label=f"{label} on valid")
    whole_steps(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)


def plot_slices(trials: Sequence[Shown], scales: Sequence[Scale], path: str | os.PathLike[str], *, metric: str) -> None:
    """Draws a panel for each key: the score of each trial over its value. Raises OSError as `plot_scores`."""
    rows = math.ceil(len(scales) / COLUMNS)
    columns = min(COLUMNS, len(scales))
    figure = new_figure(0.6 + 3.0 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    label = title_of(metric)
    for index, axes in enumerate(panels.flat):
        if index >= len(scales):
            axes.set_visible(False)
            continue
        scale = scales[index]
        _scatter(axes, [(place(scale, each.values[index]), each) for each in trials])
        style(axes, title="", x_label=scale.key, y_label=f"{label} on valid" if index % columns == 0 else "")
        if scale.choices is not None:
            slanted = max(map(len, scale.choices)) > 6
            axes.set_xticks(
                range(len(scale.choices)),
                labels=[*map(_shortened, scale.choices)],
                parse_math=False,
                rotation=30 if slanted else 0,
                ha="right" if slanted else "center",
            )
            axes.set_xlim(-0.6, len(scale.choices) - 0.4)
        elif scale.log:
            _log_ticks(axes, [float(each.values[index]) for each in trials])
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, labelcolor=INK)
    figure.suptitle(f"{label} by the value of each key", x=0.01, ha="left", color=INK, fontsize=13, fontweight="bold")
    save_figure(figure, path)


def plot_parallel(
    trials: Sequence[Shown], scales: Sequence[Scale], path: str | os.PathLike[str], *, metric: str, more_is_better: bool
) -> None:
    """Draws each trial as a line over the keys and its score, coloured by the score, the best on top.

    Those that ended before are grey. The first eight keys are shown. Raises OSError as `plot_scores`.
    """
    from matplotlib import colormaps

    shown = sorted(trials, key=lambda each: (each.is_finished, each.score if more_is_better else -each.score))
    figure = new_figure(4.6)
    axes = figure.subplots()
    kept = scales[:MOST_AXES]
    scores = [each.score for each in shown]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    worst, top = _worst_and_best([each.score for each in shown if each.is_finished] or [0.0], more_is_better)
    colours = colormaps["viridis_r"]  # dark is good: bright lines would vanish on white
    ends = [_ends(scale, [each.values[index] for each in trials]) for index, scale in enumerate(kept)]
    for each in shown:
        heights = [_height(scale, each.values[index], ends[index]) for index, scale in enumerate(kept)]
        heights.append((each.score - low) / (high - low) if high > low else 0.5)
        rank = (each.score - worst) / (top - worst) if top != worst else 1.0
        colour = colours(0.15 + 0.85 * rank) if each.is_finished else _OPEN_LINE
        axes.plot(range(len(heights)), heights, color=colour, linewidth=2 if each.is_finished else 1)
    for index, scale in enumerate(kept):
        _label_axis(axes, index, scale, ends[index])
    axes.axvline(len(kept), color=INK, linewidth=1)
    for height, value in ((0.0, low), (1.0, high)):
        _note(axes, len(kept), height, f"{value:.4g}")
    early = "" if all(each.is_finished for each in trials) else "; grey: ended before"
    names = [*(scale.key.rpartition(".")[2] for scale in kept), title_of(metric)]
    of_all = f" (the first {len(kept)} of {len(scales)} keys)" if len(kept) < len(scales) else ""
    style(
        axes,
        title=f"Values and {title_of(metric)} of the trials{of_all}; dark is better{early}",
        x_label="",
        y_label="",
    )
    axes.set_xticks(range(len(names)), labels=names, parse_math=False)
    axes.set_yticks([])
    axes.set_xlim(-0.4, len(names) - 0.4)
    axes.set_ylim(-0.08, 1.08)
    axes.spines["left"].set_visible(False)
    save_figure(figure, path)


def plot_front(
    points: Sequence[tuple[int, float, float]],
    front: Sequence[int],
    path: str | os.PathLike[str],
    *,
    names: tuple[str, str],
    numbered: str = "trials",
) -> None:
    """Draws two objectives of each finished trial (number, first, second), and the line of those of the Pareto front.

    `numbered` says what the numbers are of.

    Raises OSError as `plot_scores`.
    """
    figure = new_figure(4.6)
    axes = figure.subplots()
    others = [each for each in points if each[0] not in front]
    if others:
        axes.scatter([x for _, _, x in others], [y for _, y, _ in others], s=36, color=_OPEN, label="surpassed")
    best = sorted(((x, y, number) for number, y, x in points if number in front))
    axes.plot([x for x, _, _ in best], [y for _, y, _ in best], color=COLOURS[0], marker="o", label="Pareto front")
    for x, y, number in best[:20]:
        axes.annotate(str(number), (x, y), xytext=(5, 5), textcoords="offset points", color=INK, fontsize=9)
    style(
        axes,
        title=f"{title_of(names[0])} by {names[1]}; numbers are {numbered}",
        x_label=title_of(names[1]),
        y_label=title_of(names[0]),
    )
    if max((abs(x) for _, _, x in points), default=0.0) >= 1000:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)


def _scatter(axes: "Axes", placed: Sequence[tuple[float, Shown]]) -> None:
    """Draws finished trials as dots and the others, whose score is of an earlier step, as circles."""
    finished = [(x, each.score) for x, each in placed if each.is_finished]
    others = [(x, each.score) for x, each in placed if not each.is_finished]
    axes.scatter([x for x, _ in finished], [y for _, y in finished], s=36, color=COLOURS[0], label="finished")
    if others:
        x, y = [x for x, _ in others], [y for _, y in others]
        axes.scatter(x, y, s=36, facecolors="none", edgecolors=_OPEN, linewidths=1.5, label="ended before")


def _log_ticks(axes: "Axes", values: Sequence[float]) -> None:
    """Makes the x axis logarithmic, with ticks that are few enough to read, and more than one."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    decades = math.log10(max(values) / min(values)) if values else 1.0
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1 else (1, 3) if decades < 2.5 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:.3g}")


def _worst_and_best(scores: Sequence[float], more_is_better: bool) -> tuple[float, float]:
    return (min(scores), max(scores)) if more_is_better else (max(scores), min(scores))


def place(scale: Scale, value: Any) -> float:
    """Returns where a value lies on an axis: of listed ones its index."""
    return float(scale.choices.index(as_text(value))) if scale.choices is not None else float(value)


def as_text(value: Any) -> str:
    """Returns a choice as it is shown."""
    return value if isinstance(value, str) else json.dumps(value)


def _ends(scale: Scale, values: Sequence[Any]) -> tuple[float, float]:
    if scale.choices is not None:
        return 0.0, float(max(len(scale.choices) - 1, 1))
    numbers = [float(value) for value in values]
    return (min(numbers), max(numbers)) if numbers else (0.0, 1.0)


def _height(scale: Scale, value: Any, ends: tuple[float, float]) -> float:
    at, (low, high) = place(scale, value), ends
    if scale.log and scale.choices is None:
        at, low, high = math.log(at), math.log(low), math.log(high)
    return (at - low) / (high - low) if high > low else 0.5


def _label_axis(axes: "Axes", index: int, scale: Scale, ends: tuple[float, float]) -> None:
    axes.axvline(index, color=INK, linewidth=1)
    if scale.choices is not None:
        for choice in scale.choices:
            _note(axes, index, place(scale, choice) / ends[1], _shortened(choice))
        return
    for value in dict.fromkeys(ends):
        _note(axes, index, _height(scale, value, ends), f"{value:.3g}")


def _shortened(choice: str) -> str:
    return choice if len(choice) <= _MOST_LETTERS else f"{choice[: _MOST_LETTERS - 1]}…"


def _note(axes: "Axes", x: float, y: float, text: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.8}
    axes.annotate(
        text,
        (x, y),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9,
        color=INK,
        bbox=box,
        parse_math=False,
    )
