"""A run on images, augmented at random, that is stopped goes on to the same bits."""

import pathlib

import pytest

from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.train import train
from tests import tiny
from tests.training.whole_run import at_step, record_saves, terminate

AUGMENTED = {
    "task__augment__crop": 0.5, "task__augment__flip": True, "task__augment__operations": 1,
    "task__augment__erase": 0.5, "task__augment__mixup": 0.5, "task__augment__cutmix": 1.0,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("task", ["image_classification", "masked_images"])
def test_a_stopped_run_is_the_run_that_was_not(task: str, tmp_path: pathlib.Path) -> None:
    augmented = {name: value for name, value in AUGMENTED.items() if task != "masked_images" or "mix" not in name}
    config = tiny.image_config(tmp_path, task, train__steps=6, eval__every_steps=3, model__dropout=0.1, **augmented)
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        report = train(config, tmp_path / "whole")
        wanted = dict(saved)
        saved.clear()
        with pytest.MonkeyPatch.context() as stopping:
            at_step(stopping, 4, terminate)
            with pytest.raises(Preempted):
                train(config, tmp_path / "run")
        assert train(config, tmp_path / "run")["splits"] == report["splits"]
        assert saved[6] == wanted[6] and min(saved) < 6
