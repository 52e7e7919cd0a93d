"""What the program that is being traced will run on."""

import contextlib
import contextvars
import functools
import pathlib
import re
from collections.abc import Iterator

import jax

_PLATFORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Returns "cpu", "tpu" or "gpu" ("cuda", "rocm"): this process's, unless a program is traced for another."""
    return _PLATFORM.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(platform: str | None) -> Iterator[None]:
    """Says what programs traced meanwhile will run on; None: what this process has."""
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Whether this machine's CPU has matrix units for bf16 (Intel AMX, since Sapphire Rapids)."""
    try:
        return "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def cuda_capability() -> tuple[int, int] | None:
    """Returns the compute capability of this process's GPUs, (9, 0) for Hopper; None: there is none of NVIDIA's."""
    if jax.default_backend() != "gpu":
        return None
    # ROCm's devices call theirs "gfx942".
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(jax.local_devices()[0], "compute_capability", "")))
    return (int(found[1]), int(found[2])) if found else None
