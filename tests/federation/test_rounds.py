"""Rounds with clients that are quadratics: who answers, what a quorum refuses, what survives poison, exact restart."""

# Client i minimises |y - b_i|^2 / 2 by gradient descent; its score is minus the distance to b_i.

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation.aggregation import Aggregation
from jaxfm.federation.faults import Faults
from jaxfm.federation.rounds import Goal, Quorum, Rounds, best_round, describe
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.storage import RoundStore
from jaxfm.federation.update import Scores, Update, Values
from jaxfm.observe.progress import Progress

TARGETS = np.asarray([[1.0, 1.0], [1.1, 0.9], [0.9, 1.1], [1.0, 0.8], [0.8, 1.0]], np.float32)


class Quadratic:
    """What `Rounds` asks of a client."""

    def __init__(self, number: int) -> None:
        self.number, self.steps, self.control = number, 4, None
        self.trained: list[tuple[int, int]] = []
        self.settled: list[bool] = []

    def train(self, values: Values, round: int, *, steps: int, control: Any = None) -> Update:
        del control
        self.trained.append((round, steps))
        y = values["y"]
        for _ in range(steps):
            y = y - np.float32(0.2) * (y - TARGETS[self.number])
        loss = float(np.square(y - TARGETS[self.number]).sum())
        return Update(self.number, {"y": y - values["y"]}, 10, steps, {"loss": loss})

    def score(self, values: Values) -> Scores:
        return Scores(self.number, 5, {"score": -float(np.linalg.norm(values["y"] - TARGETS[self.number]))})

    def settle(self, *, accepted: bool) -> None:
        self.settled.append(accepted)


def simulation(folder: pathlib.Path, *, optimizer: str = "sgd", rate: float = 1.0, **parts: Any) -> Rounds:
    rules = ServerRules(5, parts.pop("per_round", 5), 0, parts.pop("how", Aggregation()), optimizer, rate)
    clients: Any = [Quadratic(number) for number in range(5)]
    goal = Goal("score", True, None, parts.pop("every", 1), best=parts.pop("best", False))
    return Rounds(
        server=Server({"y": np.zeros(2, np.float32)}, rules),
        clients=clients,
        work=parts.pop("work", None),
        faults=parts.pop("faults", Faults()),
        quorum=parts.pop("quorum", Quorum()),
        goal=goal,
        store=RoundStore(folder),
        progress=Progress(None, quiet=True),
    )


def test_rounds_come_to_the_mean_of_what_clients_want(tmp_path: pathlib.Path) -> None:
    rounds = simulation(tmp_path)
    history = rounds.run(12)
    np.testing.assert_allclose(rounds.server.values["y"], TARGETS.mean(axis=0), atol=1e-4)
    assert [each["round"] for each in history] == list(range(1, 13))
    last = history[-1]
    assert last["answered"] == [0, 1, 2, 3, 4] and last["accepted"] and not last["dropped"]
    # Two f32 numbers, five clients, each way.
    assert last["bytes_down"] == last["bytes_up"] == 5 * 8
    own = [-float(np.linalg.norm(rounds.server.values["y"] - target)) for target in TARGETS]
    assert last["held_out"]["mean"] == pytest.approx(np.mean(own)) and last["held_out"]["worst"] == min(own)
    json.dumps(history)
    rounds.store.close()


def test_partial_rounds_ask_those_that_are_drawn(tmp_path: pathlib.Path) -> None:
    rounds = simulation(tmp_path, per_round=2, every=3)
    history = rounds.run(4)
    for client in rounds.clients:
        drawn = [round for round in range(4) if client.number in rounds.server.select(round)]
        assert client.trained == [(round, 4) for round in drawn]  # type: ignore[attr-defined]
    assert all(len(each["answered"]) == 2 for each in history)
    assert ["held_out" in each for each in history] == [False, False, True, True]
    rounds.store.close()


def test_slow_and_lost_clients_are_named_and_the_others_go_on(tmp_path: pathlib.Path) -> None:
    faults = Faults(slow={1: 0.5, 2: 0.1}, gone={4: 2})
    rounds = simulation(tmp_path, faults=faults)
    one, two = rounds.run(2)
    assert one["answered"] == [0, 1, 3, 4] and one["steps"]["1"] == 2
    assert one["slow"] == {"1": "slow: 2 of 4 updates"}
    assert one["dropped"] == {"2": "late: 0 of 4 updates by the deadline"}
    assert two["dropped"]["4"] == "gone since round 2" and two["bytes_down"] == 4 * 8 and two["bytes_up"] == 3 * 8
    assert "client 4: gone since round 2" in describe(two, 2, "score", is_best=False)
    assert rounds.clients[2].settled == [False, False]  # type: ignore[attr-defined]
    rounds.store.close()


@pytest.mark.parametrize(("rule", "survives"), [("mean", False), ("median", True), ("trimmed_mean", True)])
def test_a_flipped_sign_is_survived_by_the_median_and_not_by_the_mean(
    tmp_path: pathlib.Path, rule: str, survives: bool
) -> None:
    faults = Faults(poison={3: "sign_flip"}, poison_scale=8.0)
    rounds = simulation(tmp_path, how=Aggregation(rule, 0.2), faults=faults)
    history = rounds.run(10)
    distance = np.abs(rounds.server.values["y"] - TARGETS.mean(axis=0)).max()
    assert (distance < 0.15) == survives and (distance > 2.0) != survives, distance
    assert all(each["poisoned"] == [3] for each in history)
    rounds.store.close()


def test_values_that_are_not_finite_are_left_out_and_named(tmp_path: pathlib.Path) -> None:
    rounds = simulation(tmp_path, faults=Faults(poison={0: "nan"}))
    (record,) = rounds.run(1)
    assert record["answered"] == [1, 2, 3, 4] and "not finite" in record["dropped"]["0"]
    assert np.isfinite(rounds.server.values["y"]).all()
    rounds.store.close()


def test_a_quorum_refuses_what_is_worse_and_the_server_goes_back(tmp_path: pathlib.Path) -> None:
    faults = Faults(poison={3: "sign_flip"}, poison_scale=30.0)
    rounds = simulation(tmp_path, faults=faults, quorum=Quorum(3), optimizer="adam", rate=0.1)
    before = rounds.server.values["y"].copy()
    history = rounds.run(2)
    assert [each["accepted"] for each in history] == [False, False]
    assert len(history[0]["votes"]) == 3 and set(history[0]["votes"].values()) == {"against"}
    assert np.array_equal(rounds.server.values["y"], before) and rounds.server.round == 2
    assert all(client.settled == [False, False] for client in rounds.clients)  # type: ignore[attr-defined]
    assert "is refused" in describe(history[0], 2, "score", is_best=False)
    rounds.store.close()
    honest = simulation(tmp_path / "honest", quorum=Quorum(3))
    assert all(each["accepted"] for each in honest.run(2))
    assert all(client.settled == [True, True] for client in honest.clients)  # type: ignore[attr-defined]
    honest.store.close()


def test_a_tolerance_lets_a_little_worse_pass(tmp_path: pathlib.Path) -> None:
    quorum = Quorum(5, tolerance=0.0)
    drawn = [quorum.members(9, round) for round in range(30)]
    assert len({tuple(each) for each in drawn}) > 10 and all(len(set(each)) == 5 for each in drawn)
    rounds = simulation(tmp_path, faults=Faults(poison={3: "sign_flip"}, poison_scale=8.0), quorum=Quorum(5, 100.0))
    assert all(each["accepted"] for each in rounds.run(2))
    rounds.store.close()


@pytest.mark.parametrize("stop_in", ["training", "saving"])
def test_a_killed_simulation_goes_on_to_the_same_bits(
    tmp_path: pathlib.Path, stop_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(folder: str) -> Rounds:
        faults = Faults(stragglers=0.5, fail=0.1)
        return simulation(tmp_path / folder, faults=faults, per_round=3, optimizer="yogi", rate=0.2, quorum=Quorum(2))

    whole = make("whole")
    expected = whole.run(6)
    whole.store.close()
    killed = make("killed")

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    killed.run(3)
    with monkeypatch.context() as patch:
        if stop_in == "training":
            patch.setattr(Quadratic, "score", dies)  # after the server has moved
        else:
            patch.setattr(RoundStore, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            killed.run(6)
    killed.store.close()
    again = make("killed")
    assert again.run(6) == expected
    assert np.array_equal(again.server.values["y"], whole.server.values["y"])
    again.store.close()


def test_the_best_round_is_kept_and_can_be_had_later(tmp_path: pathlib.Path) -> None:
    # The poisoned client joins the rounds late: the model is best before.
    rounds = simulation(tmp_path, best=True, faults=Faults(poison={3: "scale"}, poison_scale=40.0), per_round=4)
    history = rounds.run(6)
    kept, values = rounds.result(history)
    goal = rounds.goal
    assert kept == best_round(history, goal) and kept < 6
    mean = np.mean([client.score(values).metrics["score"] for client in rounds.clients])
    assert mean == pytest.approx(history[kept - 1]["held_out"]["mean"])
    rounds.store.close()


def test_a_goal_without_scores_keeps_the_last_round() -> None:
    goal = Goal("f1", True, None)
    records = [{"round": number, "held_out": {"weighted_mean": None}} for number in (1, 2)]
    assert best_round(records, goal) == 2
    records = [{"round": 1, "valid": {"f1": 0.5}}, {"round": 2}, {"round": 3, "valid": {"f1": 0.5}}]
    assert best_round(records, goal) == 1
    assert best_round([*records, {"round": 4, "valid": {"f1": math.nan}}], goal) == 1
    assert (
        best_round([{"round": 1, "valid": {"f1": 2.0}}, {"round": 2, "valid": {"f1": 1.0}}], Goal("f1", False, None))
        == 2
    )


def test_a_simulation_in_which_nobody_answers_is_refused(tmp_path: pathlib.Path) -> None:
    rounds = simulation(tmp_path, faults=Faults(fail=1.0))
    with pytest.raises(UserError, match="no client has answered in any round"):
        rounds.run(2)
    rounds.store.close()
