"""Population-based training: who takes over whom, by which values, and pretended searches that are killed."""

import dataclasses
import json
import math
import pathlib
import shutil
import threading
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training import continuation
from jaxfm.training import workdir as workdirs
from jaxfm.tuning import report, worker
from jaxfm.tuning.population import Population, ancestry, check_space, make_population
from jaxfm.tuning.pruning import Job
from jaxfm.tuning.space import Dimension, parse_space
from jaxfm.tuning.storage import Store
from jaxfm.tuning.trials import Generation, Trial
from tests.tuning.pretended import UPDATES, KilledError, Runs, searched

SPACE = (
    Dimension("optim.learning_rate", low=1e-5, high=1e-3, log=True),
    Dimension("optim.weight_decay", choices=(0.0, 0.01, 0.1)),
)
POPULATION = Population("population", (0.25, 0.5, 0.75), 4, True, seed=3)


@pytest.fixture(scope="module")
def config() -> Config:
    return from_config_dict({"task": {"name": "ner"}, "eval": {"metric": "f1"}})


@pytest.fixture(autouse=True)
def pretended_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretended runs have a file in place of checkpoints; what is copied is what they resume from."""

    def begin(parent: pathlib.Path, step: int, config: Config, folder: pathlib.Path, **_: Any) -> None:
        if (folder / "config.json").exists():
            return
        assert (parent / "saved").read_text() == str(step)
        folder.mkdir(exist_ok=True)
        for name in ("saved", "metrics.jsonl"):
            shutil.copyfile(parent / name, folder / name)
        workdirs.write_config(folder, config)

    monkeypatch.setattr(continuation, "begin", begin)


def at_rungs(*scores: tuple[float, ...]) -> list[Trial]:
    return [Trial(number, rung_scores=each) for number, each in enumerate(scores)]


def test_the_worst_quarter_takes_over_the_best_quarter() -> None:
    for count, expected in ((1, 0), (2, 1), (3, 1), (4, 1), (8, 2), (9, 2)):
        scores = np.random.default_rng(count).permutation(count).tolist()
        heirs = POPULATION.heirs(at_rungs(*((float(score),) for score in scores)), 0)
        order = sorted(range(count), key=lambda number: -scores[number])
        assert set(heirs) == set(order[count - expected :]) and set(heirs.values()) <= set(order[:expected])
    lower = dataclasses.replace(POPULATION, more_is_better=False)
    assert lower.heirs(at_rungs((0.1,), (0.2,)), 0) == {1: 0}
    # Equal scores: by number; undefined ones are the worst; who did not come to the rung has no place.
    assert POPULATION.heirs(at_rungs((0.1,), (0.1,)), 0) == {1: 0}
    assert POPULATION.heirs(at_rungs((math.nan,), (0.1,), (), (0.2,)), 0) == {0: 3}
    drawn = {
        seed: dataclasses.replace(POPULATION, seed=seed).heirs(at_rungs(*((i / 9,) for i in range(8))), 0)
        for seed in range(20)
    }
    assert {heirs[0] for heirs in drawn.values()} == {6, 7}


def test_values_are_perturbed_within_the_space() -> None:
    space = (
        *SPACE,
        Dimension("optim.b1", low=0.8, high=0.99),
        Dimension("train.x", low=0, high=8, step=2, is_integer=True),
    )
    params = {"optim.learning_rate": 9e-4, "optim.weight_decay": 0.0, "optim.b1": 0.9, "train.x": 4}
    found = [POPULATION.perturbed(space, params, Job(number, 1)) for number in range(400)]
    assert found[:3] == [POPULATION.perturbed(space, params, Job(number, 1)) for number in range(3)]
    assert found[0] != POPULATION.perturbed(space, params, Job(0, 2))
    rates = np.asarray([each["optim.learning_rate"] for each in found])
    scaled = np.isclose(rates, 7.2e-4) | np.isclose(rates, 1e-3)  # 1.2 times would leave the space
    assert abs(1 - scaled.mean() - 0.25) < 0.07 and rates.min() >= 1e-5 and rates.max() <= 1e-3
    assert 1e-5 < np.median(rates[~scaled]) < 3e-4  # drawn evenly in the logarithm
    decays = [each["optim.weight_decay"] for each in found]
    assert decays.count(0.01) > 300 and set(decays) == {0.0, 0.01, 0.1}  # a neighbour, but for a quarter
    steps = [each["train.x"] for each in found]
    assert steps.count(2) > 100 and steps.count(6) > 100 and set(steps) <= {0, 2, 4, 6, 8}
    assert np.isclose([each["optim.b1"] for each in found], 0.72).sum() == 0


def test_whom_others_need_waits_until_they_have_its_checkpoint() -> None:
    trials = dict(enumerate(at_rungs((0.1,), (0.4,), (0.2,), (0.3,))))
    assert POPULATION.jobs(trials, 4) == [Job(0, 1), Job(2, 1), Job(3, 1)]
    taken = dataclasses.replace(trials[0], generations=(Generation(0, 1, 3, {}),))
    assert POPULATION.jobs(trials | {0: taken}, 4) == [Job(number, 1) for number in range(4)]
    failed = dataclasses.replace(trials[0], state="failed")
    assert POPULATION.jobs(trials | {0: failed}, 4) == [Job(number, 1) for number in range(1, 4)]
    assert POPULATION.jobs({0: Trial(0, rung_scores=(0.1,))}, 2) == [Job(1, 0)]  # all stand still


def test_where_weights_come_from() -> None:
    first = {number: {"x": number} for number in range(3)}
    trials = {
        0: Trial(0, params=first[0], generations=(Generation(0, 1, 3, {"x": 10}), Generation(2, 2, 9, {"x": 12}))),
        1: Trial(1, params=first[1], generations=(Generation(1, 0, 6, {"x": 11}),)),
        2: Trial(2, params=first[2], generations=(Generation(1, 1, 6, {"x": 13}), Generation(2, 0, 9, {"x": 14}))),
    }
    line = [(each.step, each.number, each.params["x"]) for each in ancestry(trials, 0)]
    # Trial 2 as it was after 9 updates; before 6 it was trial 1 as it was before it took over another.
    assert line == [(0, 1, 1), (6, 2, 13), (9, 0, 12)]
    assert [(each.step, each.number) for each in ancestry({0: Trial(0)}, 0)] == [(0, 0)]


def played(folder: pathlib.Path, config: Config, runs: Runs, url: str = "") -> dict[str, Any]:
    """A whole search of eight, gone on with after each kill; search.json without what the clock decides."""
    search = searched(folder, config, SPACE, 8, sampler="random", pruner=POPULATION)
    for _ in range(300):
        store = Store(url or f"journal:{folder / 'journal'}", SPACE, (True,))
        store.enter("search")
        try:
            worker.work(search, store, runs, lambda text: None, lambda: None)
        except KilledError:
            continue
        finally:
            trials = list(search.trials(store).values())
            store.close()
        found = report.gather(search, trials)
        for trial in found["trials"]:
            del trial["seconds"]
        return found
    raise AssertionError("it does not end")


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        pretended_copies.__wrapped__(patch)  # pyright: ignore[reportFunctionMemberAccess]
        return played(tmp_path_factory.mktemp("whole"), config, Runs())


def test_a_population(whole: dict[str, Any]) -> None:
    taken = [(each["rung"], trial["number"]) for trial in whole["trials"] for each in trial["taken_over"]]
    assert sorted(rung for rung, _ in taken) == [0, 0, 1, 1, 2, 2]
    assert {each["state"] for each in whole["trials"]} == {"finished"}
    for trial in whole["trials"]:
        assert trial["workdir"] == f"trials/{trial['number']:04}" + (
            f".{len(trial['taken_over'])}" if trial["taken_over"] else ""
        )
        if trial["taken_over"]:
            assert trial["params"] == trial["taken_over"][-1]["params"]


def test_killed_at_every_step_it_has_the_same_trials(
    whole: dict[str, Any], config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, int]] = set()

    def kill(folder: pathlib.Path, step: int) -> bool:
        is_new = (folder.name, step) not in seen
        seen.add((folder.name, step))
        return is_new

    note, begin, calls = Store.note, continuation.begin, iter(range(1000))

    def dying_note(self: Store, number: int, curve: Any, facts: Any) -> None:
        note(self, number, curve, facts)
        if "generations" in facts and next(calls) % 2:
            raise KilledError

    def dying_begin(*arguments: Any, **options: Any) -> None:
        begin(*arguments, **options)
        if next(calls) % 3 == 0:
            raise KilledError

    monkeypatch.setattr(Store, "note", dying_note)
    monkeypatch.setattr(continuation, "begin", dying_begin)
    assert played(tmp_path, config, Runs(kill)) == whole and len(seen) > 8 * UPDATES / 4


def test_several_workers(whole: dict[str, Any], config: Config, tmp_path: pathlib.Path) -> None:
    errors: list[BaseException] = []

    def one() -> None:
        try:
            played(tmp_path, config, runs)
        except BaseException as error:
            errors.append(error)

    runs = Runs()
    workers = [threading.Thread(target=one) for _ in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert not errors and played(tmp_path, config, runs) == whole
    assert sum(runs.updates.values()) == 8 * UPDATES


def test_a_failed_member_leaves_a_smaller_population(config: Config, tmp_path: pathlib.Path) -> None:
    space = (Dimension("optim.learning_rate", choices=(1e-4, 2e-4, 3e-4, 0.9)),)
    search = searched(tmp_path, config, space, 4, sampler="grid", pruner=POPULATION)
    store = Store(f"journal:{tmp_path / 'journal'}", space, (True,))
    store.enter("search")
    worker.work(search, store, Runs(), lambda text: None, lambda: None)
    trials = list(search.trials(store).values())
    assert [each.state for each in trials].count("failed") >= 1
    assert [each.state for each in trials].count("finished") >= 2
    found = report.write_all(search, trials)
    text = (tmp_path / "search.md").read_text()
    assert "## Who took over whom" in text and (tmp_path / "plots" / "schedules.png").stat().st_size > 10_000
    assert found["importance"] == {} and "Importance" not in text


def test_the_winner_that_changed_has_a_program_not_a_config(config: Config, tmp_path: pathlib.Path) -> None:
    search = searched(tmp_path, config, SPACE, 2, sampler="random", pruner=POPULATION)
    values = {"optim.learning_rate": 1e-4, "optim.weight_decay": 0.1}
    other = values | {"optim.learning_rate": 2e-4}
    trials = [
        Trial(0, "finished", values, values=(0.5,), total_steps=12, curve=((12, 0.5),)),
        Trial(1, "finished", values, values=(0.6,), total_steps=12, curve=((12, 0.6),)),
    ]
    report.write_all(search, trials)
    assert (tmp_path / "best.py").is_file() and not (tmp_path / "repeat_best.py").exists()
    trials[1] = dataclasses.replace(trials[1], generations=(Generation(0, 0, 3, other),))
    report.write_all(search, trials)
    assert not (tmp_path / "best.py").exists()
    names: dict[str, Any] = {"__name__": "repeat"}
    exec(compile((tmp_path / "repeat_best.py").read_text(), "repeat_best.py", "exec"), names)  # noqa: S102
    assert names["CHANGES"] == [(3, other)]
    first = names["first_config"]()
    assert (first.optim.learning_rate, first.optim.weight_decay) == (1e-4, 0.1)
    assert "No single config gives it" in (tmp_path / "search.md").read_text()
    assert json.loads((tmp_path / "search.json").read_text())["trials"][1]["taken_over"][0]["trial"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"train.batch_size": {"low": 4, "high": 8}},
            "--space: train.batch_size: cannot change in the middle of a run",
        ),
        (
            {"optim.name": {"choices": ["adamw", "lion"]}},
            "--space: optim.name: cannot change .* varies model.attention_dropout, model.dropout",
        ),
        ({"optim.clip_norm": {"low": 0.0, "high": 1.0}}, "--space: optim.clip_norm: has the value 0.0, which switches"),
        ({"optim.sgd.momentum": {"choices": [0, 0.9]}}, "--space: optim.sgd.momentum: has the value 0"),
    ],
)
def test_keys_that_cannot_change_in_a_run_are_refused(config: Config, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_space(parse_space(content, config, "space"), config)


def test_keys_that_can_change(config: Config) -> None:
    content = {"optim.clip_norm": {"low": 0.5, "high": 1.0}, "model.dropout": {"choices": [None, 0.1]}}
    check_space(parse_space(content, config, "space"), config)
    learned = from_config_dict({"task": {"name": "embedding", "loss": {"learned_temperature": True}}})
    space = parse_space({"task.loss.temperature": {"low": 0.01, "high": 0.1}}, learned, "space")
    with pytest.raises(UserError, match="is only a first value where config.task.loss.learned_temperature is true"):
        check_space(space, learned)
    check_space(space, from_config_dict({"task": {"name": "embedding"}}))


def test_a_population_that_cannot_be_is_refused() -> None:
    assert make_population((), 4, True, 0, 8).rungs == (0.25, 0.5, 0.75)
    with pytest.raises(UserError, match="--trials=1: --pruner=population needs several trials"):
        make_population((), 4, True, 0, 1)
    with pytest.raises(UserError, match="--rungs=0.5,0.2: must be ascending"):
        make_population((0.5, 0.2), 4, True, 0, 8)
    with pytest.raises(UserError, match="--reduction=1: must be at least 2"):
        make_population((), 1, True, 0, 8)
