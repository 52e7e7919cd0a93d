"""How long a step takes at least, and about: compute, memory and links, each at its published rate.

The formulae, and where they are known to be wrong, are in docs/scaling.md.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

from jaxfm.analysis import hlo
from jaxfm.parallel.chips import Chip
from jaxfm.planning.collectives import Collective
from jaxfm.planning.hardware import Place, Topology

HOP = 1e-6  # seconds a hop between neighbouring chips (source [b] of jaxfm.parallel.chips)


@dataclasses.dataclass(frozen=True)
class Links:
    """Seconds that a collective keeps the links busy: inside slices (or nodes), and between them."""

    inside: float = 0.0
    between: float = 0.0

    def __add__(self, other: "Links") -> "Links":
        return Links(self.inside + other.inside, self.between + other.between)

    @property
    def longest(self) -> float:
        """Both kinds work at the same time."""
        return max(self.inside, self.between)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one step of one chip.

    Attributes:
      compute: matrix products at the peak rate.
      memory: bytes from and to HBM at its bandwidth.
      links: all collectives.
      waiting: the links' part that the schedule does not overlap with computation: those without start and done.
      kernels: of everything but collectives, one after another, by the compiler's cost model or else `kernel_seconds`;
        0: not known.
    """

    compute: float
    memory: float
    links: Links
    waiting: Links
    kernels: float

    @property
    def bound(self) -> float:
        """The roofline: no step is shorter than its most loaded part takes."""
        return max(self.compute, self.memory, self.links.inside, self.links.between)

    @property
    def limited_by(self) -> str:
        """Which part that is."""
        parts = {
            "compute": self.compute,
            "memory": self.memory,
            "links in the slice": self.links.inside,
            "links between slices": self.links.between,
        }
        return max(parts, key=lambda name: parts[name])

    @property
    def step(self) -> float:
        """The prediction: kernels one after another, then what is waited for; links beside them if they take longer."""
        busy = self.kernels or max(self.compute, self.memory)
        hidden = Links(self.links.inside - self.waiting.inside, self.links.between - self.waiting.between)
        return max(self.bound, max(busy, hidden.longest) + self.waiting.inside + self.waiting.between)


def kernel_seconds(module: hlo.Module, chip: Chip) -> float:
    """Returns the seconds of all kernels of a step one after another, each at the longer of its products and its bytes.

    For chips whose compiler estimates nothing; less than any real step takes.
    """
    products: dict[tuple[str, str], float] = collections.defaultdict(float)
    moved: dict[tuple[str, str], float] = collections.defaultdict(float)
    for call in module.calls():
        computation, kernel = call.caller or (call.computation.name, call.instruction)
        products[computation, kernel.name] += call.times * hlo.matmul_flops(call) / chip.peak_flops
        moved[computation, kernel.name] += call.times * hlo.traffic(call, module) / chip.hbm_bandwidth
    return sum(max(seconds, moved[kernel]) for kernel, seconds in products.items())


def link_seconds(each: Collective, where: Sequence[Place], topology: Topology) -> Links:
    """Returns how long one run of a collective keeps the links busy.

    A ring passes S (n-1)/n bytes of an array of S bytes for an all-gather or reduce-scatter, twice that for an
    all-reduce. Between slices the chips of a slice share the array: each passes on its part.

    Args:
      each: which; its groups are places in `where`.
      where: of each device of the mesh, in the mesh's order.
      topology: of the devices.
    """
    if each.between_slices:  # what is sent is this chip's part already
        count = topology.slices
        share = {"all-reduce": 2.0, "collective-permute": 1.0 * count / (count - 1)}.get(each.kind, 1.0)
        return Links(between=share * each.size * (count - 1) / count / topology.chip.network_bandwidth)
    kinds = {tuple(where[device] for device in group) for group in (each.groups[0], each.groups[-1])}
    return max((_of_group(each.kind, each.size, group, topology) for group in kinds), key=lambda links: links.longest)


def _of_group(kind: str, size: int, group: Sequence[Place], topology: Topology) -> Links:
    chip = topology.chip
    slices = len({place.slice for place in group})
    inner = [place.coordinates for place in group if place.slice == group[0].slice]
    if kind == "collective-permute":
        return _permute(size, group, topology)
    rounds = 2 if kind == "all-reduce" else 1
    between = rounds * size / len(inner) * (slices - 1) / slices / chip.network_bandwidth if slices > 1 else 0.0
    if len(inner) < 2:
        return Links(between=between)
    moved = rounds * size * (len(inner) - 1) / len(inner)
    if chip.kind == "gpu":  # all joined to all by switches
        return Links(moved / chip.link_bandwidth, between)
    bandwidth, hops = _torus(inner, topology)
    seconds = moved / bandwidth
    if kind.endswith("all-to-all"):
        # On a ring of n what is sent passes n / 4 links on average with wrap-around ([b], part 3).
        widest = max(len({place[axis] for place in inner}) for axis in range(len(topology.shape)))
        seconds = max(seconds, size * widest / 4 / bandwidth)
    return Links(seconds + rounds * hops * HOP, between)


def _permute(size: int, pair: Sequence[Place], topology: Topology) -> Links:
    source, target = pair[0], pair[-1]
    if source.slice != target.slice:
        return Links(between=size / topology.chip.network_bandwidth)
    if topology.chip.kind == "gpu":
        return Links(size / topology.chip.link_bandwidth)
    hops = 0
    for one, other, length, wraps in zip(
        source.coordinates, target.coordinates, topology.shape, topology.wraps, strict=True
    ):
        steps = abs(one - other)
        hops += min(steps, length - steps) if wraps else steps
    # Every chip sends as far: what passes through takes its share of each link.
    return Links(size * max(hops, 1) / topology.chip.link_bandwidth + hops * HOP)


def _torus(group: Sequence[tuple[int, ...]], topology: Topology) -> tuple[float, int]:
    """Returns bytes a second out of each chip, and hops, of rings along all axes of the torus that a group lies in.

    A whole axis with wrap-around gives both directions of its link, any other one direction's worth: the chip at an end
    has one neighbour. Groups that take every k-th chip of an axis share its links with k - 1 others.
    """
    bandwidth, hops = 0.0, 0
    for axis, (length, wraps) in enumerate(zip(topology.shape, topology.wraps, strict=True)):
        used = sorted({place[axis] for place in group})
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
    """Returns the bytes a chip sends in one run of a collective by rings."""
    members = len(each.groups[0]) if each.groups else 2
    if each.kind == "collective-permute":
        return float(each.size)
    return (2 if each.kind == "all-reduce" else 1) * each.size * (members - 1) / members


def total(links: Sequence[Links]) -> Links:
    """Adds up."""
    return Links(math.fsum(each.inside for each in links), math.fsum(each.between for each in links))
