"""Where compiled programs are kept, and when not."""

import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest

from jaxfm.parallel.compilation import keep_compiled_programs


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A cache folder of the user's, as without the variable that the tests' own session sets."""
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "jaxfm" / "compiled"
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_compilation_cache_max_size", before[1])


def test_the_users_cache_folder(cache: pathlib.Path) -> None:
    assert keep_compiled_programs() == cache
    assert jax.config.jax_compilation_cache_dir == str(cache)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_what_the_user_says_goes(tmp_path: pathlib.Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_turned_off(cache: pathlib.Path) -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert keep_compiled_programs() is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert not cache.exists()


def test_a_folder_that_others_may_write_to_is_not_used(
    cache: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("jaxfm"), "propagate", True)
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir is None
    assert str(cache) in caplog.text and "written" in caplog.text


def test_a_place_that_cannot_be_made(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("jaxfm"), "propagate", True)
    (tmp_path / "jaxfm").write_text("a file")
    assert keep_compiled_programs() is None
    assert "not kept" in caplog.text


PROGRAM = """
import jax, logging
from jaxfm.parallel.compilation import keep_compiled_programs
keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((8, 8))).sum())
print("hit" if "/jax/compilation_cache/cache_hits" in hits else "miss")
"""


def test_the_second_process_compiles_nothing(cache: pathlib.Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    first, second = (
        subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout.splitlines()[-1] == "miss" and second.stdout.splitlines()[-1] == "hit"
    assert first.stdout.splitlines()[0] == second.stdout.splitlines()[0]
    assert any(cache.iterdir())
