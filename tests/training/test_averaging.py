"""The mean of the best checkpoints: of which, when it wins, and that every program then uses it."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.hub.weights import read_checkpoint
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks.ner.scorer import NerScorer
from jaxfm.training import averaging, session
from jaxfm.training.adaptation import Partition
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.paths import path_name
from jaxfm.training.saved_run import open_run
from tests import tiny

BASE = {
    "train__steps": 10,
    "eval__every_steps": 2,
    "adapt__average_best": 3,
    "adapt__freeze_layers": 1,
    "checkpoint__keep_last": 1,
    "model__dropout": 0.0,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("averaging"), **BASE)


def script(patch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """Has the validation after n steps give values[n], the first one after training, of the mean, values[0]."""
    plain, steps = NerScorer.metrics, [*(step for step in values if step), 0]

    def metrics(self: NerScorer, outputs: Any) -> Any:
        found = plain(self, outputs)
        return {**found, "loss": 1.0, "f1": values[steps.pop(0)]} if steps else found

    patch.setattr(NerScorer, "metrics", metrics)


def flat(params: Any) -> dict[str, np.ndarray]:
    """Path -> host array of each parameter."""
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def keep_everything(patch: pytest.MonkeyPatch) -> dict[int, dict[str, np.ndarray]]:
    """Returns a dict that fills with the parameters of each checkpoint, by step."""
    kept: dict[int, dict[str, np.ndarray]] = {}
    plain = Checkpoints.save

    def save(self: Checkpoints, state: Any, *rest: Any, **more: Any) -> None:
        kept[int(state.step)] = {path: value.copy() for path, value in flat(state.params).items()}
        plain(self, state, *rest, **more)

    patch.setattr(Checkpoints, "save", save)
    return kept


def params_of(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    return open_run(workdir).restore(make_mesh(MeshConfig()), Build()).to_host()


VALUES = {2: 0.3, 4: 0.6, 6: 0.2, 8: 0.5, 10: 0.1}


@pytest.mark.slow
def test_a_mean_that_wins_is_what_the_run_stands_for(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = keep_everything(monkeypatch)
    script(monkeypatch, VALUES | {0: 0.7})
    report = train(config, tmp_path / "run")
    said = " ".join(capfd.readouterr().out.split())
    assert "mean of the checkpoints of steps 4, 8, 2: f1 0.7000 on valid; the best of them 0.6000 at step 4" in said
    assert "the mean is used" in said
    assert report["training"]["chosen_step"] == 4 and report["training"]["averaged_steps"] == "4, 8, 2"
    assert not [path for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdigit()]  # the mean is kept
    assert "the weights of the mean of the best checkpoints are kept" in said
    got = params_of(tmp_path / "run")
    for path, value in got.items():
        parts = [kept[step][path].astype(np.float64) for step in (4, 8, 2)]
        np.testing.assert_allclose(value, np.mean(parts, axis=0), atol=1e-6, err_msg=path)
        if path.startswith("encoder/layers/"):
            np.testing.assert_array_equal(value[:1], kept[4][path][:1], err_msg=path)
    assert np.abs(got["head/kernel"] - kept[4]["head/kernel"]).max() > 1e-3
    # What is scored, and what goes out.
    monkeypatch.undo()
    assert evaluate(tmp_path / "run", "test").metrics["loss"] == report["splits"]["test"]["loss"]
    written = read_checkpoint(export(tmp_path / "run", tmp_path / "hf")).params
    np.testing.assert_array_equal(written["head/kernel"], got["head/kernel"])
    another = resolve(dataclasses.replace(config.model, init=f"run:{tmp_path / 'run'}"))
    np.testing.assert_array_equal(another.params["head/kernel"], got["head/kernel"])


def test_damaged_checkpoints_are_left_out_of_the_mean(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The best one and another are damaged when the run ends: it ends all the same, and says what it stands for."""
    kept = keep_everything(monkeypatch)
    script(monkeypatch, VALUES | {0: 0.7})
    plain = Checkpoints.restore_params

    def restore(self: Checkpoints, step: int, params: Any) -> Any:
        for path in (self._directory / str(step) / "params").rglob("d/*"):
            if step in (4, 8):
                path.write_bytes(bytes(path.stat().st_size))
        return plain(self, step, params)

    monkeypatch.setattr(Checkpoints, "restore_params", restore)
    report = train(config, tmp_path / "run")
    said = " ".join(capfd.readouterr().out.split())
    assert "WARNING: the best checkpoint, of step 4, is damaged: the last one, of 10, is used" in said
    assert "mean of the checkpoints of steps 10, 2: f1 0.7000 on valid" in said
    assert report["training"]["averaged_steps"] == "10, 2"
    wanted = (kept[10]["head/kernel"] + kept[2]["head/kernel"]) / 2
    np.testing.assert_allclose(params_of(tmp_path / "run")["head/kernel"], wanted, atol=1e-6)
    assert {path.name for path in (tmp_path / "run" / "checkpoints" / "damaged").iterdir()} == {"4", "8"}


@pytest.mark.slow
def test_a_mean_that_does_not_win_leaves_no_trace(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = keep_everything(monkeypatch)
    script(monkeypatch, VALUES | {0: 0.6})  # as good, at an equal loss, is not better
    report = train(config, tmp_path / "run")
    assert report["training"]["chosen_step"] == 4 and "averaged_steps" not in report["training"]
    assert not (tmp_path / "run" / "averaged").exists()
    np.testing.assert_array_equal(params_of(tmp_path / "run")["head/kernel"], kept[4]["head/kernel"])


class CrashError(Exception):
    """What no code of the project knows."""


@pytest.mark.slow
def test_a_run_with_averages_that_was_stopped_is_the_run_that_was_not(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moving average too, on a mesh, stopped between two validations and again behind the last step."""
    mesh = {"parallel__mesh__data": 2, "parallel__mesh__fsdp": 2, "train__accumulate": 2, "adapt__ema": 0.5}
    ours = tiny.replaced(config, **mesh, train__batch_size=8, model__dropout=0.1)
    report = train(ours, tmp_path / "whole")
    left = iter(range(4))
    with pytest.MonkeyPatch.context() as patch:
        plain = session.meshes.shard_batch
        patch.setattr(
            session.meshes, "shard_batch", lambda *all: plain(*all) if next(left, None) is not None else crash()
        )
        with pytest.raises(CrashError):
            train(ours, tmp_path / "run")  # with the fifth batch: goes on from step 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaging, "choose", crash)
        with pytest.raises(CrashError):
            train(ours, tmp_path / "run")
    assert not (tmp_path / "run" / "report.json").exists()
    again = train(ours, tmp_path / "run")
    assert again["splits"] == report["splits"]
    assert again["training"].get("averaged_steps") == report["training"].get("averaged_steps")
    for path, value in params_of(tmp_path / "whole").items():
        assert value.tobytes() == params_of(tmp_path / "run")[path].tobytes(), path


def crash(*_: Any) -> None:
    raise CrashError


@pytest.mark.parametrize("partition", [Partition(), Partition({"layers/kernel": 1, "embedding": None})])
def test_a_mean_of_many_compiles_no_more_than_one_of_two(partition: Partition) -> None:
    def tree(number: float) -> dict[str, Any]:
        return {"layers": {"kernel": jnp.full((3, 4), number)}, "embedding": jnp.full((5,), number)}

    programs = 0

    def count(event: str, seconds: float, **_: Any) -> None:
        nonlocal programs
        programs += event == "/jax/core/compile/backend_compile_duration"

    trees = [tree(float(number)) for number in range(7)]
    averaging.mean_of(trees[0], trees[1:2], partition)  # whatever is compiled once and for all
    jax.monitoring.register_event_duration_secs_listener(count)
    compiled = []
    for many in (trees[:2], trees):
        programs = 0
        mean = averaging.mean_of(many[0], many[1:], partition)
        compiled.append(programs)
        wanted = (len(many) - 1) / 2
        frozen = 0.0 if partition.first else wanted
        np.testing.assert_allclose(mean["layers"]["kernel"][:, 0], [frozen, wanted, wanted], rtol=1e-6)
        np.testing.assert_allclose(mean["embedding"], frozen, rtol=1e-6)
    jax.monitoring.unregister_event_duration_listener(count)
    assert compiled[0] == compiled[1] <= 3


def test_what_is_refused(config: Config, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"config\.adapt\.average_best: 3 contradicts config\.eval\.select='last'"):
        train(tiny.replaced(config, eval__select="last"), tmp_path / "run")
    tiny.write_corpus(tmp_path / "corpus", {"train": 20, "test": 4})
    with pytest.raises(UserError, match=r"config\.adapt\.average_best: 3 needs a split 'valid'"):
        train(tiny.replaced(config, data__source=f"conll:{tmp_path / 'corpus'}", data__holdout=0.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()
