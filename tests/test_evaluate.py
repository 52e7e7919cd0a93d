"""The program on other devices than the run had; its scores are tested with the tasks."""

import pathlib

import pytest

from jaxfm.evaluate import evaluate
from tests import tiny


def test_a_run_is_scored_on_other_devices_than_it_was_trained_on(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, said = {}, {}
    for fsdp in (1, 8):  # there are 4
        config = tiny.config(tmp_path, parallel__mesh={"data": 4 // fsdp or 1, "fsdp": fsdp})
        tiny.write_run(tmp_path / f"run{fsdp}", config, best=1)
        scores[fsdp] = evaluate(tmp_path / f"run{fsdp}").metrics
        printed = capsys.readouterr()
        said[fsdp] = printed.out + printed.err
    assert scores[1] == pytest.approx(scores[8], rel=1e-5)
    assert "mesh" not in said[1] and "fsdp=8 x tensor=1 x sequence=1 does not multiply" in " ".join(said[8].split())
