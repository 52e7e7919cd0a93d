"""Plots are whole PNG files of the right size that show what was recorded."""

import math

import numpy as np
import pytest
from matplotlib.image import imread

from jaxfm.observe import plots
from jaxfm.observe.plots import (
    COLOURS,
    plot_confusion,
    plot_curves,
    plot_histogram,
    plot_lines,
    plot_per_type,
    plot_reliability,
    plot_values,
    smooth,
    split_colours,
)


def metrics_of(steps=100):
    lines = [{"step": step, "split": "train", "loss": 2 / step + 0.1} for step in range(1, steps + 1)]
    lines += [{"step": step, "split": "valid", "loss": 3 / step, "f1": 1 - 1 / step} for step in (25, 50, 75, 100)]
    return lines


def has_colour(picture, colour):
    target = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(picture[..., :3] - target).max(axis=-1) < 0.01).any())


def test_curves_show_both_splits(tmp_path):
    plot_curves(metrics_of(), tmp_path / "plots" / "curves.png")
    picture = imread(tmp_path / "plots" / "curves.png")
    assert picture.shape[:2] == (760, 1800)
    left, right = picture[:, :900], picture[:, 900:]
    train, valid = COLOURS[:2]
    assert has_colour(left, train) and has_colour(left, valid)
    assert has_colour(right, valid) and not has_colour(right, train)  # F1 is known for valid only
    assert list((tmp_path / "plots").iterdir()) == [tmp_path / "plots" / "curves.png"]


def test_a_split_has_one_colour_whatever_is_recorded_first(tmp_path):
    assert split_colours(["test", "valid", "train"]) == {"test": COLOURS[2], "valid": COLOURS[1], "train": COLOURS[0]}
    assert list(split_colours(["other", "test", "valid", "train"])) == ["train", "valid", "test", "other"]
    others = split_colours(["train", "dev_a", "dev_b"])
    assert len(set(others.values())) == 3 and others["train"] == COLOURS[0]
    plot_curves([line for line in metrics_of() if line["split"] == "valid"], tmp_path / "valid.png")
    picture = imread(tmp_path / "valid.png")
    assert has_colour(picture, COLOURS[1]) and not has_colour(picture, COLOURS[0])


def test_the_loss_has_one_panel_where_it_chose(tmp_path):
    plot_curves(metrics_of(), tmp_path / "loss.png", score="loss")
    plot_curves(metrics_of(), tmp_path / "none.png", score=None)
    np.testing.assert_array_equal(imread(tmp_path / "loss.png"), imread(tmp_path / "none.png"))


def test_steps_are_whole_numbers_and_the_chosen_one_is_marked(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(figure))
    few = [{"step": step, "split": "valid", "loss": 1.0 / step, "f1": 0.5} for step in (1, 2, 3)]
    plot_curves(few, tmp_path / "a.png", chosen=2)
    for axes in drawn[0].axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
        assert "chosen: step 2" in [text.get_text() for text in axes.get_legend().get_texts()]
        assert any(set(line.get_xdata()) == {2} for line in axes.get_lines())


def test_lines_are_drawn_with_what_they_are_compared_to(tmp_path):
    points = {"one": [(0, 1.0), (10, 0.5)], "other": [(0, 0.9), (10, 0.4)]}
    for name, level in (("with", ("by chance", 0.7)), ("without", None)):
        plot_lines(points, tmp_path / f"{name}.png", title="Loss", x_label="step", y_label="loss", level=level)
    both = [imread(tmp_path / f"{name}.png") for name in ("with", "without")]
    assert all(has_colour(picture, colour) for picture in both for colour in COLOURS[:2])
    assert not np.array_equal(both[0], both[1])


def test_a_metric_nobody_recorded_gets_no_panel(tmp_path):
    for name in ("f1", None):
        plot_curves(metrics_of(), tmp_path / f"{name}.png", score=name)
    with_score, without = (imread(tmp_path / f"{name}.png") for name in ("f1", None))
    assert has_colour(without[:, 1000:], COLOURS[0])  # the loss takes the whole width
    assert not has_colour(with_score[:, 1000:], COLOURS[0])


def test_nan_is_marked(tmp_path):
    lines = [*metrics_of(5), {"step": 3, "split": "valid", "loss": math.nan}]
    plot_curves(lines, tmp_path / "a.png", score=None)
    assert has_colour(imread(tmp_path / "a.png"), "#b00020")
    plot_curves(metrics_of(5), tmp_path / "b.png", score=None)
    assert not has_colour(imread(tmp_path / "b.png"), "#b00020")


@pytest.mark.parametrize("lines", [[], [{"step": 1, "split": "train", "loss": 1.0}]])
def test_little_or_nothing_recorded_still_draws(tmp_path, lines):
    plot_curves(lines, tmp_path / "a.png")
    assert imread(tmp_path / "a.png").shape[:2] == (760, 1800)


def test_bars_grow_with_the_score(tmp_path):
    scores = {"$A_1$": {"f1": 0.5, "support": 10}, "B": {"f1": 1.0, "support": 1000}, "C^": {"f1": 0.0, "support": 0}}
    plot_per_type(scores, tmp_path / "bars.png")
    picture = imread(tmp_path / "bars.png")
    target = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    blue = (np.abs(picture[..., :3] - target).max(axis=-1) < 0.01).sum(axis=1)
    assert blue.max() == pytest.approx(2 * blue[len(blue) // 2], rel=0.02)  # the middle bar is at 0.5
    rows = np.flatnonzero(blue)
    assert rows[0] < len(blue) / 3  # the most frequent type is on top


def test_bars_of_thousands_of_types_stay_readable(tmp_path):
    plot_per_type({f"T{index}": {"f1": 0.5, "support": index} for index in range(3000)}, tmp_path / "bars.png")
    height, width = imread(tmp_path / "bars.png").shape[:2]
    assert height < 2.5 * width


def test_smoothing_is_exact_on_a_constant_and_weights_the_recent():
    assert smooth([3.0] * 5, span=3) == pytest.approx([3.0] * 5)
    # span 3: weights 1/2, 1/4 of the newest two, normalised.
    assert smooth([0.0, 3.0], span=3) == pytest.approx([0.0, 2.0])


def test_a_histogram_has_a_bar_a_class_as_high_as_its_count(tmp_path):
    counts = {"1": 10, "2-3": 0, "4-7": 40, "$8": 20}
    plot_histogram(counts, tmp_path / "lengths.png", title="Length", x_label="pieces", y_label="documents")
    picture = imread(tmp_path / "lengths.png")
    assert picture.shape[:2] == (760, 1800)
    target = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    heights = (np.abs(picture[..., :3] - target).max(axis=-1) < 0.01).sum(axis=0)
    filled = heights > 20
    assert np.count_nonzero(filled[1:] & ~filled[:-1]) == 3  # no bar for nothing
    levels = sorted({int(height) for height in heights if np.count_nonzero(heights == height) > 100} - {0})
    np.testing.assert_allclose(np.array(levels) / levels[0], [1, 2, 4], rtol=0.05)


# Squares, dots and what is too much to read.


def size_of(path):
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


@pytest.mark.parametrize("classes", [2, 12, 50, 77])
def test_a_confusion_matrix_fits_the_page_whatever_the_classes(classes, tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (classes, classes)) + 90 * np.eye(classes, dtype=int)
    names = [f"$class_{index}^with a rather long name$" for index in range(classes)]
    plot_confusion(counts, names, tmp_path / "c.png")
    width, height = size_of(tmp_path / "c.png")
    assert 900 <= width <= 1800 and 600 <= height <= 1700


def test_confused_classes_are_darker_off_the_diagonal(tmp_path):
    for name, counts in (
        ("right", np.diag([5, 5, 5])),
        ("wrong", np.fliplr(np.diag([5, 5, 5]))),
        ("none", np.zeros((3, 3), int)),
    ):
        plot_confusion(counts, ["a", "b", "c"], tmp_path / f"{name}.png")
    right, wrong, none = (imread(tmp_path / f"{name}.png") for name in ("right", "wrong", "none"))
    assert right.shape == wrong.shape == none.shape and not np.array_equal(right, wrong)
    dark = [int((pixels[..., 2] - pixels[..., 0] > 0.25).sum()) for pixels in (right, wrong, none)]
    assert dark[0] == pytest.approx(dark[1], rel=0.02) and dark[2] < dark[0] / 3  # the colour bar alone


def test_reliability_and_values_are_drawn(tmp_path):
    bins = (np.array([0.0, 0.5, 0.9]), np.array([0.0, 0.4, 0.95]), np.array([0, 3, 7]))
    plot_reliability({"one": bins}, tmp_path / "one.png", y_label="accuracy")
    plot_reliability({"one": bins, "$other": bins}, tmp_path / "two.png", y_label="accuracy")
    assert not np.array_equal(imread(tmp_path / "one.png"), imread(tmp_path / "two.png"))
    empty = tuple(np.zeros(15) for _ in range(3))
    plot_reliability({"none": empty}, tmp_path / "none.png", y_label="accuracy")  # a split of nothing
    plot_values(np.arange(5.0), np.arange(5.0)[::-1], tmp_path / "values.png")
    plot_values(np.ones(1), np.ones(1), tmp_path / "single.png")
    assert len({size_of(path) for path in tmp_path.glob("*.png")}) == 1
