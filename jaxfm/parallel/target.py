"""The devices that the program being traced will run on."""

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
    """The devices that programs are traced for.

    Attributes:
      platform: a name that `platform` returns.
      cuda_capability: of GPUs that need not be present; None: that of this process's GPUs.
    """

    platform: str
    cuda_capability: tuple[int, int] | None = None


_CHOSEN: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


def chosen() -> Target | None:
    """Returns the target set by `tracing_for`; None: programs are traced for this process's devices."""
    return _CHOSEN.get()


def platform() -> str:
    """Returns "cpu", "tpu" or "gpu" ("cuda", "rocm"): the target's platform or, without a target, this process's."""
    found = chosen()
    return jax.default_backend() if found is None else found.platform


@contextlib.contextmanager
def tracing_for(devices: Target | str | None) -> Iterator[None]:
    """Sets the target of programs traced in the block: a Target or its platform; None: this process's devices."""
    token = _CHOSEN.set(Target(devices) if isinstance(devices, str) else devices)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


@functools.cache
def cpu_multiplies_bf16() -> bool:
    """Returns whether this machine's CPU has matrix units for bf16 (Intel AMX, since Sapphire Rapids)."""
    try:
        return "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False


def cuda_capability() -> tuple[int, int] | None:
    """Returns the compute capability of the target's GPUs, (9, 0) for Hopper; None without an NVIDIA GPU."""
    if (found := chosen()) is not None and found.cuda_capability is not None:
        return found.cuda_capability
    if jax.default_backend() != "gpu":
        return None
    # Of ROCm's devices it is a name, such as "gfx942".
    found = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(jax.local_devices()[0], "compute_capability", "")))
    return (int(found[1]), int(found[2])) if found else None
