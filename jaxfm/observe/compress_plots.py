"""A picture of smaller forms of a model: their scores over their sizes and over how long they take."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure, style, title_of

_OTHER = "#9aa5b4"


class Form(NamedTuple):
    """A form of a model.

    Attributes:
      number: that it has in the table.
      score: on the validation split.
      size: as a share of the first model's.
      latency: likewise.
      on_front: whether no other form is as good in all three and better in one.
      is_first: whether it is the first model itself.
      is_chosen: whether it is the one that is written.
    """

    number: int
    score: float
    size: float
    latency: float
    on_front: bool
    is_first: bool = False
    is_chosen: bool = False


def plot_forms(forms: Sequence[Form], path: str | os.PathLike[str], *, metric: str) -> None:
    """Draws score over size and over latency, numbers as in the table. Raises OSError when it cannot be written."""
    figure = new_figure(4.4)
    panels = figure.subplots(1, 2, sharey=True)
    label = title_of(metric)
    for axes, name, shares in (
        (panels[0], "size", [each.size for each in forms]),
        (panels[1], "latency", [each.latency for each in forms]),
    ):
        for words, colour, some in (
            ("surpassed", _OTHER, [not each.on_front for each in forms]),
            ("Pareto front", COLOURS[0], [each.on_front for each in forms]),
        ):
            points = [(x, each.score) for x, each, shown in zip(shares, forms, some, strict=True) if shown]
            if points:
                axes.scatter(*zip(*points, strict=True), s=40, color=colour, label=words)
        for x, each in zip(shares, forms, strict=True):
            if each.is_chosen:
                axes.scatter(
                    [x], [each.score], s=150, facecolors="none", edgecolors=COLOURS[1], linewidths=2, label="written"
                )
            text = "first" if each.is_first else str(each.number)
            axes.annotate(text, (x, each.score), xytext=(6, 5), textcoords="offset points", color=INK, fontsize=9)
        is_left = name == "size"
        style(
            axes,
            title=f"{label} by {name}",
            x_label=f"{name}, share of the first model's",
            y_label=f"{label} on valid" if is_left else "",
        )
        axes.set_xlim(0, max(1.05, *shares) * 1.08)
        axes.grid(color=GRID, linewidth=0.8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, labelcolor=INK)
    save_figure(figure, path)
