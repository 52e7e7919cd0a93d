"""Two processes of one run: both find what is wrong with the numbers of one, and end alike."""

import os
import pathlib
import subprocess
import sys

import pytest

from jaxfm.training import skipped_batch
from tests import tiny
from tests.parallel.test_distributed import ROOT, free_port


def ended(folder: pathlib.Path, what: str) -> list[tuple[int, str]]:
    """Runs tests/training/faulty_member.py as two processes; returns exit code and text of each."""
    tiny.config(folder)  # writes data and weights, once
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    place = (f"127.0.0.1:{free_port()}", "2")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.faulty_member", *place, str(process), str(folder), what],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        return [(child.returncode, text) for child in started for text in [child.communicate(timeout=240)[0]]]
    finally:
        for child in started:
            child.kill()


@pytest.mark.slow
def test_a_flipped_bit_on_one_process_is_found_by_both(tmp_path: pathlib.Path) -> None:
    for code, text in ended(tmp_path, "flip"):
        assert code == 2, text
        assert "silent corruption: before update 2 the devices' copies of" in text, text
        assert "params/head/kernel" in text and "of process 0" in text and "of process 1" in text
    assert not list((tmp_path / "flip" / "checkpoints").iterdir())


@pytest.mark.slow
def test_the_batch_of_all_processes_is_saved_by_the_first(tmp_path: pathlib.Path) -> None:
    for code, text in ended(tmp_path, "nan"):
        assert code == 2 and "training diverged: the last 2 updates up to step 6" in text, text
    (path,) = (tmp_path / "nan" / "skipped").iterdir()
    found = skipped_batch.read(path)
    assert path.name == "6.safetensors" and len(found.rows) == found.batch["tokens"].shape[0] == 4


@pytest.mark.slow
def test_a_healthy_run_is_verified_and_ends(tmp_path: pathlib.Path) -> None:
    assert [code for code, _ in ended(tmp_path, "healthy")] == [0, 0]
