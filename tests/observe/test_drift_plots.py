"""The picture of distances: a line each, those that stand out in red, and confidences beside them."""

import pathlib

import matplotlib.figure
import numpy as np
import pytest

from jaxfm.observe import drift_plots
from jaxfm.observe.drift_plots import Line, plot_drift
from jaxfm.observe.plots import ALARM, COLOURS


def test_each_distance_is_a_line_and_each_side_a_histogram(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(drift_plots, "save_figure", lambda figure, path: drawn.append(figure))
    lines = [Line("$words$", 0.7, 0.2, True), Line("length", 0.1, 0.3, False)]
    sides = (np.asarray([0.5, 0.9, 1.0]), np.asarray([1.0, 1.0]))
    plot_drift(lines, tmp_path / "a.png", title="Drift", confidences=sides)
    left, right = drawn[0].axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["$words$", "length"]
    dots = [line for line in left.lines if line.get_marker() == "o"]
    assert [(line.get_color(), list(np.asarray(line.get_xdata()))) for line in dots] == [
        (ALARM, [0.7]),
        (COLOURS[0], [0.1]),
    ]
    shares = [patch.get_data().values for patch in right.patches]  # type: ignore[attr-defined]
    assert [float(each.sum()) for each in shares] == pytest.approx([1.0, 1.0]) and shares[1][-1] == 1.0
    plot_drift(lines, tmp_path / "a.png", title="Drift")
    assert len(drawn[1].axes) == 1


def test_the_file_is_a_picture(tmp_path: pathlib.Path) -> None:
    plot_drift([Line("a", 1.0, 0.2, True)], tmp_path / "a.png", title="Drift")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AssertionError):
        plot_drift([], tmp_path / "b.png", title="Drift")
