"""A lower bound and an estimate of a step's time: compute, memory and links, each at its published rate.

The formulae and their known errors are in docs/scaling.md.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

from jaxfm.analysis import hlo
from jaxfm.parallel.chips import Chip
from jaxfm.planning.collectives import Collective
from jaxfm.planning.hardware import DeviceLocation, Topology

HOP = 1e-6  # seconds a hop between neighbouring chips (source [b] of jaxfm.parallel.chips)


@dataclasses.dataclass(frozen=True)
class LinkSeconds:
    """Seconds during which collectives keep links busy: those inside slices (or nodes), and those between them."""

    inside: float = 0.0
    between: float = 0.0

    def __add__(self, other: "LinkSeconds") -> "LinkSeconds":
        return LinkSeconds(self.inside + other.inside, self.between + other.between)

    @property
    def longest(self) -> float:
        """The longer of the two, which work at the same time."""
        return max(self.inside, self.between)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one step of one chip.

    Attributes:
      compute: matrix products at the peak rate.
      memory: bytes from and to HBM at its bandwidth.
      links: all collectives.
      waiting: the part of `links` that the schedule does not overlap with computation: collectives without a start
        and a done.
      kernels: everything but collectives, one after another, by the compiler's cost model or, without one, by
        `kernel_seconds`; 0: unknown.
    """

    compute: float
    memory: float
    links: LinkSeconds
    waiting: LinkSeconds
    kernels: float

    @property
    def bound(self) -> float:
        """The roofline: a step takes at least as long as its most loaded part."""
        return max(self.compute, self.memory, self.links.inside, self.links.between)

    @property
    def limited_by(self) -> str:
        """The name of the part that gives `bound`."""
        parts = {
            "compute": self.compute,
            "memory": self.memory,
            "links in the slice": self.links.inside,
            "links between slices": self.links.between,
        }
        return max(parts, key=lambda name: parts[name])

    @property
    def step(self) -> float:
        """The prediction: kernels one after another, or the overlapped links if those take longer; plus the waiting."""
        busy = self.kernels or max(self.compute, self.memory)
        overlapped = LinkSeconds(self.links.inside - self.waiting.inside, self.links.between - self.waiting.between)
        return max(self.bound, max(busy, overlapped.longest) + self.waiting.inside + self.waiting.between)


def kernel_seconds(module: hlo.Module, chip: Chip) -> float:
    """Returns the seconds of all kernels of a step one after another, each limited by its products or by its bytes.

    For chips whose compiler gives no estimate; a lower bound of any real step.
    """
    products: dict[tuple[str, str], float] = collections.defaultdict(float)
    moved: dict[tuple[str, str], float] = collections.defaultdict(float)
    for call in module.calls():
        computation, kernel = call.caller or (call.computation.name, call.instruction)
        products[computation, kernel.name] += call.times * hlo.matmul_flops(call) / chip.peak_flops
        moved[computation, kernel.name] += call.times * hlo.traffic(call, module) / chip.hbm_bandwidth
    return sum(max(seconds, moved[kernel]) for kernel, seconds in products.items())


def link_seconds(each: Collective, locations: Sequence[DeviceLocation], topology: Topology) -> LinkSeconds:
    """Returns the seconds during which one run of a collective keeps the links busy.

    In a ring each of n chips sends S (n-1)/n bytes of an array of S bytes for an all-gather or reduce-scatter, twice
    that for an all-reduce. Between slices each chip of a slice sends only its part of the array.

    Args:
      each: the collective; its groups are indices into `locations`.
      locations: of each device of the mesh, in the mesh's order.
      topology: of the devices.
    """
    if each.between_slices:  # the size is that of this chip's part
        count = topology.slices
        share = {"all-reduce": 2.0, "collective-permute": 1.0 * count / (count - 1)}.get(each.kind, 1.0)
        return LinkSeconds(between=share * each.size * (count - 1) / count / topology.chip.network_bandwidth)
    kinds = {tuple(locations[device] for device in group) for group in (each.groups[0], each.groups[-1])}
    return max(
        (_group_seconds(each.kind, each.size, group, topology) for group in kinds), key=lambda links: links.longest
    )


def _group_seconds(kind: str, size: int, group: Sequence[DeviceLocation], topology: Topology) -> LinkSeconds:
    chip = topology.chip
    slices = len({location.slice for location in group})
    inner = [location.coordinates for location in group if location.slice == group[0].slice]
    if kind == "collective-permute":
        return _permute_seconds(size, group, topology)
    rounds = 2 if kind == "all-reduce" else 1
    between = rounds * size / len(inner) * (slices - 1) / slices / chip.network_bandwidth if slices > 1 else 0.0
    if len(inner) < 2:
        return LinkSeconds(between=between)
    moved = rounds * size * (len(inner) - 1) / len(inner)
    if chip.kind == "gpu":  # switches join every GPU of a node to every other
        return LinkSeconds(moved / chip.link_bandwidth, between)
    bandwidth, hops = _torus_rings(inner, topology)
    seconds = moved / bandwidth
    if kind.endswith("all-to-all"):
        # On a ring of n with wrap-around a message crosses n / 4 links on average ([b], part 3).
        widest = max(len({coordinates[axis] for coordinates in inner}) for axis in range(len(topology.shape)))
        seconds = max(seconds, size * widest / 4 / bandwidth)
    return LinkSeconds(seconds + rounds * hops * HOP, between)


def _permute_seconds(size: int, pair: Sequence[DeviceLocation], topology: Topology) -> LinkSeconds:
    source, target = pair[0], pair[-1]
    if source.slice != target.slice:
        return LinkSeconds(between=size / topology.chip.network_bandwidth)
    if topology.chip.kind == "gpu":
        return LinkSeconds(size / topology.chip.link_bandwidth)
    hops = 0
    for one, other, length, wraps in zip(
        source.coordinates, target.coordinates, topology.shape, topology.wraps, strict=True
    ):
        steps = abs(one - other)
        hops += min(steps, length - steps) if wraps else steps
    # Every chip sends over the same distance, so each link carries `hops` messages.
    return LinkSeconds(size * max(hops, 1) / topology.chip.link_bandwidth + hops * HOP)


def _torus_rings(group: Sequence[tuple[int, ...]], topology: Topology) -> tuple[float, int]:
    """Returns bytes a second out of each chip, and hops, of rings along all axes of the torus that a group spans.

    A whole axis with wrap-around gives the bandwidth of both directions of a link, any other axis that of one: the chip
    at an end has one neighbour. Groups of every k-th chip of an axis share its links with k - 1 other groups.
    """
    bandwidth, hops = 0.0, 0
    for axis, (length, wraps) in enumerate(zip(topology.shape, topology.wraps, strict=True)):
        used = sorted({coordinates[axis] for coordinates in group})
        if len(used) < 2:
            continue
        ring = wraps and len(used) == length
        stride = min(after - before for before, after in zip(used, used[1:], strict=False))
        bandwidth += topology.chip.link_bandwidth * (2 if ring else 1) / stride
        hops += len(used) // 2 if ring else used[-1] - used[0]
    return bandwidth, hops


def cost_per_billion_tokens(price: float, chips: int, tokens_per_second: float) -> float:
    """Returns USD for 1e9 tokens at `price` USD a chip and hour."""
    return price * chips / 3600 / tokens_per_second * 1e9


def ring_bytes(each: Collective) -> float:
    """Returns the bytes that a chip sends in one run of a collective implemented by rings."""
    members = len(each.groups[0]) if each.groups else 2
    if each.kind == "collective-permute":
        return float(each.size)
    return (2 if each.kind == "all-reduce" else 1) * each.size * (members - 1) / members


def total(links: Sequence[LinkSeconds]) -> LinkSeconds:
    """Returns the sum."""
    return LinkSeconds(math.fsum(each.inside for each in links), math.fsum(each.between for each in links))
