"""One config from several seeds: stopped and gone on with, and the table over them."""

import json
import pathlib
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.evaluation import many_runs
from jaxfm.observe.shown import Report
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs import seeds as program
from jaxfm.programs.runs import runs
from jaxfm.programs.seeds import seeds
from jaxfm.training import workdir as workdirs
from tests import tiny


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("seeds"), train__steps=2, eval__metric="f1")


def pretended(config: Config, workdir: pathlib.Path) -> Report:
    """What a run leaves that `seeds` reads, made at once; a finished one is merely reported, as `train` does."""
    if workdirs.status(workdir, config) == "new":
        workdirs.write_config(workdir, config)
        scores = {name: 1 / (index + config.seed + 2) for index, name in enumerate(("loss", "accuracy", "f1"))}
        files.write_json(
            workdir / "report.json", {"splits": {"test": scores}, "training": {"steps": 2, "seconds": 1.5}}
        )
    return Report(workdirs.read_report(workdir), workdir)


@pytest.fixture(scope="module")
def finished(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[pathlib.Path, dict[str, Any], int]]:
    """Two seeds, the second of which was stopped at first; what `seeds` gives, and when seed 3 was finished."""
    folder = tmp_path_factory.mktemp("several") / "runs"

    def stopped(of_seed: Config, workdir: pathlib.Path) -> Report:
        if of_seed.seed == 0:
            raise Preempted(15, 1)
        return pretended(of_seed, workdir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "train", stopped)
        with pytest.raises(Preempted):
            seeds(config, folder, [3, 0])
        assert not (folder / "seeds.json").exists()
        at = (folder / "seed3" / "report.json").stat().st_mtime_ns
        patch.setattr(program, "train", pretended)
        yield folder, seeds(config, folder, [3, 0]), at


def test_a_stopped_one_goes_on_where_it_was(finished: tuple[pathlib.Path, dict[str, Any], int]) -> None:
    folder, _, at = finished
    assert (folder / "seed3" / "report.json").stat().st_mtime_ns == at
    for seed in (3, 0):
        assert json.loads((folder / f"seed{seed}" / "config.json").read_text())["config"]["seed"] == seed


def test_mean_and_deviation_of_each_metric(finished: tuple[pathlib.Path, dict[str, Any], int]) -> None:
    folder, found, _ = finished
    assert (
        found["seeds"] == [3, 0]
        and found["metric"] == "f1"
        and json.loads((folder / "seeds.json").read_text()) == found
    )
    reports = [json.loads((folder / f"seed{seed}" / "report.json").read_text()) for seed in (3, 0)]
    for name in ("loss", "accuracy"):
        values = [report["splits"]["test"][name] for report in reports]
        assert values[0] != values[1]
        assert found["splits"]["test"][name] == {
            "values": values,
            "mean": statistics.fmean(values),
            "sd": pytest.approx(statistics.stdev(values)),
        }
    text = (folder / "seeds.md").read_text()
    assert "(seed3/report.md)" in text and f"{found['splits']['test']['loss']['mean']:.4f}" in text
    assert text.splitlines()[2].startswith("**test f1 ") and text.splitlines()[2].endswith(
        f"(standard deviation {found['splits']['test']['f1']['sd']:.4f})**"
    )
    table = runs([folder])
    assert {record["seed"] for record in table} == {0, 3} and {record["state"] for record in table} == {"finished"}


@pytest.mark.parametrize(
    ("values", "mean", "sd"),
    [([0.5], 0.5, None), ([0.5, float("nan")], None, None), ([0.25, 0.75], 0.5, 0.3535533905932738)],
)
def test_what_is_not_defined_has_no_mean(values: list[float], mean: float | None, sd: float | None) -> None:
    found = many_runs.statistics_of(values)
    assert found["mean"] == mean and found["sd"] == (sd if sd is None else pytest.approx(sd))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "--seeds: is empty"),
        ([0, 1, 0], "--seeds=0,1,0: 0 is given twice"),
        ([0, -1], "--seeds=0,-1: must be whole numbers from 0"),
    ],
)
def test_seeds_that_cannot_be_are_refused(
    config: Config, tmp_path: pathlib.Path, chosen: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        seeds(config, tmp_path / "runs", chosen)
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_refused_before_anything_is_trained(
    config: Config, finished: tuple[pathlib.Path, dict[str, Any], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished[0]
    monkeypatch.setattr(program, "train", lambda *_: pytest.fail("something was trained"))
    with pytest.raises(UserError, match="holds a run itself"):
        seeds(config, folder / "seed0", [1])
    with pytest.raises(UserError, match=r"seed0: holds a finished run of another config \(train\.steps: 2 -> 3\)"):
        seeds(tiny.replaced(config, train__steps=3), folder, [7, 0])
    assert not (folder / "seed7").exists()


@pytest.mark.slow
def test_seeds_are_trained_for_real_and_differ(tmp_path: pathlib.Path) -> None:
    found = seeds(tiny.config(tmp_path, train__steps=2), tmp_path / "runs", [0, 1])
    assert found["metric"] == "f1"  # what "auto" stands for here
    for seed in (0, 1):
        report = json.loads((tmp_path / "runs" / f"seed{seed}" / "report.json").read_text())
        assert report["seed"] == seed
        assert report["splits"]["test"]["loss"] == found["splits"]["test"]["loss"]["values"][seed]
    assert found["splits"]["test"]["loss"]["sd"] > 0
