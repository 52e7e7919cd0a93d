"""What transformers is given of a packed batch."""

import numpy as np
import pytest

from profiles.mlm_convergence import sequences


def test_every_packed_example_becomes_a_sequence() -> None:
    torch = pytest.importorskip("torch", reason="the other side of the comparison")
    batch = {
        "tokens": np.array([[5, 6, 7, 8, 9, 0]], np.int32),
        "segment_ids": np.array([[1, 1, 2, 2, 2, 0]], np.int32),
        "labels": np.array([[-1, 6, 7, -1, -1, -1]], np.int32),
    }
    made = sequences(batch, pad_id=3)
    assert made["input_ids"].tolist() == [[5, 6, 3], [7, 8, 9]]
    assert made["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert made["labels"].tolist() == [[-100, 6, -100], [7, -100, -100]]
    assert made["input_ids"].dtype == torch.int64
