"""Compiled programs: kept on disk, so that the second start of a run need not compile again; what they hold."""

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

    JAX_COMPILATION_CACHE_DIR names another one, JAX_ENABLE_COMPILATION_CACHE=false turns it off: nothing is changed
    then, and None returned. The programs used least recently go when there are 4 GiB of them. A folder that others may
    write to is not used (what it holds would be run), and a warning says so.
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
    """Returns the bytes a device of a program's arguments and results, donated ones once (`memory_analysis`)."""
    return memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
