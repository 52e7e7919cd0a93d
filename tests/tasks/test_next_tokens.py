"""Targets of next-token prediction, by hand."""

import dataclasses

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.tasks.next_tokens import check_causal, next_token_logits, next_token_targets
from tests import tiny


def test_targets_end_with_their_segment() -> None:
    tokens = np.asarray([[7, 8, 9, 7, 5, 6, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0]])
    segments = np.asarray([[1, 1, 1, 2, 3, 3, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])
    wanted = [[8, 9, -1, -1, 6, -1, -1, -1], [-1] * 8]
    assert np.asarray(next_token_targets(tokens, segments)).tolist() == wanted
    # Of a row that is full, the last token has nothing after it; token 0 is a target like any other.
    assert np.asarray(next_token_targets(np.asarray([[3, 0, 2]]), np.ones((1, 3), int))).tolist() == [[0, 2, -1]]


@pytest.mark.parametrize(("chunk", "positions"), [(0, 16), (4, 4), (99, 16)])
def test_logits_in_memory_are_those_of_a_chunk(chunk: int, positions: int) -> None:
    assert next_token_logits(100, 16, chunk) == 100 * positions


def test_an_encoder_that_counts_masks_is_refused() -> None:
    check_causal(tiny.ENCODER, "KEY")
    with pytest.raises(UserError, match=r"^KEY: esm rescales all embeddings of a text by the number of masks"):
        check_causal(dataclasses.replace(tiny.ENCODER, family="esm", token_dropout_id=4), "KEY")
