"""The computer's own memory: how much there is, and how a step keeps it.

What a step frees is kept from going back to the system and being faulted in anew by the next one.
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
    """Makes malloc reuse what was freed instead of returning it; says whether it did.

    XLA's CPU client allocates a step's temporary buffers as one block and frees it after the step. glibc maps so large
    a block anew each time, and the kernel zeroes every page of it again: a fifth of a step of a small encoder
    (profiles/NOTES.md). In one arena, without mmap and without trimming, the block is the same at every step. The
    process keeps the most it ever needed; where an accelerator computes, nothing is gained and nothing changed.

    To be called before JAX computes anything: threads keep the arena of their first allocation.
    """
    if platform.libc_ver()[0] != "glibc" or not _computes_on_cpu():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1), mallopt(_ARENA_MAX, 1)])


def _computes_on_cpu() -> bool:
    """Whether JAX will choose the CPU, told without starting it: asked to, or without a plugin for anything else."""
    asked = os.environ.get("JAX_PLATFORMS", "")
    if asked:
        return asked.split(",")[0] == "cpu"
    namespace = importlib.util.find_spec("jax_plugins")
    packages = list(pkgutil.iter_modules(namespace.submodule_search_locations)) if namespace else []
    declared = importlib.metadata.entry_points(group="jax_plugins")
    return not packages and not declared and importlib.util.find_spec("libtpu") is None


def available() -> int:
    """Returns the bytes that can still be had without swapping, no more than a container is allowed in all."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    limits = [int(text) for path in _CONTAINER_LIMITS if (text := _text(path).strip()).isdigit()]
    return min(physical if free is None else 1024 * int(free[1]), *limits, physical)


def peak_resident() -> int:
    """Returns the most bytes of physical memory that this process has had at once: all of it, whatever they are for."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _text("/proc/self/status"))
    if found is not None:
        return 1024 * int(found[1])
    # Elsewhere than on Linux, where it would include what the process was forked from.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def _text(path: str) -> str:
    """Returns a file's content, nothing where there is none (another system than Linux, no control groups)."""
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
