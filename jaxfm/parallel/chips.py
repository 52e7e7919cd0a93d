"""Accelerators: published figures with their sources, and the names that JAX gives the chips.

Sources, by the letters used below:
[a] Google Cloud, "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" (docs.cloud.google.com/tpu/docs/v4 ... v6e): peak bf16
    compute, HBM bandwidth, shapes of slices, network cards of a host (v5e: 2 x 100 Gbit/s for 8 chips; v6e: 4 x 200
    Gbit/s for 8; v5p: 50 Gbit/s a chip).
[b] Austin et al. 2025, "How to Scale Your Model", part 2 (jax-ml.github.io/scaling-book/tpus): bandwidth of one ICI
    link in one direction as measured in practice (a tenth below the data sheets of v5e, v5p and v6e), wrap-around
    only where an axis is 16 (v5e, v6e) or a multiple of 4 (v4, v5p), about 1 us a hop, 6.25e9 bytes/s a chip between
    slices unless another figure is given.
[c] The HBM that the compiler (libtpu 0.0.42) reports as available when a program does not fit.
[d] NVIDIA, data sheets of A100 80GB SXM, H100 SXM and H200 SXM: dense bf16 (half of the figure "with sparsity"),
    memory, NVLink in both directions (halved here); one 400 Gbit/s network card a GPU (A100: 200) as in DGX systems.
[e] Clock: peak compute / (2 x products that the matrix units start in a cycle): v4 and v5p 2 cores x 4 units of
    128 x 128, v5e 4 units of 128 x 128, v6e as many products as 4 units of 256 x 256 at the 1.75 GHz of a v5p.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Figures of one accelerator, in bytes, seconds and floating-point operations.

    Attributes:
      name: as in the names of topologies.
      kind: "tpu" or "gpu".
      peak_flops: operations a second of dense bf16 matrix products.
      hbm: bytes that a program can use.
      hbm_bandwidth: bytes a second.
      link_bandwidth: bytes a second of one link in one direction (of a GPU: of all its NVLinks together).
      network_bandwidth: bytes a second and chip out of its slice (of a GPU: out of its node).
      node: chips of a GPU node; 0 for TPUs, whose topology gives the size of a slice.
      clock: cycles a second, the unit of the TPU compiler's estimates; 0 for chips whose compiler gives none.
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

# `jax.Device.device_kind` -> chip. Both sizes of the A100 are here, as only the peak is looked up, which they share.
_KINDS = {
    "TPU v4": "v4",
    **dict.fromkeys(("TPU v5 lite", "TPU v5e"), "v5e"),
    **dict.fromkeys(("TPU v5", "TPU v5p"), "v5p"),
    **dict.fromkeys(("TPU v6 lite", "TPU v6e"), "v6e"),
    **dict.fromkeys(("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"), "a100"),
    "NVIDIA H100 80GB HBM3": "h100",
    "NVIDIA H200": "h200",
}


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak dense bf16 operations a second of a `device_kind` of JAX; None for an unknown one."""
    name = _KINDS.get(device_kind)
    return None if name is None else CHIPS[name].peak_flops
