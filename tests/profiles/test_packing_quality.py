"""Layouts of the examples of a step: every example once an epoch, nothing cut, the same whatever the layout."""

import itertools

import numpy as np
import pytest

from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError
from profiles import packing_quality
from profiles.packing_quality import Data, parse_cell

EXAMPLES, A_STEP, PAD = 64, 8, 0


@pytest.fixture(scope="module")
def data() -> Data:
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 12, EXAMPLES)
    # Every example has tokens of its own: its number and its class can be read off the first.
    tokens = [np.full(length, number + 1, np.int32) for number, length in enumerate(lengths)]
    return Data(tokens, np.arange(EXAMPLES, dtype=np.int32) % 3)


@pytest.mark.parametrize("name", ["packed:1", "packed:2", "in_order:1", "single:8", "drawn:1", "drawn:2"])
def test_an_epoch_has_every_example_once_and_whole(data: Data, name: str) -> None:
    cell = parse_cell(name)
    row_length = packing_quality.choose_length(cell, data.lengths, int(data.lengths.max()), A_STEP)
    segments = 1 if cell.layout == "single" else row_length // int(data.lengths.min())
    batches = packing_quality.stream(cell, data, row_length, segments, PAD, 0, A_STEP)
    seen: list[int] = []
    for batch in itertools.islice(batches, EXAMPLES // A_STEP if cell.layout in ("single", "drawn") else 40):
        assert batch["tokens"].shape == (cell.rows, row_length)
        tokens, targets = packing_quality.examples_of(batch)
        for example, target in zip(tokens, targets, strict=True):
            number = int(example[0]) - 1
            assert (example == number + 1).all() and len(example) == data.lengths[number]
            assert target == data.targets[number]
            seen.append(number)
    assert sorted(seen[:EXAMPLES]) == list(range(EXAMPLES))


def test_rows_in_order_keep_the_order(data: Data) -> None:
    lengths = data.lengths[shuffled(EXAMPLES, 3)]
    rows = packing_quality.lay_out("in_order", lengths, 40)
    assert np.concatenate(rows).tolist() == list(range(EXAMPLES))
    assert all(lengths[row].sum() <= 40 for row in rows)
    assert all(lengths[row].sum() + lengths[after[0]] > 40 for row, after in itertools.pairwise(rows))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pakced:1", "'pakced' is no layout. Did you mean 'packed'"),
        ("packed", "needs the number of rows a step, as packed:4"),
        ("packed:0", "needs the number of rows"),
        ("packed:1/dropout", "'dropout' is no option. Did you mean 'nodropout'"),
    ],
)
def test_what_is_no_cell_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_cell(text)


def test_scores_are_those_of_their_definitions() -> None:
    found = packing_quality.scores(np.asarray([0, 1, 1]), np.asarray([[2.0, 0.0], [0.0, 2.0], [1.0, 0.0]]))
    assert found["accuracy"] == pytest.approx(66.67)
    assert found["loss"] == pytest.approx((2 * np.log1p(np.exp(-2)) + np.log1p(np.exp(1))) / 3, abs=1e-4)
    assert found["mcc"] == pytest.approx(50.0)


def test_differences_are_over_the_seeds_that_both_cells_have() -> None:
    cells = {
        "a": {"0": {"mcc": 1.0}, "1": {"mcc": 2.0}, "2": {"mcc": 9.0}},
        "b": {"0": {"mcc": 2.0}, "1": {"mcc": 5.0}},
    }
    found = packing_quality.summarise(cells, ["mcc"])
    assert found["a"] == {"seeds": 3, "mcc": {"mean": 4.0, "sd": pytest.approx(4.36)}}
    assert found["b"]["mcc"] == {"mean": 3.5, "sd": pytest.approx(2.12), "difference": 2.0, "standard_error": 1.0}
