import dataclasses

import pytest

from jaxfm.analysis import hlo
from jaxfm.parallel.chips import CHIPS
from jaxfm.planning.collectives import Collective
from jaxfm.planning.hardware import DeviceLocation, Topology, parse_topology
from jaxfm.planning.roofline import (
    HOP,
    LinkSeconds,
    Times,
    cost_per_billion_tokens,
    kernel_seconds,
    link_seconds,
    ring_bytes,
)

MB = 10**6


def grid(topology: Topology) -> list[DeviceLocation]:
    """All locations of a topology, the last axis fastest."""
    locations = [DeviceLocation(number, ()) for number in range(topology.slices)]
    for length in topology.shape:
        locations = [DeviceLocation(p.slice, (*p.coordinates, number)) for p in locations for number in range(length)]
    return locations


def collective(kind: str, size: int, *groups: tuple[int, ...], between: bool = False) -> Collective:
    return Collective(kind, kind, ("data",), True, groups, size, 1, False, between)


def inside(name: str, each: Collective) -> float:
    topology = parse_topology(name)
    found = link_seconds(each, grid(topology), topology)
    assert found.between == 0
    return found.inside


LINE = tuple(range(16))  # along the second axis of a 16 x 16


def test_gather_along_a_closed_axis_uses_both_directions() -> None:
    # 15/16 of 96 MB over a ring of two directions of 45 GB/s each, 8 hops to the far side.
    expected = 96 * MB * 15 / 16 / 90e9 + 8 * HOP
    assert inside("v5e:16x16", collective("all-gather", 96 * MB, LINE)) == pytest.approx(expected)


def test_reduce_is_scatter_and_gather() -> None:
    one = inside("v5e:16x16", collective("reduce-scatter", 96 * MB, LINE))
    assert inside("v5e:16x16", collective("all-reduce", 96 * MB, LINE)) == pytest.approx(2 * one)


def test_gather_along_an_open_axis_uses_one_direction() -> None:
    expected = 96 * MB * 3 / 4 / 45e9 + 3 * HOP
    assert inside("v5e:4x4", collective("all-gather", 96 * MB, (0, 1, 2, 3))) == pytest.approx(expected)


def test_a_whole_slice_uses_the_links_of_both_axes() -> None:
    expected = 2 * 96 * MB * 255 / 256 / (2 * 90e9) + 2 * 16 * HOP
    assert inside("v5e:16x16", collective("all-reduce", 96 * MB, tuple(range(256)))) == pytest.approx(expected)


def test_three_axes_of_a_v5p() -> None:
    expected = 96 * MB * 127 / 128 / (3 * 180e9) + (2 + 2 + 4) * HOP
    assert inside("v5p:4x4x8", collective("all-gather", 96 * MB, tuple(range(128)))) == pytest.approx(expected)


def test_groups_of_every_other_chip_share_links() -> None:
    near = inside("v5e:8x8", collective("all-gather", 96 * MB, (0, 1, 2, 3)))
    far = inside("v5e:8x8", collective("all-gather", 96 * MB, (0, 2, 4, 6)))
    assert far - 6 * HOP == pytest.approx(2 * (near - 3 * HOP))


def test_exchange_takes_a_quarter_of_a_gather_of_all_parts() -> None:
    # Of all parts together 16 * 96 MB: a quarter of what gathering them takes.
    expected = 16 * 96 * MB / 4 / 90e9 + 8 * HOP
    assert inside("v5e:16x16", collective("all-to-all", 96 * MB, LINE)) == pytest.approx(expected)


@pytest.mark.parametrize(("pair", "hops"), [((0, 1), 1), ((0, 5), 5), ((0, 15), 1), ((0, 17), 2)])
def test_a_permute_takes_the_shortest_way(pair: tuple[int, int], hops: int) -> None:
    expected = hops * (9 * MB / 45e9 + HOP)
    assert inside("v5e:16x16", collective("collective-permute", 9 * MB, pair)) == pytest.approx(expected)


def test_a_switch_joins_all_gpus_of_a_node() -> None:
    expected = 2 * 90 * MB * 7 / 8 / 450e9
    assert inside("gpu:h100:8", collective("all-reduce", 90 * MB, tuple(range(8)))) == pytest.approx(expected)


def test_between_nodes_every_gpu_passes_on_its_part() -> None:
    topology = parse_topology("gpu:h100:16")
    locations = [DeviceLocation(number // 8, (number % 8,)) for number in range(16)]
    found = link_seconds(collective("all-reduce", 80 * MB, tuple(range(16))), locations, topology)
    assert found.inside == pytest.approx(2 * 80 * MB * 7 / 8 / 450e9)
    assert found.between == pytest.approx(2 * 80 * MB / 8 / 2 / 50e9)


def test_what_leaves_a_slice_is_a_chips_part_already() -> None:
    topology = parse_topology("v5e:16x16", slices=4)
    found = link_seconds(collective("all-reduce", 8 * MB, between=True), grid(topology), topology)
    assert found == LinkSeconds(0.0, pytest.approx(2 * 8 * MB * 3 / 4 / 3.125e9))


TIMES = Times(compute=5.0, memory=3.0, links=LinkSeconds(4.0, 2.0), waiting=LinkSeconds(1.0, 0.5), kernels=8.0)


def test_no_step_is_shorter_than_its_most_loaded_part() -> None:
    assert (TIMES.bound, TIMES.limited_by) == (5.0, "compute")
    slow = dataclasses.replace(TIMES, links=LinkSeconds(4.0, 9.0))
    assert (slow.bound, slow.limited_by) == (9.0, "links between slices")


def test_a_step_is_its_kernels_and_what_they_wait_for() -> None:
    assert TIMES.step == 8.0 + 1.0 + 0.5


def test_links_that_take_longer_than_kernels_are_not_hidden() -> None:
    slow = dataclasses.replace(TIMES, links=LinkSeconds(13.0, 2.0))
    assert slow.step == (13.0 - 1.0) + 1.0 + 0.5


def test_without_the_compilers_estimate_compute_or_memory_stands_for_kernels() -> None:
    assert dataclasses.replace(TIMES, kernels=0.0).step == 5.0 + 1.0 + 0.5


def test_cost() -> None:
    # 1e9 tokens at 1e6 a second take 1,000 s on 36 chips: 10 chip hours.
    assert cost_per_billion_tokens(1.2, 36, 1e6) == pytest.approx(12.0)


@pytest.mark.parametrize(("kind", "expected"), [("all-reduce", 1.5), ("all-gather", 0.75), ("collective-permute", 1.0)])
def test_bytes_that_a_ring_sends(kind: str, expected: float) -> None:
    assert ring_bytes(collective(kind, 1000, (0, 1, 2, 3))) == 1000 * expected


def test_each_kernel_takes_the_longer_of_its_products_and_its_bytes() -> None:
    module = hlo.parse(
        """HloModule step
ENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0} parameter(0)
  %dot = f32[1024,1024]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %sum = f32[1024,1024]{1,0} add(%dot, %x)
}
"""
    )
    moved = 3 * 4 * 2**20  # both kernels: two operands and a result
    slow = dataclasses.replace(CHIPS["h100"], peak_flops=1e9, hbm_bandwidth=1e12)
    assert kernel_seconds(module, slow) == pytest.approx(2 * 1024**3 / 1e9 + moved / 1e12)
    fast = dataclasses.replace(slow, peak_flops=1e18)
    assert kernel_seconds(module, fast) == pytest.approx(2 * moved / 1e12)
