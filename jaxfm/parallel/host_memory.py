"""The host's memory: how much is available, and malloc settings that let steps reuse it.

Memory that a step frees stays with the process, so that the next step need not fault it in again.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
import platform
import re
import resource

# Of control groups, version 2 and 1.
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# <malloc.h> of glibc.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Makes malloc reuse freed memory instead of returning it to the system; returns whether it could.

    XLA's CPU client allocates a step's temporary buffers as one block and frees it after the step. glibc maps such a
    large block anew each time, and the kernel zeroes all of its pages: a fifth of a step of a small encoder
    (profiles/NOTES.md). In one arena, without mmap and without trimming, all steps use the same block. The process
    keeps the most memory it ever needed. Nothing is changed where an accelerator computes.

    To be called before JAX computes anything: threads keep the arena of their first allocation.
    """
    if platform.libc_ver()[0] != "glibc" or not _computes_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_ARENA_MAX, 1)])


def _computes_on_cpu() -> bool:
    """Returns whether JAX will use the CPU, without starting JAX: by JAX_PLATFORMS, or as no plugin is installed."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] == "cpu"
    namespace = importlib.util.find_spec("jax_plugins")
    packages = list(pkgutil.iter_modules(namespace.submodule_search_locations)) if namespace else []
    declared = importlib.metadata.entry_points(group="jax_plugins")
    return not packages and not declared and importlib.util.find_spec("libtpu") is None


def available() -> int:
    """Returns the bytes available without swapping, at most the limit of the container."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    limits = [int(text) for path in _CONTAINER_LIMITS if (text := _text(path).strip()).isdigit()]
    return min(physical if free is None else 1024 * int(free[1]), *limits, physical)


def peak_resident() -> int:
    """Returns the peak bytes of physical memory of this process, for all purposes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _text("/proc/self/status"))
    if found is not None:
        return 1024 * int(found[1])
    # Not on Linux, where this figure would include the peak of the parent process before the fork.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _text(path: str) -> str:
    """Returns a file's content; empty where it does not exist (not on Linux, or without control groups)."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
