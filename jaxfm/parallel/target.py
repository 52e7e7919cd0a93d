"""What the program that is being traced will run on."""

import contextlib
import contextvars
import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterator

import jax


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that programs are traced for.

    Attributes:
      platform: as `platform` calls it.
      cuda_capability: of GPUs that need not be here; None: that of this process's.
    """

    platform: str
    cuda_capability: tuple[int, int] | None = None


_CHOSEN: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


def chosen() -> Target | None:
    """Returns what `tracing_for` said; None: nothing, programs are for this process's devices."""
    return _CHOSEN.get()


def platform() -> str:
    """Returns "cpu", "tpu" or "gpu" ("cuda", "rocm"): this process's, unless a program is traced for another."""
    found = chosen()
    return jax.default_backend() if found is None else found.platform


@contextlib.contextmanager
def tracing_for(devices: Target | str | None) -> Iterator[None]:
    """Says what programs traced meanwhile will run on, a Target or its platform; None: what this process has."""
    token = _CHOSEN.set(Target(devices) if isinstance(devices, str) else devices)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Whether this machine's CPU has matrix units for bf16 (Intel AMX, since Sapphire Rapids)."""
    try:
        return "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def cuda_capability() -> tuple[int, int] | None:
    """Returns the compute capability of the GPUs traced for, (9, 0) for Hopper; None: no NVIDIA GPU is here."""
    if (found := chosen()) is not None and found.cuda_capability is not None:
        return found.cuda_capability
    if jax.default_backend() != "gpu":
        return None
    # ROCm's devices call theirs "gfx942".
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(jax.local_devices()[0], "compute_capability", "")))
    return (int(found[1]), int(found[2])) if found else None
