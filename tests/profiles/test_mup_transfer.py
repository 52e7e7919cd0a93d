"""What the scripts on muP compute beside training: widths, slopes, the best rate and what another costs."""

import dataclasses

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from profiles.coordinate_check import at_width, slopes
from profiles.mup_transfer import summary


def test_another_width_keeps_heads_and_ratios() -> None:
    modern = preset("modern_tiny")  # 192 wide, 3 heads of 64, ffn 288
    wide = at_width(modern, 512)
    assert (wide.hidden_size, wide.num_heads, wide.head_dim, wide.ffn_size) == (512, 8, 64, 768)
    assert dataclasses.replace(wide, hidden_size=192, num_heads=3, ffn_size=288) == modern
    with pytest.raises(UserError, match=r"--widths: 200 is no width for num_heads 3 .* Take multiples of 64"):
        at_width(modern, 200)


def test_slopes_are_exponents() -> None:
    widths = (64, 128, 512)
    sizes_WNS = np.asarray([[[3.0 * width**0.5, 2.0 / width]] for width in widths])
    np.testing.assert_allclose(slopes(widths, sizes_WNS), [[0.5, -1.0]])


def test_the_best_rate_of_the_first_width_may_cost_something_at_others() -> None:
    found = summary({64: {-8: [2.0, 2.2], -6: [3.0, 3.0]}, 128: {-8: [2.0, None], -6: [1.5, 1.7]}})
    assert [found[width]["best_exponent"] for width in (64, 128)] == [-8, -6]
    assert found[64]["cost_of_first"] == 0.0 and found[128]["cost_of_first"] == float("inf")
    assert found[128]["loss"] == pytest.approx(1.6) and found[128]["sd"] == pytest.approx(0.1414, abs=1e-3)
