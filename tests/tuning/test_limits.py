"""Limits of a search over pretended runs: models above them are drawn again, and never trained."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("optuna")

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks.registry import from_config_dict
from jaxfm.tuning import report
from jaxfm.tuning.space import Dimension
from jaxfm.tuning.worker import Search
from tests.tuning.pretended import KilledError, Runs, searched
from tests.tuning.test_worker import run

SPACE = (
    Dimension("optim.learning_rate", low=1e-5, high=1e-3, log=True),
    Dimension("train.batch_size", low=1, high=32, is_integer=True),
)


@pytest.fixture(scope="module")
def config() -> Config:
    return from_config_dict({"task": {"name": "ner"}, "eval": {"metric": "f1"}})


def size(config: Config) -> Mapping[str, float]:
    """Stands for a cost model: large batches cost, and 7 goes with nothing."""
    if config.train.batch_size == 7:
        raise UserError("no model has 7")
    return {"flops": 1e6 * config.train.batch_size, "parameters": 10.0}


def limited(folder: pathlib.Path, config: Config, total: int = 12, most: float = 8e6, **options: Any) -> Search:
    made = searched(folder, config, options.pop("space", SPACE), total, **options)
    return dataclasses.replace(made, cost_model=size, limits={"flops": most})


def test_models_above_a_limit_are_never_trained(config: Config, tmp_path: pathlib.Path) -> None:
    runs = Runs()
    found = run(limited(tmp_path / "some", config), runs)
    sizes = [trial["params"]["train.batch_size"] for trial in found["trials"]]
    assert {trial["state"] for trial in found["trials"]} == {"finished"} and len(runs.updates) == 12
    assert max(sizes) <= 8 and 7 not in sizes and len(set(sizes)) > 2
    assert [trial["costs"]["flops"] for trial in found["trials"]] == [1e6 * each for each in sizes]
    assert found["costs"] == ["flops"] and found["most"] == {"flops": 8e6}
    table = report.best_table(found)
    assert table.columns[2] == "flops" and table.rows[0][2] in [1e6 * each for each in sizes]
    # The first draws are those of a search without limits where these are within.
    free = run(searched(tmp_path / "free", config, SPACE, 12), Runs())
    same = [a["params"] == b["params"] for a, b in zip(free["trials"], found["trials"], strict=True)]
    assert 0 < sum(same) < 12


def test_a_search_with_limits_that_is_killed_has_the_same_trials(config: Config, tmp_path: pathlib.Path) -> None:
    whole = run(limited(tmp_path / "whole", config), Runs())
    killed: set[str] = set()

    def kill(folder: pathlib.Path, step: int) -> bool:
        first = folder.name not in killed
        killed.add(folder.name)
        return first

    search, runs, found = limited(tmp_path / "killed", config), Runs(kill), {}
    while not found:
        try:
            found = run(search, runs)
        except KilledError:
            continue
    assert found == whole and len(killed) == 12


def test_costs_can_be_objectives(config: Config, tmp_path: pathlib.Path) -> None:
    search = limited(tmp_path, config, objectives=("f1", "flops"), more_is_better=(True, False))
    found = run(search, Runs())
    assert all(trial["values"][1] == trial["costs"]["flops"] for trial in found["trials"])
    assert report.best_table(found).columns[:3] == ("trial", "f1", "flops") and found["front"]


def test_cells_of_a_grid_that_are_above_fail_without_being_trained(config: Config, tmp_path: pathlib.Path) -> None:
    space = (Dimension("train.batch_size", choices=(4, 7, 8, 16)),)
    runs = Runs()
    found = run(limited(tmp_path, config, 4, sampler="grid", space=space), runs)
    errors = {trial["params"]["train.batch_size"]: trial["error"] for trial in found["trials"]}
    assert errors == {4: "", 7: "no model has 7", 8: "", 16: "flops 16,000,000 is above the limit of 8,000,000"}
    assert len(runs.updates) == 2


def test_limits_that_no_draw_is_within_end_the_search(config: Config, tmp_path: pathlib.Path) -> None:
    runs = Runs()
    with pytest.raises(UserError) as caught:
        run(limited(tmp_path, config, most=5e5), runs)
    assert "--most: none of 100 draws for trial 0 can be trained; the last: flops" in str(caught.value)
    assert not runs.updates
