"""Accelerators and how they are joined: published figures, each with its source, and the topologies there are.

Sources, by the letters used below:
[a] Google Cloud, "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" (docs.cloud.google.com/tpu/docs/v4 ... v6e): peak bf16
    compute, HBM bandwidth, shapes of slices, network cards of a host (v5e: 2 x 100 Gbit/s for 8 chips; v6e: 4 x 200
    Gbit/s for 8; v5p: 50 Gbit/s a chip).
[b] Austin et al. 2025, "How to Scale Your Model", part 2 (jax-ml.github.io/scaling-book/tpus): bandwidth of one ICI
    link in one direction as it is met in practice (a tenth below the data sheets of v5e, v5p and v6e), wrap-around
    only where an axis is 16 (v5e, v6e) or a multiple of 4 (v4, v5p), about 1 us a hop, 6.25e9 bytes/s a chip between
    slices where nothing else is said.
[c] What the compiler itself (libtpu 0.0.42) says it has of the HBM when a program does not fit.
[d] NVIDIA, data sheets of A100 80GB SXM, H100 SXM and H200 SXM: dense bf16 (half of the figure "with sparsity"),
    memory, NVLink in both directions (halved here); one 400 Gbit/s network card a GPU (A100: 200) as in DGX systems.
[e] Clock: peak compute / (2 x products that the matrix units start in a cycle): v4 and v5p 2 cores x 4 units of
    128 x 128, v5e 4 units of 128 x 128, v6e as many products as 4 units of 256 x 256 at the 1.75 GHz of a v5p.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxfm.errors import UserError, did_you_mean

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, in bytes, seconds and floating-point operations.

    Attributes:
      name: as topologies name it.
      kind: "tpu" or "gpu".
      peak_flops: of dense bf16 matrix products a second.
      hbm: bytes that a program can have.
      hbm_bandwidth: bytes a second.
      link_bandwidth: bytes a second of one link in one direction (of a GPU: of all its NVLinks together).
      network_bandwidth: bytes a second and chip out of its slice (of a GPU: out of its node).
      node: chips of a GPU node; 0 for TPUs, whose slices say it.
      clock: cycles a second that the TPU compiler's estimates are of; 0: it makes none.
    """

    name: str
    kind: str
    peak_flops: float
    hbm: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    node: int = 0
    clock: float = 0.0


# TPU: peak, HBM bandwidth [a]; HBM [c]; links [b]; network [a], of v4 [b]; clock [e]. GPU: all [d].
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 275e12, 30.75 * GIB, 1.228e12, 4.5e10, 6.25e9, clock=1.05e9),
        Chip("v5e", "tpu", 197e12, 15.75 * GIB, 8.19e11, 4.5e10, 3.125e9, clock=1.5e9),
        Chip("v5p", "tpu", 459e12, 95.74 * GIB, 2.765e12, 9e10, 6.25e9, clock=1.75e9),
        Chip("v6e", "tpu", 918e12, 31.25 * GIB, 1.638e12, 9e10, 1.25e10, clock=1.75e9),
        Chip("a100", "gpu", 312e12, 80e9, 2.039e12, 3e11, 2.5e10, node=8),
        Chip("h100", "gpu", 989.4e12, 80e9, 3.35e12, 4.5e11, 5e10, node=8),
        Chip("h200", "gpu", 989.4e12, 141e9, 4.8e12, 4.5e11, 5e10, node=8),
    )
}
# Slices that Google Cloud offers [a] and the compiler takes (it has no host of a single chip).
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "4x4x16", "8x8x8"),
    *("4x8x16", "8x8x16", "8x16x16", "16x16x16"),
)
SLICES = {"v4": _CUBES, "v5e": _FLAT, "v5p": (*_CUBES, "16x16x24"), "v6e": _FLAT}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips and how they lie.

    Attributes:
      name: as given, without the number of slices.
      chip: of which there are `size`.
      shape: of one slice's torus; of GPUs their number.
      slices: how many such slices a network joins.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def size(self) -> int:
        """Chips of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def wraps(self) -> tuple[bool, ...]:
        """For each axis of the torus: is its end joined to its beginning?"""
        if self.chip.name in ("v5e", "v6e"):
            return tuple(length == 16 for length in self.shape)
        return (all(length % 4 == 0 for length in self.shape),) * len(self.shape)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device of the mesh lies: its slice (or node), and its coordinates there."""

    slice: int
    coordinates: tuple[int, ...]


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads "v5e:16x16", "v5p:4x4x8" or "gpu:h100:16".

    Raises:
      UserError: a chip or a shape that is not known (lists them), slices of GPUs.
    """
    if slices < 1:
        raise UserError(f"--slices={slices}: must be at least 1.")
    if match := re.fullmatch(r"gpu:(\w+):(\d+)", name):
        gpus = [chip.name for chip in CHIPS.values() if chip.kind == "gpu"]
        if match[1] not in gpus:
            raise UserError(f"--topology={name}: no GPU is called {match[1]!r}. {did_you_mean(match[1], gpus)}")
        chip, count = CHIPS[match[1]], int(match[2])
        if slices != 1:
            raise UserError(f"--slices={slices}: GPUs have no slices; --topology=gpu:{chip.name}:COUNT is all of them.")
        if count < 1 or (count > chip.node and count % chip.node):
            raise UserError(f"--topology={name}: {count} GPUs are not whole nodes of {chip.node}.")
        return Topology(name, chip, (count,))
    family, _, shape = name.partition(":")
    if family not in SLICES or shape not in SLICES[family]:
        known = "\n".join(
            f"  {family}: {'  '.join(f'{family}:{each}' for each in SLICES[family])}" for family in SLICES
        )
        raise UserError(
            f"--topology={name}: there is no such topology. These there are:\n{known}\n"
            "  GPUs: gpu:a100:COUNT  gpu:h100:COUNT  gpu:h200:COUNT"
        )
    return Topology(name, CHIPS[family], tuple(int(length) for length in shape.split("x")), slices)


def describe_devices(topology: Topology) -> Sequence[Any]:
    """Returns devices to compile for: of a TPU as libtpu describes them, for GPUs as many of the CPU's.

    Raises:
      UserError: libtpu is not installed, or there are too few fake CPU devices to stand for GPUs.
    """
    if topology.chip.kind == "gpu":
        devices = jax.devices("cpu")
        if len(devices) < topology.size:
            raise UserError(
                f"--topology={topology.name}: needs {topology.size} CPU devices to stand for GPUs, but this process "
                f"was started with {len(devices)} (XLA_FLAGS=--xla_force_host_platform_device_count={topology.size})."
            )
        return devices[: topology.size]
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology.name}: needs the TPU compiler, which is not installed. "
            "Install it (it needs no TPU): pip install 'jaxfm[tpu]'."
        )
    # libtpu looks for a TPU's machine unless told not to, and lets one process at a time compile.
    for name, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores as one device, as JAX sees a v4
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    assert len(described.devices) == topology.size, f"{topology.name}: {len(described.devices)} devices"
    return described.devices


_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def places(devices: Sequence[Any], topology: Topology) -> list[Place]:
    """Returns where each device lies; GPUs lie in nodes, in the order of their numbers."""
    if topology.chip.kind == "gpu":
        return [Place(device.id // topology.chip.node, (device.id % topology.chip.node,)) for device in devices]
    rank = len(topology.shape)
    return [Place(getattr(device, "slice_index", None) or 0, tuple(device.coords[:rank])) for device in devices]
