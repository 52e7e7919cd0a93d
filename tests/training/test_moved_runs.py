"""Run directories that were moved and copied: all that is done with a run gives the same bits there."""

import hashlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import load
from jaxfm.programs.train import train
from tests import tiny
from tests.training.whole_run import BASE, Saved, Whole, assert_equal_to, at_step, record_saves, terminate, whole_run

TEXT = "Ada said that Rome is far"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("moved"), **BASE)


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    yield from whole_run(config, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    return record_saves(monkeypatch)


def results(workdir: pathlib.Path, output: pathlib.Path) -> dict[str, Any]:
    """All that a trained run is used for: scores, predictions, the bytes of an export (its card names the run)."""
    export(workdir, output)
    return {
        "scores": evaluate(workdir, "test").metrics,
        "predictions": load(workdir)(TEXT),
        "export": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in output.iterdir()
            if path.name != "README.md"
        },
    }


def test_a_finished_run_that_is_moved_or_copied_is_used_as_before(
    whole: Whole, config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(whole.workdir, tmp_path / "export")
    assert "model.safetensors" in expected["export"]
    moved, copied = tmp_path / "else where" / "run", tmp_path / "copy"
    shutil.copytree(whole.workdir, copied)
    moved.parent.mkdir()
    shutil.move(whole.workdir, moved)
    try:
        assert results(moved, tmp_path / "export_moved") == expected
        monkeypatch.chdir(copied)  # and called by another name
        assert results(pathlib.Path("."), tmp_path / "export_copied") == expected
        assert train(config, moved)["splits"] == whole.report["splits"]  # finished: merely told
    finally:
        shutil.move(moved, whole.workdir)


def test_a_half_way_run_that_is_moved_and_one_that_is_copied_go_on_to_the_same_bits(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved
) -> None:
    begun, moved, copied = tmp_path / "begun", tmp_path / "else where" / "moved", tmp_path / "copied"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, terminate)
        with pytest.raises(Preempted, match="saving step 6"):
            train(config, begun)
    shutil.copytree(begun, copied)
    moved.parent.mkdir()
    begun.rename(moved)
    for workdir in (moved, copied):
        saved.clear()
        report = train(config, workdir)
        assert_equal_to(whole, workdir, report, saved)
        assert min(saved) > 6  # it went on and did not start anew
    assert not begun.exists()
