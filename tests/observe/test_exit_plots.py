"""The plot of early exit is a whole PNG file with the curve, the heads and the chosen point."""

import pathlib

import pytest
from matplotlib.image import imread

from jaxfm.observe.exit_plots import plot_exits
from jaxfm.observe.plots import COLOURS
from tests.observe.test_plots import has_colour


@pytest.mark.parametrize("chosen", [None, (3.1, 0.89)])
def test_the_curve_the_heads_and_the_chosen_point_are_seen(
    tmp_path: pathlib.Path, chosen: tuple[float, float] | None
) -> None:
    curve, heads = [(6.0, 0.9), (3.1, 0.89), (2.0, 0.8)], {2: 0.8, 4: 0.88, 6: 0.9}
    plot_exits(curve, heads, chosen, tmp_path / "exits.png", metric="accuracy", split="valid")
    picture = imread(tmp_path / "exits.png")
    assert picture.shape[:2] == (880, 1800)
    assert has_colour(picture, COLOURS[0]) and has_colour(picture, COLOURS[4])
    assert has_colour(picture, COLOURS[1]) == (chosen is not None)
