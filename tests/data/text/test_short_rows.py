"""A single row of text as long as it needs."""

import numpy as np
import pytest

from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.data.text.short_rows import short_row


def rows(*lengths: int, row_length: int = 128) -> PackedRows:
    tokens = [np.arange(1, length + 1, dtype=np.int32) for length in lengths]
    return build_rows(tokens, tokens, row_length, 0, None)


@pytest.mark.parametrize(("length", "wanted"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64)])
def test_a_short_text_has_a_short_row(length: int, wanted: int) -> None:
    before, after = rows(length), short_row(rows(length))
    assert len(after) == 1 and after.volume.per_row == wanted and after.volume.useful_per_row == length
    old, new = before.take(np.zeros(1, int)), after.take(np.zeros(1, int))
    assert old.keys() == new.keys() == after.spec.keys()
    for name, values in new.items():
        assert values.shape[1:] == after.spec[name].shape and values.dtype == old[name].dtype
        np.testing.assert_array_equal(values, old[name][:, :wanted])


@pytest.mark.parametrize("lengths", [(65,), (128,), (100, 100), (60, 60)])
def test_other_rows_stay_as_they_are(lengths: tuple[int, ...]) -> None:
    before = rows(*lengths)
    assert short_row(before) is before


def test_no_row_and_rows_that_are_short_already_stay() -> None:
    for before in (rows(), rows(5, row_length=16)):
        assert short_row(before) is before
