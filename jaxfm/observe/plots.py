"""Plots as PNG files, made to be read at a width of 900 pixels."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from jaxfm.files import atomic_write

if TYPE_CHECKING:  # matplotlib takes a second to import, so only programs that draw import it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 9.0
DOTS_PER_INCH = 200  # twice the size at which plots are shown: sharp on dense screens
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito: safe for colour-blind eyes
SPLIT_COLOURS = {"train": COLOURS[0], "valid": COLOURS[1], "test": COLOURS[2]}  # the same in all panels and plots
INK, GRID, ALARM = "#333333", "#e3e3e3", "#b00020"
SMOOTHED_FROM = 40
"""Number of points from which a training curve gets a smoothed line over the raw one."""

MOST_CLASSES = 50
"""Largest number of classes in a plot: with more, the names would be too small to read."""

Points = tuple[list[int], list[float]]


def plot_curves(
    metrics: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    score: str | None = "f1",
    chosen: int | None = None,
) -> None:
    """Draws loss by step for every split and, beside it, the metric named `score` where it was recorded.

    Args:
      metrics: as `writers.read_metrics` returns them. Steps whose value is NaN or infinite are marked in red.
      path: the PNG file.
      score: a metric with a panel of its own; none where it is the loss, or nobody recorded it.
      chosen: the step whose weights are kept, marked on every panel.

    Raises OSError when the file cannot be written.
    """
    names = ["loss"] + ([score] if score not in (None, "loss") and any(score in line for line in metrics) else [])
    figure = new_figure(3.8)
    panels = figure.subplots(1, len(names), squeeze=False, sharex=True)[0]
    for axes, name in zip(panels, names, strict=True):
        for split, colour in split_colours(line["split"] for line in metrics).items():
            _draw_curve(axes, split, _points(metrics, split, name), colour)
        if chosen is not None:
            axes.axvline(chosen, color=INK, linewidth=1, linestyle=":", label=f"chosen: step {chosen:,}")
        _mark_broken(axes, metrics, name)
        label = title_of(name)
        style(axes, title=f"{label} by step", x_label="step (optimiser updates)", y_label=label)
        whole_steps(axes)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)


def plot_lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | os.PathLike[str],
    *,
    title: str,
    x_label: str,
    y_label: str,
    level: tuple[str, float] | None = None,
) -> None:
    """Draws lines of (x, y) points by their name and, as a dotted line, a `level` (name, y) to compare them with.

    Raises OSError when the file cannot be written.
    """
    figure = new_figure(4.4)
    axes = figure.subplots()
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=2, marker="o", markersize=5, label=name)
    if level is not None:
        axes.axhline(level[1], color=INK, linewidth=1, linestyle=":", label=level[0])
    style(axes, title=title, x_label=x_label, y_label=y_label)
    whole_steps(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)


def split_colours(splits: Iterable[str]) -> dict[str, str]:
    """Returns split -> colour: train, valid and test, which have theirs in every plot, then others as they appear."""
    found = list(dict.fromkeys(splits))
    others = [name for name in found if name not in SPLIT_COLOURS]
    names = [*(name for name in SPLIT_COLOURS if name in found), *others]
    free = COLOURS[len(SPLIT_COLOURS) :]
    return {name: SPLIT_COLOURS.get(name) or free[others.index(name) % len(free)] for name in names}


def plot_per_type(
    per_type: Mapping[str, Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    score: str = "f1",
    what: str = "type",
) -> None:
    """Draws `score` (a fraction) of each type as a horizontal bar with its support, the most frequent 50 from the top.

    `per_type`: at least one type -> at least `score` and "support"; `what`: a word for the types. Raises OSError when
    the file cannot be written.
    """
    assert per_type, "no types to plot"
    names = sorted(per_type, key=lambda name: (per_type[name]["support"], name))[-MOST_CLASSES:]
    of_all = f" (the {len(names)} most frequent of {len(per_type):,})" if len(names) < len(per_type) else ""
    values = [float(per_type[name][score]) for name in names]
    figure = new_figure(1.1 + 0.36 * len(names))
    axes = figure.subplots()
    axes.barh(range(len(names)), values, height=0.62, color=COLOURS[0])
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        text = f"{value:.3f}   n = {per_type[name]['support']:,}"
        # On a white box, so that no grid line crosses the digits.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(value + 0.012, row, text, va="center", color=INK, fontsize=10, bbox=box)
    # parse_math=False: a type may be named "$100".
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(0, 1.25)  # room for the numbers right of a full bar
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    label = title_of(score)
    style(
        axes, title=f"{label} by {what}{of_all}", x_label=f"{label}  (n: items of the {what} in the data)", y_label=""
    )
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    save_figure(figure, path)


def plot_bars(values: Mapping[str, float], path: str | os.PathLike[str], *, title: str, x_label: str) -> None:
    """Draws numbers from 0 as horizontal bars, the largest 50 from the top; OSError when the file cannot be written."""
    assert values, "no bars to plot"
    names = sorted(values, key=lambda name: (values[name], name))[-MOST_CLASSES:]
    of_all = f": the {len(names)} largest of {len(values):,}" if len(names) < len(values) else ""
    figure = new_figure(1.1 + 0.24 * len(names))
    axes = figure.subplots()
    axes.barh(range(len(names)), [values[name] for name in names], height=0.7, color=COLOURS[0])
    for row, name in enumerate(names):
        axes.text(values[name], row, f" {values[name]:.3g}", va="center", color=INK, fontsize=8)
    axes.set_yticks(range(len(names)), labels=names, parse_math=False)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.12)
    style(axes, title=f"{title}{of_all}", x_label=x_label, y_label="")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelsize=8)
    save_figure(figure, path)


def plot_histogram(
    counts: Mapping[str, int], path: str | os.PathLike[str], *, title: str, x_label: str, y_label: str
) -> None:
    """Draws the count of each class as a bar, classes from left to right; `counts` has at least one.

    Raises OSError when the file cannot be written.
    """
    assert counts, "no classes to plot"
    figure = new_figure(3.8)
    axes = figure.subplots()
    axes.bar(range(len(counts)), list(counts.values()), width=0.86, color=COLOURS[0])
    axes.set_xticks(range(len(counts)), labels=list(counts), rotation=30, ha="right", parse_math=False)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    style(axes, title=title, x_label=x_label, y_label=y_label)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.tick_params(axis="x", length=0)
    save_figure(figure, path)


def plot_confusion(confusion: ArrayLike, labels: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Draws counts [gold class, predicted class], rows coloured by share; up to 20 classes with their counts.

    Of more than 50 classes the 50 most frequent are shown. Raises OSError when the file cannot be written.
    """
    from matplotlib.colors import PowerNorm

    counts, names = np.asarray(confusion), [label if len(label) <= 24 else f"{label[:23]}…" for label in labels]
    title = "Confusion matrix"
    if len(names) > MOST_CLASSES:
        kept = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_CLASSES])
        title += f" (the {MOST_CLASSES} most frequent of {len(names)} classes)"
        counts, names = counts[np.ix_(kept, kept)], [names[index] for index in kept]
    size = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(min(8.5, 2.6 + 0.75 * size), min(WIDTH_INCHES, 4.4 + 0.75 * size))
    axes = figure.subplots()
    # Coloured by the square root, so that a few errors are visible beside many right predictions.
    shown = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0))
    # 900 pixels hold about 80 lines of the smallest readable text.
    font = float(np.clip(300 / size, 5.5, 11))
    axes.set_xticks(range(size), labels=names, rotation=90 if size > 4 else 0, parse_math=False)
    axes.set_yticks(range(size), labels=names, parse_math=False)
    if size <= 20:
        for row, column in np.ndindex(size, size):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.3 else INK
                text = f"{counts[row, column]:,}"
                axes.text(
                    column, row, text, ha="center", va="center", color=colour, fontsize=font * (0.9 if size > 10 else 1)
                )
    style(axes, title=title, x_label="predicted class", y_label="class")
    edges = np.arange(size + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=30 / (size + 10))
    axes.tick_params(which="minor", length=0)
    axes.tick_params(length=0, labelsize=font)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, label="share of the class")
    bar.outline.set_visible(False)
    save_figure(figure, path)


def plot_reliability(
    series: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], path: str | os.PathLike[str], *, y_label: str
) -> None:
    """Draws the observed frequency by predicted probability, and the share of predictions in each bin.

    Args:
      series: name -> mean probability, share that was right, and count of each bin (bins of equal width over 0 to 1).
      path: the PNG file.
      y_label: what the share that was right is called.

    Raises OSError when the file cannot be written.
    """
    figure = new_figure(5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", label="honest")
    for (name, (confidence, accuracy, count)), colour in zip(series.items(), COLOURS, strict=False):
        filled = count > 0
        share = count / max(count.sum(), 1)
        upper.plot(confidence[filled], accuracy[filled], color=colour, linewidth=1, alpha=0.5)
        # A dot's area is the bin's share: a bin of three predictions must not look like a trend.
        upper.scatter(confidence[filled], accuracy[filled], s=8 + 600 * share[filled], color=colour, label=name)
        edges = np.linspace(0.0, 1.0, len(count) + 1)
        lower.stairs(share, edges, color=colour, linewidth=2)
    style(upper, title="Reliability: what came true by how sure it was", x_label="", y_label=y_label)
    style(lower, title="", x_label="probability", y_label="share of all")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    lower.set_ylim(bottom=0)
    for axes in (upper, lower):
        axes.grid(axis="y", color=GRID, linewidth=0.8)
    for handle in upper.legend(frameon=False, labelcolor=INK, loc="lower right").legend_handles[1:]:
        handle.set_sizes([40])
    save_figure(figure, path)


def plot_values(gold: np.ndarray, predicted: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Draws predicted values by true values. Raises OSError when the file cannot be written."""
    figure = new_figure(5.6)
    axes = figure.subplots()
    ends = [float(gold.min()), float(gold.max())]
    axes.plot(ends, ends, color=INK, linewidth=1, linestyle=":", label="right")
    axes.scatter(gold, predicted, s=14, color=COLOURS[0], alpha=min(1.0, max(0.1, 300 / len(gold))), linewidths=0)
    style(axes, title="Predicted by true value", x_label="true value", y_label="predicted value")
    axes.grid(color=GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=INK)
    save_figure(figure, path)


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Returns the exponential moving average over about `span` points, bias-corrected as Adam's moments are."""
    keep = 1 - 2 / (span + 1)
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight)
    return smoothed


def _points(metrics: Sequence[Mapping[str, Any]], split: str, name: str) -> Points:
    # Of a step recorded twice (a repeated evaluation) the last value counts.
    last = {line["step"]: line[name] for line in metrics if line["split"] == split and name in line}
    finite = sorted((step, value) for step, value in last.items() if math.isfinite(value))
    return [step for step, _ in finite], [value for _, value in finite]


def _draw_curve(axes: "Axes", split: str, points: Points, colour: str) -> None:
    steps, values = points
    if not steps:
        return
    if len(steps) >= SMOOTHED_FROM:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(steps, smooth(values, span=len(steps) // 20), color=colour, linewidth=2, label=f"{split}, smoothed")
    else:
        axes.plot(steps, values, color=colour, linewidth=2, marker="o", markersize=5, label=split)


def _mark_broken(axes: "Axes", metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    broken = sorted({line["step"] for line in metrics if name in line and not math.isfinite(line[name])})
    for index, step in enumerate(broken):
        label = f"NaN or infinite at {len(broken)} step{'s' * (len(broken) > 1)}" if index == 0 else None
        axes.axvline(step, color=ALARM, linewidth=1, linestyle="--", label=label)


def title_of(metric: str) -> str:
    """Returns the name of a metric as a heading."""
    words = metric.replace("_", " ")
    return words[:1].upper() + words[1:]  # not capitalize(), which makes "Mcc F1" "Mcc f1"


def whole_steps(axes: "Axes") -> None:
    """Ticks at whole numbers of steps, with thousands separators: there is no step 2.5."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def new_figure(height_inches: float, width_inches: float = WIDTH_INCHES) -> "Figure":
    """Returns an empty figure in the style of all plots."""
    from matplotlib.figure import Figure

    # The object interface instead of pyplot: no global state, no window toolkit.
    return Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")


def style(axes: "Axes", *, title: str, x_label: str, y_label: str) -> None:
    """Gives axes the style of all plots."""
    axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold", parse_math=False)
    axes.set_xlabel(x_label, color=INK, fontsize=11, parse_math=False)
    axes.set_ylabel(y_label, color=INK, fontsize=11, parse_math=False)
    axes.tick_params(colors=INK, labelsize=10)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure as a PNG file, whole or not at all; OSError where it cannot be written."""
    with atomic_write(path, binary=True) as file:
        figure.savefig(file, format="png")
