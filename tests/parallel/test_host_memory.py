import subprocess
import sys

import pytest

from jaxfm.parallel import host_memory

# A block as large as a step's, allocated and freed in a thread that is not the first, as XLA does; prints the page
# faults of the second time.
FAULTS = """
import concurrent.futures, resource, sys
import numpy as np
from jaxfm.parallel.host_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        pool.submit(lambda: np.empty(100 << 20, np.uint8).fill(1)).result()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(host_memory.platform.libc_ver()[0] != "glibc", reason="malloc of another C library")
def test_a_freed_block_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")  # else a fault may stand for 512 pages
    assert faults("leave") > 20_000 and faults("keep") < 2_000


def test_memory_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**20 < host_memory.available() < 2**50
    texts = {"/proc/meminfo": "MemTotal: 30 kB\nMemAvailable:  20 kB\n"}
    monkeypatch.setattr(host_memory, "_text", lambda path: texts.get(path, ""))
    assert host_memory.available() == 20 * 1024
    texts["/sys/fs/cgroup/memory.max"] = "max\n"
    assert host_memory.available() == 20 * 1024
    texts["/sys/fs/cgroup/memory.max"] = "5000\n"
    assert host_memory.available() == 5000
    texts.clear()  # another system than Linux
    assert host_memory.available() > 2**20


def test_the_most_memory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host_memory.peak_resident()
    block = bytearray(200 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    now = host_memory.peak_resident()
    del block
    assert 2**20 < before <= now < 2**40 and now >= 200 << 20
    assert host_memory.peak_resident() >= 0.9 * now  # the system counts pages in bundles
    monkeypatch.setattr(host_memory, "_text", lambda path: "")  # another system than Linux
    assert host_memory.peak_resident() == pytest.approx(now, rel=0.5)


@pytest.mark.parametrize(("asked", "cpu"), [("cpu", True), ("cpu,cuda", True), ("cuda,cpu", False), ("tpu", False)])
def test_the_platform_that_was_asked_for(asked: str, cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    assert host_memory._computes_on_cpu() == cpu


def test_an_accelerator_s_plugin_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(host_memory.importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: None)
    assert host_memory._computes_on_cpu()
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: name if name == "libtpu" else None)
    assert not host_memory._computes_on_cpu()
    monkeypatch.setattr(host_memory.importlib.metadata, "entry_points", lambda group: ["cuda13"])
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: None)
    assert not host_memory._computes_on_cpu()
    assert not host_memory.keep_freed_memory()
