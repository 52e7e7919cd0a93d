"""Fewer heads than the width has room for, written for transformers: filled up with zeros, the same outputs."""

import dataclasses
import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.hub.whole_heads import with_whole_heads
from jaxfm.models.subnets import Subnet, cut, cut_encoder
from tests.models.test_subnets import POST, batch, make_model, wide, with_params


def test_heads_of_zeros_change_nothing() -> None:
    encoder = dataclasses.replace(POST, family="bert")
    small = cut_encoder(encoder, Subnet(4, 3, 32))
    params = cut(wide(encoder), encoder, Subnet(4, 3, 32))
    whole, filled = with_whole_heads(small, params)
    assert (whole.num_heads, whole.head_size, whole.head_dim) == (4, 0, 6) and whole == encoder
    before, after = (
        with_params(make_model(shape), dict(each))(batch()) for shape, each in ((small, params), (whole, filled))
    )
    np.testing.assert_allclose(before, after, atol=1e-6)
    assert with_whole_heads(encoder, params)[1] is params


def test_families_that_say_the_width_of_heads_stay_as_they_are() -> None:
    gemma = preset("embedding_gemma")
    assert gemma.num_heads * gemma.head_dim == gemma.hidden_size
    fewer = dataclasses.replace(gemma, num_heads=2, head_size=256)
    assert with_whole_heads(fewer, {})[0] is fewer


def test_heads_of_no_whole_number_are_refused(tmp_path: pathlib.Path) -> None:
    odd = dataclasses.replace(POST, family="bert", num_heads=2, head_size=10)
    with pytest.raises(UserError, match="transformers' bert has heads of 24 / 2 numbers, and these have 10"):
        with_whole_heads(odd, {})
