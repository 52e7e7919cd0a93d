"""A run that nothing stopped, what it saved, and ways to stop one: for the tests of whole runs."""

import dataclasses
import os
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.observe.writers import read_metrics
from jaxfm.programs.train import train
from jaxfm.training import session
from jaxfm.training.checkpoint import Checkpoints

# Dropout (0.1 of the weights' own config), accumulation and smoothing on; batches of 8 of 31 rows straddle epochs;
# logging, evaluation and the end fall on different steps.
BASE = {
    "train__batch_size": 8,
    "train__accumulate": 2,
    "train__steps": 12,
    "task__loss__label_smoothing": 0.1,
    "eval__every_steps": 5,
    "log__every_steps": 4,
    "checkpoint__keep_last": 2,
    "checkpoint__keep_optimizer": True,  # what is saved, and what is resumed from, is looked at after the run
}

Saved = dict[int, bytes]
COMPILES = "/jax/core/compile/backend_compile_duration"  # the event of every program that is compiled, or read back


class CrashError(Exception):
    """What no code of the project knows."""


def record_saves(patch: pytest.MonkeyPatch) -> Saved:
    """Returns a dict that fills with the bytes of every state and open sums saved, by step."""
    saved: Saved = {}
    plain = Checkpoints.save

    def save(self: Checkpoints, state: Any, sums: Any, meta: Any, *, keep: Any) -> None:
        arrays = jax.tree.leaves((state.params, state.opt_state, state.key, state.step, state.guard, sums))
        saved[int(state.step)] = b"".join(np.asarray(leaf).tobytes() for leaf in arrays)
        plain(self, state, sums, meta, keep=keep)

    patch.setattr(Checkpoints, "save", save)
    return saved


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing stopped; `compiled` is how many programs had been compiled at each save."""

    workdir: pathlib.Path
    report: dict[str, Any]
    saved: Saved
    compiled: dict[int, int]


def whole_run(config: Config, folder: pathlib.Path) -> Iterator[Whole]:
    programs, compiled = 0, {}

    def count(event: str, seconds: float, **_: Any) -> None:
        nonlocal programs
        programs += event == COMPILES

    jax.monitoring.register_event_duration_secs_listener(count)
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        keep = Checkpoints.save
        patch.setattr(
            Checkpoints,
            "save",
            lambda self, state, *rest, **more: (
                compiled.update({int(state.step): programs}),
                keep(self, state, *rest, **more),
            ),
        )
        report = train(config, folder / "whole")
    jax.monitoring.unregister_event_duration_listener(count)
    yield Whole(folder / "whole", report, saved, compiled)


def at_step(patch: pytest.MonkeyPatch, step: int, action: Callable[[], Any], first: int = 0) -> None:
    """Has `action` called while the batch of update `step` is put on the devices; `first` updates are done before."""
    done, plain = first, session.meshes.shard_batch

    def shard_batch(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            action()
        return plain(*arguments)

    patch.setattr(session.meshes, "shard_batch", shard_batch)


def crash() -> None:
    raise CrashError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def assert_equal_to(whole: Whole, workdir: pathlib.Path, report: dict[str, Any], saved: Saved) -> None:
    assert saved[12] == whole.saved[12]
    assert lines(workdir) == lines(whole.workdir)
    assert report["splits"] == whole.report["splits"]
    assert report["training"]["chosen_step"] == whole.report["training"]["chosen_step"]
    for split in ("valid", "test"):
        name = f"predictions/{split}.jsonl"
        assert (workdir / name).read_bytes() == (whole.workdir / name).read_bytes()
