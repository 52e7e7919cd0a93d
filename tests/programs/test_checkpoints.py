"""The program `checkpoints`: what it lists, finds damaged and removes, and that the only whole one stays."""

import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.programs.checkpoints import checkpoints, prune
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from tests import tiny
from tests.training.test_checkpoint import flip

BASE = {
    "train__steps": 8,
    "eval__every_steps": 2,
    "checkpoint__keep_last": 3,
    "checkpoint__keep_optimizer": True,
    "eval__metric": "loss",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    train(tiny.config(folder, **BASE), folder / "run")
    return folder / "run"


@pytest.fixture
def workdir(trained: pathlib.Path, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    shutil.copytree(trained, tmp_path / "run")
    yield tmp_path / "run"


def damage(workdir: pathlib.Path, step: int, part: str = "rest") -> None:
    for path in (workdir / "checkpoints" / str(step) / part).rglob("d/*"):
        flip(path)


def test_what_is_there_is_listed(workdir: pathlib.Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "4" / "rest")
    (workdir / "checkpoints" / "10.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    records = checkpoints(workdir)
    assert [(each["step"], each["parts"], each["state"]) for each in records] == [
        (4, "weights", ""),
        (6, "all", ""),
        (8, "all", ""),
        (None, "unfinished", ""),
    ]
    report = json.loads((workdir / "report.json").read_text())
    assert [each["step"] for each in records if each["best"]] == [report["training"]["chosen_step"]]
    assert records[1]["bytes"] > records[0]["bytes"] > 10_000


@pytest.mark.parametrize("part", ["params", "rest"])
def test_a_damaged_one_is_found_whatever_part_it_is(workdir: pathlib.Path, part: str) -> None:
    assert {each["state"] for each in checkpoints(workdir, verify=True)} == {"whole"}
    damage(workdir, 6, part)
    records = checkpoints(workdir, verify=True)
    assert [each["state"] for each in records] == ["whole", "damaged", "whole"]
    assert f"{workdir / 'checkpoints' / '6'}" in records[1]["why"]


def test_damaged_ones_go_and_nothing_else(workdir: pathlib.Path) -> None:
    damage(workdir, 6)
    (workdir / "checkpoints" / "damaged" / "2").mkdir(parents=True)
    (workdir / "checkpoints" / "10.orbax-checkpoint-tmp").mkdir()
    names = ["6", "2", "10.orbax-checkpoint-tmp"]
    assert [pathlib.Path(each["path"]).name for each in prune(workdir, dry_run=True)] == names
    assert (workdir / "checkpoints" / "6").is_dir()
    assert [pathlib.Path(each["path"]).name for each in prune(workdir)] == names
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["4", "8"]
    assert prune(workdir) == []


def test_the_newest_and_what_the_run_stands_for_stay(workdir: pathlib.Path) -> None:
    before = evaluate(workdir, "test").metrics
    report = json.loads((workdir / "report.json").read_text())
    prune(workdir, keep=1)
    steps = {each["step"] for each in checkpoints(workdir)}
    assert steps == {8, report["training"]["chosen_step"]}
    assert evaluate(workdir, "test").metrics == before


def test_the_only_whole_one_is_never_removed(workdir: pathlib.Path) -> None:
    for step in (6, 8):
        damage(workdir, step)
    prune(workdir, keep=1)
    assert [each["step"] for each in checkpoints(workdir)] == [4]
    damage(workdir, 4)
    with pytest.raises(UserError, match=r"none of its checkpoints is whole, so nothing is removed"):
        prune(workdir, keep=1)
    assert [each["step"] for each in checkpoints(workdir)] == [4]


def test_what_cannot_be_done_is_one_message(workdir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"holds no run of jaxfm"):
        checkpoints(tmp_path / "absent")
    with pytest.raises(UserError, match=r"--keep=0: must be at least 1"):
        prune(workdir, keep=0)
    with files.held(workdir / ".lock", "x"), pytest.raises(UserError, match=r"is writing there"):
        prune(workdir)


def test_the_program_shows_a_table_and_tells_by_its_code(workdir: pathlib.Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jaxfm.checkpoints", *words, f"--workdir={workdir}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    whole = run("verify", f"--output={workdir / 'out.json'}")
    assert whole.returncode == 0 and "checkpoints/8" in whole.stdout and not whole.stderr
    assert [each["state"] for each in json.loads((workdir / "out.json").read_text())] == ["whole"] * 3
    damage(workdir, 8)
    damaged = run("verify")
    assert damaged.returncode == 1 and "WARNING: " in damaged.stdout
    wrong = run("verfy")
    assert wrong.returncode == 2 and "Did you mean 'verify'?" in wrong.stderr
    assert "is a flag of prune" in run("list", "--keep=2").stderr


def test_reading_needs_no_mesh_of_the_run(workdir: pathlib.Path) -> None:
    """The run was saved over all devices; it is read on one."""
    assert jax.device_count() > 1
    assert {each["state"] for each in checkpoints(workdir, verify=True)} == {"whole"}
