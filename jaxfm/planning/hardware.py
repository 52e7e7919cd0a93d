"""Topologies of accelerators: which exist, how their chips are linked, and devices to compile for.

Sources by letter: see `jaxfm.parallel.chips`.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from jaxfm.errors import UserError, did_you_mean, install_hint
from jaxfm.parallel import target
from jaxfm.parallel.chips import CHIPS, Chip

# Slices that Google Cloud offers [a] and the compiler accepts (it knows no host with a single chip).
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "4x4x16", "8x8x8"),
    *("4x8x16", "8x8x16", "8x16x16", "16x16x16"),
)
SLICES = {"v4": _CUBES, "v5e": _FLAT, "v5p": (*_CUBES, "16x16x24"), "v6e": _FLAT}


@dataclasses.dataclass(frozen=True)
class _Gpu:
    """Facts of a GPU that the compiler needs and `Chip` lacks (NVIDIA data sheets, CUDA C++ Programming Guide).

    Attributes:
      capability: compute capability.
      processors: streaming multiprocessors.
      shared: KiB of shared memory of a multiprocessor; a block of threads can have 1 KiB less.
      cache: bytes of L2.
      clock: GHz.
    """

    capability: tuple[int, int]
    processors: int
    shared: int
    cache: int
    clock: float


_GPUS = {
    "a100": _Gpu((8, 0), 108, 164, 41943040, 1.41),
    "h100": _Gpu((9, 0), 132, 228, 52428800, 1.98),
    "h200": _Gpu((9, 0), 132, 228, 52428800, 1.98),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips and how they are linked.

    Attributes:
      name: as given, without the number of slices.
      chip: the kind of all `size` chips.
      shape: of one slice's torus; for GPUs, their number.
      slices: number of such slices, joined by a network.
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
        """Whether each axis of the torus has a link from its end to its beginning."""
        if self.chip.name in ("v5e", "v6e"):
            return tuple(length == 16 for length in self.shape)
        return (all(length % 4 == 0 for length in self.shape),) * len(self.shape)


@dataclasses.dataclass(frozen=True)
class DeviceLocation:
    """The slice (for GPUs: node) of a device of the mesh, and its coordinates there."""

    slice: int
    coordinates: tuple[int, ...]


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads "v5e:16x16", "v5p:4x4x8" or "gpu:h100:16".

    Raises:
      UserError: an unknown chip or shape (the message lists the known ones), or slices of GPUs.
    """
    if slices < 1:
        raise UserError(f"--slices={slices}: must be at least 1.")
    if match := re.fullmatch(r"gpu:(\w+):(\d+)", name):
        gpus = [chip.name for chip in CHIPS.values() if chip.kind == "gpu"]
        if match[1] not in gpus:
            raise UserError(f"--topology={name}: no known GPU is called {match[1]!r}. {did_you_mean(match[1], gpus)}")
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


def has_gpu_compiler() -> bool:
    """Whether XLA for NVIDIA GPUs is installed (the extra cuda); it compiles without a GPU."""
    return any(plugin.name.startswith("xla_cuda") for plugin in importlib.metadata.entry_points(group="jax_plugins"))


def target_of(topology: Topology) -> target.Target:
    """Returns the target to trace for; GPUs get their compute capability only where their compiler is installed."""
    known = topology.chip.kind == "gpu" and has_gpu_compiler()
    return target.Target(topology.chip.kind, _GPUS[topology.chip.name].capability if known else None)


def describe_devices(topology: Topology) -> Sequence[Any]:
    """Returns devices to compile for, as their compiler describes them; for GPUs without it, CPU devices.

    Raises:
      UserError: libtpu is not installed, or the fake CPU devices that stand for GPUs are too few.
    """
    if topology.chip.kind == "gpu" and has_gpu_compiler():
        return _described_gpus(topology)
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
            f"Install it (it needs no TPU): {install_hint('tpu')}."
        )
    # Without these libtpu looks for a TPU host, and only one process at a time may compile.
    for name, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        options["chip_config_name"] = "megacore"  # both cores as one device, as JAX sees a v4
    described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **options)
    assert len(described.devices) == topology.size, f"{topology.name}: {len(described.devices)} devices"
    return described.devices


def _described_gpus(topology: Topology) -> Sequence[Any]:
    """Returns descriptions of GPUs, which need not be present. Facts that all known GPUs share are literals."""
    from jax.experimental import topologies

    chip, gpu = topology.chip, _GPUS[topology.chip.name]
    shared = gpu.shared * 1024
    facts = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_block_optin": shared - 1024,
        "shared_memory_per_core": shared,
        "threads_per_core_limit": 2048,
        "core_count": gpu.processors,
        "fpus_per_core": 64 if gpu.capability == (8, 0) else 128,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(chip.hbm_bandwidth),
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": int(chip.hbm),
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    major, minor = gpu.capability
    info = " ".join(f"{key}: {value}" for key, value in facts.items())
    # The versions only select workarounds for bugs of old libraries.
    text = (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        'platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 } '
        f'device_description_str: "NVIDIA {chip.name.upper()}"'
    )
    nodes = -(-topology.size // chip.node)
    shape = f"1x{nodes}x{topology.size // nodes}"
    devices = topologies.get_topology_desc(platform="cuda", target_config=text, topology=shape).devices
    assert len(devices) == topology.size, f"{topology.name}: {len(devices)} devices"
    return devices


_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def device_locations(devices: Sequence[Any], topology: Topology) -> list[DeviceLocation]:
    """Returns the location of each device; GPUs fill nodes in the order of their ids."""
    if topology.chip.kind == "gpu":
        return [
            DeviceLocation(device.id // topology.chip.node, (device.id % topology.chip.node,)) for device in devices
        ]
    rank = len(topology.shape)
    return [
        DeviceLocation(getattr(device, "slice_index", None) or 0, tuple(device.coords[:rank])) for device in devices
    ]
