"""Pictures of intervals: gaps with a line each, the first ones where there are too many; panels of scores."""

import pathlib

import matplotlib.figure
import numpy as np
import PIL.Image
import pytest

from jaxfm.observe import interval_plots
from jaxfm.observe.interval_plots import MOST, plot_gaps, plot_intervals


def test_each_interval_is_a_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(interval_plots, "save_figure", lambda figure, path: drawn.append(figure))
    lines = [(f"$group {number}$", number / 10, -0.1, 0.2, number == 0) for number in range(MOST + 3)]
    plot_gaps(lines, tmp_path / "a.png", title="Gaps", x_label="gap")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [line[0] for line in lines[:MOST]][::-1]
    assert axes.get_title(loc="left") == f"Gaps: the first {MOST} of {MOST + 3}"
    colours = {line.get_color() for line in axes.lines}
    assert interval_plots.ALARM in colours and len(axes.lines) == 2 * MOST + 1


def test_every_panel_has_its_points(tmp_path: pathlib.Path) -> None:
    panels = {"more": {"random": (0.1, 0.0, 0.2), "$a$": (0.5, 0.4, 0.6)}, "less": {"$a$": (0.2, 0.1, 0.3)}}
    plot_intervals(panels, tmp_path / "a.png", title="two", beside=("random",))
    drawn = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(drawn, axis=0).tolist()}
    assert {(0, 114, 178), (154, 165, 180)} <= colours
    with pytest.raises(AssertionError):
        plot_intervals({"more": {}}, tmp_path / "b.png", title="none")
