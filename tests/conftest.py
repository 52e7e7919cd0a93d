"""Shared set-up: 4 fake CPU devices, no network, one compilation cache, and the optional folder of real data."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile

# Before jax is imported anywhere: several devices so that every test of the step is a test of sharding too.
# (JAXFM_TEST_PLATFORMS=cuda,cpu or tpu,cpu lets tests/models/test_kernels.py run the kernels of what is there.)
os.environ["JAX_PLATFORMS"] = os.environ.get("JAXFM_TEST_PLATFORMS", "cpu")
# Tests compile far more than they compute: half the work of LLVM is left out, which takes half the time, and XLA's
# older emitters make less of it, which halves it again.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false"
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
# The same train step is compiled by many tests and subprocesses. A folder of this session's own (xdist's workers and
# subprocesses inherit it), so that nothing stale is ever read.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxfm-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import hypothesis
import pytest

# Drawn examples are the same in every run: a change is judged by what it changed. `make test-slow` draws new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None)
hypothesis.settings.register_profile("drawn", print_blob=True)
hypothesis.settings.load_profile("fixed")

# What tests leave behind is millions of objects that live as long as the process (compiled programs, traces): looking
# through them every 700 allocations takes a tenth of the time.
gc.set_threshold(100_000, 20, 50)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder `data/` of the optional real data sets; tests that ask for it skip where it is absent."""
    folder = pathlib.Path(os.environ.get("JAXFM_DATA", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"real data folder not found: {folder} (set JAXFM_DATA to the folder that holds data/)")
    return folder


# The kernel allows a process 65,530 maps of memory (vm.max_map_count), and each compiled program takes some. When none
# is left, the next compilation ends the process.
_MOST_MAPS = 30_000


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Lets go of compiled programs between two files where there are many; the session's cache has most of them."""
    maps = pathlib.Path("/proc/self/maps")
    if nextitem is None or nextitem.path == item.path or not maps.is_file():
        return
    with open(maps, "rb") as file:
        if sum(1 for _ in file) < _MOST_MAPS:
            return
    import jax

    jax.clear_caches()
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first: files are handed to the workers in this order, and a long one at the end has no company."""
    items.sort(
        key=lambda item: not any(f"/{room}/" in f"{item.path}" for room in ("training", "programs", "tasks", "launch"))
    )
