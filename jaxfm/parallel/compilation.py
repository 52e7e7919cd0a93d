"""Compiled programs: a cache on disk, so that the second start of a run compiles nothing; their memory."""

import logging
import os
import pathlib
from typing import Any

import jax

from jaxfm import files

_MOST_BYTES = 4 * 2**30
_logger = logging.getLogger(__name__)


def keep_compiled_programs() -> pathlib.Path | None:
    """Turns JAX's persistent compilation cache on, in the user's cache folder; returns the folder.

    Where JAX_COMPILATION_CACHE_DIR names another folder or JAX_ENABLE_COMPILATION_CACHE=false turns the cache off,
    nothing changes and None is returned. Above 4 GiB the least recently used programs are deleted. A folder that other
    users may write to is not used, as its programs would be run; a warning says so.
    """
    settings: Any = jax.config  # whose attributes type checkers do not see
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return None
    folder = files.user_cache() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        _logger.warning("compiled programs are not kept: %s: %s", folder, error.strerror)
        return None
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        _logger.warning("compiled programs are not kept: %s belongs to others or may be written by them", folder)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    return folder


def held_bytes(memory: Any) -> int:
    """Returns the bytes a device of a program's arguments and results, donated ones counted once.

    `memory`: as `jax.stages.Compiled.memory_analysis()` returns it.
    """
    return memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
