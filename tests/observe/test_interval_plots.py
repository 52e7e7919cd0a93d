"""Scores with intervals as a picture."""

import pathlib

import numpy as np
import PIL.Image
import pytest

from jaxfm.observe.interval_plots import plot_intervals


def test_every_panel_has_its_points(tmp_path: pathlib.Path) -> None:
    panels = {"more": {"random": (0.1, 0.0, 0.2), "$a$": (0.5, 0.4, 0.6)}, "less": {"$a$": (0.2, 0.1, 0.3)}}
    plot_intervals(panels, tmp_path / "a.png", title="two", beside=("random",))
    drawn = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(drawn, axis=0).tolist()}
    assert {(0, 114, 178), (154, 165, 180)} <= colours
    with pytest.raises(AssertionError):
        plot_intervals({"more": {}}, tmp_path / "b.png", title="none")
