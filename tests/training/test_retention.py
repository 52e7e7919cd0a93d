"""A finished run keeps the weights that it stands for, whatever stops the clean-up and whenever."""

import json
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.training import retention
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.saved_run import open_run
from jaxfm.training.state import TrainState
from tests import tiny

Params = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[int, Params]]:
    """A folder with the run "best" (of step 1, later ones are there) and "averaged", and their parameters by step."""
    folder = tmp_path_factory.mktemp("retention")
    config = tiny.config(folder)
    made = tiny.write_run(folder / "best", config, best=1)
    shutil.copytree(folder / "best", folder / "averaged")
    mean = {path: (made[1][path] + made[2][path]) / 2 for path in made[1]}
    checkpoints = Checkpoints(folder / "averaged" / workdirs.AVERAGED_DIR)
    checkpoints.save_params(1, jax.tree.map(jnp.asarray, tiny.nested(mean)), {"best": {"step": 1}, "averaged": (1, 2)})
    checkpoints.close()
    return folder, made | {0: mean}


def copy_of(runs: tuple[pathlib.Path, Any], name: str, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(runs[0] / name, tmp_path / name)
    return tmp_path / name


def report_of(name: str) -> dict[str, Any]:
    return {"checkpoint": retention.plan(1, averaged=name == "averaged", keep_optimizer=False)}


def stands_for(workdir: pathlib.Path) -> Params:
    return open_run(workdir).restore(make_mesh(MeshConfig()), Build()).to_host()


def assert_equal(found: Params, wanted: Params) -> None:
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize(("name", "step"), [("best", 1), ("averaged", 0)])
def test_the_weights_of_the_run_are_kept_alone(
    runs: tuple[pathlib.Path, dict[int, Params]], name: str, step: int, tmp_path: pathlib.Path
) -> None:
    workdir = copy_of(runs, name, tmp_path)
    assert_equal(stands_for(workdir), runs[1][step])
    assert not np.array_equal(runs[1][1]["head/kernel"], runs[1][2]["head/kernel"])
    said = retention.drop_surplus(workdir, report_of(name))
    kept = sorted(path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    assert kept == (["1"] if name == "best" else [])
    assert "MiB -> " in said and "keep_optimizer" in said
    assert ("the weights of step 1 are kept" in said) == (name == "best")
    assert not list(workdir.rglob("rest")) and not (workdir / ".dropped").exists()
    assert_equal(stands_for(workdir), runs[1][step])
    # Again: nothing is left to do, and nothing is touched.
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert retention.drop_surplus(workdir, report_of(name)) == ""
    assert not retention.is_cut_off(workdir, report_of(name))
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_all_programs_use_weights_alone(runs: tuple[pathlib.Path, dict[int, Params]], tmp_path: pathlib.Path) -> None:
    workdir = copy_of(runs, "best", tmp_path)
    scores = evaluate(workdir, "test").metrics
    retention.drop_surplus(workdir, report_of("best"))
    assert evaluate(workdir, "test").metrics == scores
    assert json.loads((export(workdir, tmp_path / "hf") / "config.json").read_text())["id2label"]
    assert open_run(workdir).restore(make_mesh(MeshConfig()), Build()).step == 1


class KilledError(BaseException):
    """Nothing catches it on its way out, as nothing does where a process is killed."""


@pytest.mark.parametrize("name", ["best", "averaged"])
def test_killed_at_any_moment_the_run_is_the_same(
    runs: tuple[pathlib.Path, dict[int, Params]],
    name: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each move of a folder, and each removal of a file in what was moved, is once the last thing that happens."""
    plain_replace, plain_unlink = os.replace, os.unlink
    moments = 0
    for moment in range(200):
        workdir = copy_of(runs, name, tmp_path)
        left = moment

        def counted(plain: Any) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise KilledError
                left -= 1
                return plain(*arguments, **more)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(plain_replace))
            patch.setattr(os, "unlink", counted(plain_unlink))
            try:
                retention.drop_surplus(workdir, report_of(name))
                finished = True
            except KilledError:
                finished = False
        if moment < 3 or finished:  # opening a run takes longest, and later moments are within what was moved
            assert_equal(stands_for(workdir), runs[1][1 if name == "best" else 0])
        if finished:
            break
        moments += 1
        assert retention.is_cut_off(workdir, report_of(name))
        retention.drop_surplus(workdir, report_of(name))
        assert not list(workdir.rglob("rest")) and not (workdir / ".dropped").exists()
        shutil.rmtree(workdir)
    assert moments >= 5  # two folders are moved, and they hold files


def test_the_same_command_ends_a_clean_up_that_was_cut_off(
    runs: tuple[pathlib.Path, dict[int, Params]], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = copy_of(runs, "best", tmp_path)
    report = report_of("best") | {"splits": {}, "training": {"steps": 2}}
    (workdir / "report.json").write_text(json.dumps(report))
    for said in (1, 0):
        assert train(tiny.config(runs[0]), workdir) == report
        assert capsys.readouterr().out.count("the weights of step 1 are kept") == said
        assert not list(workdir.rglob("rest")) and not (workdir / workdirs.LOCK_FILE).exists()
    assert_equal(stands_for(workdir), runs[1][1])


def test_runs_that_do_not_ask_for_it_are_left_alone(
    runs: tuple[pathlib.Path, dict[int, Params]], tmp_path: pathlib.Path
) -> None:
    workdir = copy_of(runs, "best", tmp_path)
    before = sorted(workdir.rglob("*"))
    whole = {"checkpoint": retention.plan(1, averaged=False, keep_optimizer=True)}
    damaged = {"checkpoint": retention.plan(7, averaged=False, keep_optimizer=False)}  # a step that is not there
    for report in ({}, whole, damaged):
        assert retention.drop_surplus(workdir, report) == ""
        assert sorted(workdir.rglob("*")) == before


def test_training_does_not_resume_from_weights_alone(
    runs: tuple[pathlib.Path, dict[int, Params]], tmp_path: pathlib.Path
) -> None:
    workdir = copy_of(runs, "best", tmp_path)
    retention.drop_surplus(workdir, report_of("best"))
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = TrainState(step=None, params={}, opt_state={}, key=None)
    with pytest.raises(UserError, match=r"weights of a finished run alone.*init=run:"):
        checkpoints.restore_latest(state, {})
    checkpoints.close()
