"""The server: whom it draws, how it moves, and that its state is all of it."""

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation.aggregation import Aggregation
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.update import Update

START = {"a": np.asarray([1.0, -2.0, 0.5], np.float32)}
STEPS = [np.asarray(row, np.float32) for row in ([0.1, -0.3, 0.0], [0.2, 0.1, -0.4], [-0.1, 0.2, 0.3])]


def moved(optimizer: str, rate: float) -> np.ndarray:
    server = Server(START, ServerRules(1, 1, optimizer=optimizer, rate=rate))
    for step in STEPS:
        server.receive([Update(0, {"a": step}, 5, 1, {})])
    assert server.round == 3
    return server.values["a"]


def test_plain_averaging_takes_the_mean_as_it_is() -> None:
    np.testing.assert_allclose(moved("sgd", 1.0), START["a"] + sum(STEPS), rtol=1e-6)


def test_momentum_by_hand() -> None:
    x, v = START["a"].astype(np.float64), np.zeros(3)
    for step in STEPS:
        v = 0.9 * v + step
        x = x + 0.5 * v
    np.testing.assert_allclose(moved("momentum", 0.5), x, rtol=1e-5)


def test_adaptive_servers_by_hand() -> None:
    """Reddi et al. 2021, algorithm 2, with Adam's correction of the bias; tau 1e-3, as in their section 5."""
    b1, b2, tau, rate = 0.9, 0.99, 1e-3, 0.1
    for name in ("adam", "yogi", "adagrad"):
        x, m, v = START["a"].astype(np.float64), np.zeros(3), np.full(3, 1e-6 if name == "yogi" else 0.0)
        if name == "yogi":
            m = np.full(3, 1e-6)  # where optax begins
        for count, step in enumerate(STEPS, start=1):
            g = step.astype(np.float64)
            m = b1 * m + (1 - b1) * g if name != "yogi" else b1 * m + (1 - b1) * -g
            if name == "adagrad":
                v = v + g**2
                x = x + rate * g / np.where(v > 0, np.sqrt(v + tau), 1.0)
                continue
            v = b2 * v + (1 - b2) * g**2 if name == "adam" else v - (1 - b2) * np.sign(v - g**2) * g**2
            sign = 1.0 if name == "adam" else -1.0
            x = x + sign * rate * m / (1 - b1**count) / (np.sqrt(v / (1 - b2**count)) + tau)
        np.testing.assert_allclose(moved(name, rate), x, rtol=1e-4, err_msg=name)


def test_clients_are_drawn_by_the_round() -> None:
    server = Server(START, ServerRules(10, 3, seed=5))
    drawn = [server.select(round) for round in range(200)]
    assert all(len(set(each)) == 3 and each == sorted(each) for each in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert counts.min() > 35 and counts.max() < 90  # 60 each on average
    assert server.select(7) == drawn[7] and len({tuple(each) for each in drawn}) > 50
    assert Server(START, ServerRules(4, 4)).select(0) == [0, 1, 2, 3]


def test_a_control_variate_moves_by_the_share_of_clients() -> None:
    server = Server(START, ServerRules(4, 2), control=True)
    control = {"a": np.ones(3, np.float32)}
    server.receive([Update(client, {"a": STEPS[0]}, 1, 1, {}, control=control) for client in (0, 3)])
    assert server.control is not None
    np.testing.assert_allclose(server.control["a"], 0.5)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "yogi", "adagrad"])
def test_a_restored_server_goes_on_to_the_same_bits(optimizer: str) -> None:
    def fresh() -> Server:
        return Server(START, ServerRules(1, 1, optimizer=optimizer, rate=0.3), control=True)

    def update(step: np.ndarray) -> list[Update]:
        return [Update(0, {"a": step}, 1, 1, {}, control={"a": step})]

    server, again = fresh(), fresh()
    server.receive(update(STEPS[0]))
    again.restore(server.state(), 1)
    for step in STEPS[1:]:
        server.receive(update(step))
        again.receive(update(step))
    assert again.round == server.round == 3 and again.control is not None and server.control is not None
    assert np.array_equal(again.values["a"], server.values["a"])
    assert np.array_equal(again.control["a"], server.control["a"])


def test_a_state_taken_before_a_round_undoes_it() -> None:
    server = Server(START, ServerRules(1, 1, optimizer="adam", rate=0.1))
    state, other = server.state(), Server(START, ServerRules(1, 1, optimizer="adam", rate=0.1))
    server.receive([Update(0, {"a": STEPS[0]}, 1, 1, {})])
    server.restore(state, 0)
    server.skip()
    assert server.round == 1 and np.array_equal(server.values["a"], START["a"])
    server.receive([Update(0, {"a": STEPS[1]}, 1, 1, {})])
    other.receive([Update(0, {"a": STEPS[1]}, 1, 1, {})])
    assert np.array_equal(server.values["a"], other.values["a"])


def test_what_cannot_be_used_changes_nothing() -> None:
    server = Server(START, ServerRules(2, 2, aggregation=Aggregation("median")))
    with pytest.raises(UserError, match="not finite"):
        server.receive([Update(0, {"a": np.full(3, np.inf, np.float32)}, 1, 1, {})])
    assert server.round == 0 and np.array_equal(server.values["a"], START["a"])
    for rules, message in (
        (dict(clients=0, per_round=1), "--clients=0"),
        (dict(clients=2, per_round=3), "--per_round=3"),
        (dict(clients=2, per_round=1, optimizer="adamm"), "Did you mean 'adam'"),
        (dict(clients=2, per_round=1, rate=0.0), "--server_rate=0"),
    ):
        with pytest.raises(UserError, match=message):
            ServerRules(**rules)  # type: ignore[arg-type]
