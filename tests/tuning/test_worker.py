"""Workers of a search over pretended runs: killed at every moment, several at once, trials that fail."""

import json
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import jax
import pytest

pytest.importorskip("optuna")
pytest.importorskip("cmaes")

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.fit import Pause
from jaxfm.tuning import report, worker
from jaxfm.tuning.optuna_sampling import check_sampler, draw
from jaxfm.tuning.pruning import Pruner
from jaxfm.tuning.space import Dimension
from jaxfm.tuning.storage import Store
from tests.tuning.pretended import EVERY, UPDATES, KilledError, Runs, score_of, searched

SPACE = (
    Dimension("optim.learning_rate", low=1e-5, high=1e-3, log=True),
    Dimension("train.batch_size", choices=(8, 16)),
)
CELLS = (Dimension("optim.learning_rate", choices=(1e-5, 1e-4, 1e-3)), Dimension("train.batch_size", choices=(8, 16)))
HALVING = Pruner("halving", (0.2, 0.5), 3)


@pytest.fixture(scope="module")
def config() -> Config:
    return from_config_dict({"task": {"name": "ner"}, "eval": {"metric": "f1"}})


def run(search: worker.Search, runs: Runs, url: str = "") -> dict[str, Any]:
    """Works until nothing is left; search.json, without what the clock decides."""
    store = Store(url or f"journal:{search.folder / 'journal'}", search.space, search.more_is_better)
    store.enter("search")
    try:
        worker.work(search, store, runs, lambda text: None, lambda: None)
        found = report.gather(search, list(search.trials(store).values()), has_ended=True)
    finally:
        store.close()
    for trial in found["trials"]:
        del trial["seconds"]
    return found


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random", "grid"])
def test_a_search_that_is_killed_over_and_over_has_the_same_trials(
    config: Config, tmp_path: pathlib.Path, sampler: str
) -> None:
    space = CELLS if sampler == "grid" else SPACE
    total = {"grid": 6, "random": 4}.get(sampler, 12)  # TPE draws at random before 10, CMA-ES before 6
    whole_runs = Runs()
    whole = run(searched(tmp_path / "whole", config, space, total, sampler=sampler), whole_runs)
    assert {each["state"] for each in whole["trials"]} == {"finished"}
    assert len({json.dumps(each["params"]) for each in whole["trials"]}) == total
    killed: list[tuple[str, int]] = []

    def kill(folder: pathlib.Path, step: int) -> bool:
        if (folder.name, step) in killed or step % 4:
            return False
        killed.append((folder.name, step))
        return True

    runs, search = Runs(kill), searched(tmp_path / "killed", config, space, total, sampler=sampler)
    found: dict[str, Any] = {}
    while not found:
        try:
            found = run(search, runs)
        except KilledError:
            continue
    assert found == whole and len(killed) == 3 * total
    lost = {name: EVERY * sum(each[0] == name for each in killed) for name in runs.updates}
    assert {name: done - lost[name] for name, done in runs.updates.items()} == whole_runs.updates


@pytest.mark.parametrize("pruner", [HALVING, Pruner("hyperband", (0.2, 0.5), 3), Pruner("median")])
def test_stopped_trials_too(config: Config, tmp_path: pathlib.Path, pruner: Pruner) -> None:
    whole = run(searched(tmp_path / "whole", config, SPACE, 9, pruner=pruner), Runs())
    seen: set[tuple[str, int]] = set()

    def kill(folder: pathlib.Path, step: int) -> bool:
        is_new = (folder.name, step) not in seen
        seen.add((folder.name, step))
        return is_new

    runs, search = Runs(kill), searched(tmp_path / "killed", config, SPACE, 9, pruner=pruner)
    for _ in range(9 * UPDATES):
        try:
            found = run(search, runs)
            break
        except KilledError:
            found = {}
    assert found == whole
    states = [each["state"] for each in whole["trials"]]
    assert states.count("finished") < 9 and set(states) <= {
        "finished",
        "stopped" if pruner.name == "median" else "waiting",
    }


def test_a_promoted_trial_makes_each_update_once(config: Config, tmp_path: pathlib.Path) -> None:
    runs = Runs()
    found = run(searched(tmp_path, config, SPACE, 9, pruner=HALVING), runs)
    assert sorted(runs.updates.values()) == [4] * 6 + [6] * 2 + [12]
    best = found["trials"][found["best"]]
    assert best["rung_scores"] and best["state"] == "finished" and best["steps"] == UPDATES
    at_first = sorted((each["rung_scores"][0] for each in found["trials"]), reverse=True)
    assert best["rung_scores"][0] in at_first[:3]
    more = run(searched(tmp_path, config, SPACE, 18, pruner=HALVING), runs)  # --trials is the total
    assert [each["params"] for each in more["trials"][:9]] == [each["params"] for each in found["trials"]]
    assert len(more["trials"]) == 18 and sorted(runs.updates.values()).count(12) >= 2


@pytest.mark.parametrize("moment", ["create_new_trial", "set_trial_param", "set_trial_user_attr", "values"])
def test_a_kill_while_the_storage_is_written_to(
    config: Config, tmp_path: pathlib.Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.storages import JournalStorage

    whole = run(searched(tmp_path / "whole", config, SPACE, 3), Runs())
    name = "set_trial_state_values" if moment == "values" else moment
    real: Callable[..., Any] = getattr(JournalStorage, name)
    calls = 0

    def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (1, 2, 3, 5, 8, 13, 21):
            raise KilledError
        return real(self, *arguments, **options)

    monkeypatch.setattr(JournalStorage, name, dying)
    search, runs, found = searched(tmp_path / "killed", config, SPACE, 3), Runs(), {}
    for _ in range(100):
        try:
            found = run(search, runs)
            break
        except KilledError:
            continue
    assert found == whole and set(runs.updates.values()) == {UPDATES}


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_several_workers_share_the_trials(config: Config, tmp_path: pathlib.Path, kind: str) -> None:
    search = searched(tmp_path, config, SPACE, 12, sampler="random", pruner=HALVING)
    url = f"journal:{tmp_path / 'journal'}" if kind == "journal" else f"sqlite:///{tmp_path / 'search.db'}"
    runs, errors = Runs(), []

    def one() -> None:
        try:
            run(search, runs, url)
        except BaseException as error:
            errors.append(error)

    run(searched(tmp_path, config, SPACE, 1, sampler="random", pruner=HALVING), Runs(), url)  # makes the tables
    workers = [threading.Thread(target=one) for _ in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not errors
    found = run(search, Runs(), url)
    alone = run(searched(tmp_path / "alone", config, SPACE, 12, sampler="random", pruner=HALVING), Runs())
    # Of values drawn at random nothing depends on who was first.
    assert [each["params"] for each in found["trials"]] == [each["params"] for each in alone["trials"]]
    assert found["best"] == alone["best"] and max(runs.updates.values()) == UPDATES


def test_a_trial_that_fails_is_not_the_end(config: Config, tmp_path: pathlib.Path) -> None:
    space = (Dimension("optim.learning_rate", choices=(1e-4, 0.9)), Dimension("train.batch_size", choices=(8, 16)))
    search = searched(tmp_path, config, space, 4, sampler="grid")
    store = Store(f"journal:{tmp_path / 'journal'}", space, (True,))
    store.enter("search")
    said: list[str] = []
    worker.work(search, store, Runs(), said.append, lambda: None)
    trials = list(store.trials().values())
    assert sorted(each.state for each in trials) == ["failed", "failed", "finished", "finished"]
    assert {each.error for each in trials if each.state == "failed"} == {"training diverged"}
    assert sum(": failed: training diverged" in line for line in said) == 2
    found = report.write_all(search, trials)
    text = (tmp_path / "search.md").read_text()
    assert "## Trials that failed" in text and found["trials"][found["best"]]["params"]["optim.learning_rate"] == 1e-4
    assert "train.batch_size" in text and "](plots/slices.png)" in text


def test_too_little_memory_fails_a_trial_and_a_bug_ends_the_search(config: Config, tmp_path: pathlib.Path) -> None:
    class Large(Runs):
        def __call__(self, config: Config, workdir: pathlib.Path, *, pause: Pause) -> Any:
            if config.train.batch_size == 16:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")
            return super().__call__(config, workdir, pause=pause)

    class Wrong(Runs):
        def __call__(self, config: Config, workdir: pathlib.Path, *, pause: Pause) -> Any:
            raise jax.errors.JaxRuntimeError("INTERNAL: of our own")

    found = run(searched(tmp_path / "large", config, CELLS, 6, sampler="grid"), Large())
    failed = [each for each in found["trials"] if each["state"] == "failed"]
    assert [each["params"]["train.batch_size"] for each in failed] == [16] * 3
    assert all(each["error"].startswith("does not fit into the memory of the devices") for each in failed)
    search = searched(tmp_path / "wrong", config, CELLS, 6, sampler="grid")
    with pytest.raises(jax.errors.JaxRuntimeError, match="of our own"):
        run(search, Wrong())
    assert {each["state"] for each in run(search, Runs())["trials"]} == {"finished"}  # once it is mended


def test_trials_that_all_fail_are_one_message(config: Config, tmp_path: pathlib.Path) -> None:
    space = (Dimension("optim.learning_rate", low=0.6, high=0.9),)
    search = searched(tmp_path, config, space, 3)
    store = Store(f"journal:{tmp_path / 'journal'}", space, (True,))
    store.enter("search")
    worker.work(search, store, Runs(), lambda text: None, lambda: None)
    with pytest.raises(UserError, match="all 3 trials of the search failed. The first one, trial 0: training diverged"):
        report.write_all(search, list(store.trials().values()))
    assert not (tmp_path / "best.py").exists()


def test_a_run_directory_of_something_else_is_not_a_failed_trial(config: Config, tmp_path: pathlib.Path) -> None:
    search = searched(tmp_path, config, SPACE, 1)
    (search.workdir(0)).mkdir(parents=True)
    (search.workdir(0) / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="0000: is not empty and holds no run"):
        run(search, Runs())


def test_two_objectives_and_their_front(config: Config, tmp_path: pathlib.Path) -> None:
    search = searched(tmp_path, config, SPACE, 12, objectives=("f1", "parameters"), more_is_better=(True, False))
    found = run(search, Runs())
    trials = {each["number"]: each for each in found["trials"]}
    sizes = {trials[number]["params"]["train.batch_size"] for number in found["front"]}
    assert trials[found["best"]]["values"][0] == max(each["values"][0] for each in trials.values())
    assert found["best"] in found["front"] and 8 in sizes
    store = Store(f"journal:{tmp_path / 'journal'}", SPACE, search.more_is_better)
    store.enter("search")
    report.write_all(search, list(store.trials().values()))
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        *("scores.png", "slices.png", "parallel.png", "front.png")
    }


def test_the_sampler_learns_and_says_what_matters(config: Config, tmp_path: pathlib.Path) -> None:
    found = run(searched(tmp_path, config, SPACE, 24), Runs())
    assert next(iter(found["importance"])) == "optim.learning_rate"
    assert sum(found["importance"].values()) == pytest.approx(1.0)
    best = found["trials"][found["best"]]
    assert best["values"][0] > score_of(config, UPDATES) - 0.05


def test_values_depend_on_the_number_and_the_trials_below_alone(config: Config) -> None:
    drawn = draw("tpe", SPACE, 0, 3, [], [True])
    assert drawn == draw("tpe", SPACE, 0, 3, [], [True])
    assert drawn != draw("tpe", SPACE, 0, 4, [], [True]) and drawn != draw("tpe", SPACE, 1, 3, [], [True])


def test_samplers_that_cannot_search_a_space() -> None:
    with pytest.raises(UserError, match="--sampler=cmaes: has one objective"):
        check_sampler("cmaes", SPACE, 2)
    with pytest.raises(UserError, match="--sampler=cmaes: needs keys with ranges"):
        check_sampler("cmaes", CELLS, 1)
    with pytest.raises(UserError, match="--sampler=grid: optim.learning_rate is a range without"):
        check_sampler("grid", SPACE, 1)


@pytest.mark.parametrize("url", ["postgresql://user:secret@localhost:1/none", "odd://x", "sqlite:////none/none.db"])
def test_a_storage_that_cannot_be_reached(url: str) -> None:
    with pytest.raises(UserError, match="--storage=.*: cannot be used") as error:
        Store(url, SPACE, (True,))
    assert "secret" not in str(error.value)
