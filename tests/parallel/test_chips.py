import math

import pytest

from jaxfm.parallel import chips
from jaxfm.parallel.chips import CHIPS, peak_flops


def test_figures_agree_with_each_other() -> None:
    for chip in CHIPS.values():
        # A kernel that reads a byte for each 100 to 700 operations keeps both busy on any of these.
        assert 100 < chip.peak_flops / chip.hbm_bandwidth < 700, chip.name
        assert chip.network_bandwidth < chip.link_bandwidth < chip.hbm_bandwidth, chip.name
        if chip.kind == "tpu":
            # A matrix unit is square, of a power of two: the clock follows from the peak.
            products = chip.peak_flops / chip.clock / 2
            assert math.log2(products) == pytest.approx(round(math.log2(products)), abs=0.01), chip.name


def test_every_source_is_named() -> None:
    assert chips.__doc__ is not None
    for letter in "abcde":
        assert f"[{letter}]" in chips.__doc__


@pytest.mark.parametrize(
    ("kind", "chip"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("TPU v5 lite", "v5e"), ("TPU v5", "v5p")],
)
def test_a_device_is_known_by_the_name_that_jax_has_for_it(kind: str, chip: str) -> None:
    assert peak_flops(kind) == CHIPS[chip].peak_flops


# Slower chips of the same family must not pass for the fast one, nor a core of an older TPU for a chip.
@pytest.mark.parametrize("kind", ["cpu", "", "NVIDIA H200 NVL", "NVIDIA H100 PCIe", "TPU v3", "NVIDIA RTX 4090"])
def test_of_other_devices_nothing_is_claimed(kind: str) -> None:
    assert peak_flops(kind) is None
