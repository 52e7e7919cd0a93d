"""A run that begins from the whole state of another one: equal where nothing changes, honest where something does."""

import dataclasses
import pathlib
import shutil
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.preemption import Paused
from jaxfm.programs.train import train
from jaxfm.training import continuation, history
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from tests import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(
        tmp_path_factory.mktemp("continued"),
        train__steps=6,
        eval__every_steps=2,
        eval__metric="loss",
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def paused(config: Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that stands at step 4 of 6."""
    folder = tmp_path_factory.mktemp("paused") / "run"
    with pytest.raises(Paused):
        train(config, folder, pause=lambda step, total: step >= 4)
    return folder


def hashes(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    found = checkpoints.meta(step)["hashes"]
    checkpoints.close()
    return found


def losses(workdir: pathlib.Path) -> list[tuple[int, str, float]]:
    return [(line["step"], line["split"], line["loss"]) for line in read_metrics(workdir / "metrics.jsonl")]


def changed(config: Config, **optim: float) -> Config:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **optim))


def test_it_ends_as_the_run_that_it_is_from(config: Config, paused: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = changed(config, learning_rate=0.02)
    for name, new, keys in (("same", config, ()), ("other", other, ("optim.learning_rate",))):
        continuation.begin(paused, 4, new, tmp_path / name, may_change=keys, why="a test")
    shutil.copytree(paused, tmp_path / "whole")
    reports = {
        name: train(new, tmp_path / name) for name, new in (("whole", config), ("same", config), ("other", other))
    }
    assert hashes(tmp_path / "same", 6) == hashes(tmp_path / "whole", 6)
    assert losses(tmp_path / "same") == losses(tmp_path / "whole")
    assert losses(tmp_path / "other")[:4] == losses(tmp_path / "whole")[:4]
    assert hashes(tmp_path / "other", 6)["params"] != hashes(tmp_path / "whole", 6)["params"]
    assert "history" not in reports["whole"]
    (turn,) = reports["other"]["history"]
    assert turn["step"] == 4 and turn["changed"] == {"optim.learning_rate": [0.01, 0.02]}
    assert (tmp_path / "other" / turn["run"]).resolve() == paused.resolve()
    assert "optim.learning_rate 0.01 -> 0.02" in (tmp_path / "other" / "report.md").read_text()


def test_what_a_killed_call_left_is_done_again(
    config: Config, paused: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    calls = [(shutil, "copytree"), (shutil, "copyfile"), (workdirs, "write_config"), (Checkpoints, "verify")]
    for module, name in calls:
        real = getattr(module, name)

        def dying(*arguments: Any, real: Any = real, **options: Any) -> Any:
            real(*arguments, **options)
            raise KilledError

        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(module, name, dying)
            continuation.begin(paused, 4, config, tmp_path / "run", may_change=(), why="a test")
        if name != "write_config":  # the last thing that is written
            assert workdirs.CONFIG_FILE not in {path.name for path in (tmp_path / "run").iterdir()}
            with pytest.raises(UserError, match="is not empty and holds no run"):
                workdirs.status(tmp_path / "run", config)
        else:
            shutil.rmtree(tmp_path / "run")
    for _ in range(2):
        continuation.begin(paused, 4, config, tmp_path / "run", may_change=(), why="a test")
    assert hashes(tmp_path / "run", 4) == hashes(paused, 4)
    assert workdirs.status(tmp_path / "run", config) == "half-way"


def test_a_turn_of_a_turn(config: Config, paused: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second = changed(config, learning_rate=0.02), changed(config, learning_rate=0.02, weight_decay=0.1)
    keys = ("optim.learning_rate", "optim.weight_decay")
    continuation.begin(paused, 4, first, tmp_path / "first", may_change=keys, why="one")
    continuation.begin(tmp_path / "first", 4, second, tmp_path / "deep" / "second", may_change=keys, why="two")
    turns = history.read_history(tmp_path / "deep" / "second")
    assert [turn.why for turn in turns] == ["one", "two"] and turns[1].run == "../../first"
    assert (tmp_path / "deep" / "second" / turns[0].run).resolve() == paused.resolve()


def test_an_earlier_best_checkpoint_comes_along_without_its_optimizer(
    config: Config, paused: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Checkpoints.meta
    best = {"step": 2, "value": 0.1, "waited": 1, "others": [], "loss": 0.1}
    monkeypatch.setattr(Checkpoints, "meta", lambda self, step: real(self, step) | {"best": best})
    continuation.begin(paused, 4, config, tmp_path / "run", may_change=(), why="a test")
    folder = tmp_path / "run" / "checkpoints"
    parts = {step.name: {part.name for part in step.iterdir()} for step in folder.iterdir()}
    assert "rest" in parts["4"] and "params" in parts["2"] and "rest" not in parts["2"]


def test_what_cannot_be_is_refused(config: Config, paused: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def begin(new: Config, folder: str, step: int = 4, parent: pathlib.Path = paused) -> None:
        continuation.begin(parent, step, new, tmp_path / folder, may_change=("optim.learning_rate",), why="")

    with pytest.raises(UserError, match=r"config.optim.weight_decay: 0.01 -> 0.5: cannot change in the middle"):
        begin(changed(config, weight_decay=0.5), "a")
    with pytest.raises(UserError, match="there is no checkpoint of step 3 that a run can go on from"):
        begin(config, "a", step=3)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run of jaxfm"):
        begin(config, "b")
    shutil.copytree(paused, tmp_path / "damaged")
    file = max((tmp_path / "damaged" / "checkpoints" / "4" / "rest").rglob("*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"has [\d,]+ bytes, not the"):
        begin(config, "c", parent=tmp_path / "damaged")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "history.json").write_text('{"version": 1, "turns": [{"step": "x"}]}')
    with pytest.raises(UserError, match="history.json: "):
        history.read_history(tmp_path / "d")
