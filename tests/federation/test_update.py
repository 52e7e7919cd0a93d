"""What is sent is counted in bytes."""

import numpy as np

from jaxfm.federation.update import Update, size_of


def test_bytes_of_an_update_are_those_of_its_arrays() -> None:
    arrays = {"a": np.zeros((3, 4), np.float32), "b/c": np.zeros(5, np.float32)}
    assert size_of(arrays) == 4 * (12 + 5)
    assert Update(0, arrays, 1, 1, {}).size == 68
    assert Update(0, arrays, 1, 1, {}, control=arrays).size == 136
