"""Pictures of learning in stages: a cell a score, a line a method, nothing where no score is defined."""

import pathlib

import matplotlib.figure
import numpy as np
import pytest

from jaxfm.observe import continual_plots
from jaxfm.observe.continual_plots import plot_averages, plot_matrices, plot_stages

STAGES = ("$first$", "second", "a third one with a long name")
MATRICES = {
    "naive": [[0.9, None, None], [0.2, 0.8, None], [0.1, 0.3, 0.7]],
    "joint": [[0.9, 0.5, 0.4], [0.85, 0.8, 0.45], [0.8, 0.8, 0.75]],
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    found: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(continual_plots, "save_figure", lambda figure, path: found.append(figure))
    return found


def test_a_heat_map_a_method(drawn: list[matplotlib.figure.Figure], tmp_path: pathlib.Path) -> None:
    plot_matrices(MATRICES, STAGES, tmp_path / "a.png", y_label="f1")
    panels = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == list(MATRICES)
    assert [text.get_text() for text in panels[0].texts] == ["0.90", "0.20", "0.80", "0.10", "0.30", "0.70"]
    assert len(panels[1].texts) == 9
    assert {text.get_color() for text in panels[0].texts} == {"white", continual_plots.INK}  # readable on both ends
    limits = {axes.images[0].get_clim() for axes in panels}
    assert limits == {(0.1, 0.9)}  # one scale for all
    assert [text.get_text() for text in panels[0].get_yticklabels()] == ["$first$", "second", "a third one w…"]


def test_lines_of_averages_and_stages(drawn: list[matplotlib.figure.Figure], tmp_path: pathlib.Path) -> None:
    curves = {f"method {number}": [0.5, 0.4 + number / 100, 0.3] for number in range(10)}
    plot_averages(curves, STAGES, tmp_path / "a.png", y_label="mean")
    lines = drawn[0].axes[0].lines
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == 10  # no two alike
    np.testing.assert_array_equal(lines[3].get_ydata(), curves["method 3"])
    plot_stages(MATRICES, STAGES, tmp_path / "b.png", y_label="f1")
    panels = drawn[1].axes
    assert [np.asarray(line.get_xdata()).tolist() for line in panels[1].lines] == [[1, 2], [1, 2]]
    assert [np.asarray(line.get_ydata()).tolist() for line in panels[0].lines] == [[0.9, 0.2, 0.1], [0.9, 0.85, 0.8]]


def test_scores_that_are_all_the_same(tmp_path: pathlib.Path) -> None:
    plot_matrices({"a": [[0.5, None], [0.5, 0.5]]}, ["x", "y"], tmp_path / "a.png", y_label="f1")
    plot_stages({"a": [[0.5, None], [0.5, 0.5]]}, ["x", "y"], tmp_path / "b.png", y_label="f1")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("a.png", "b.png"))
