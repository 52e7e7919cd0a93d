"""FedProx and SCAFFOLD against both algorithms written out in NumPy, on quadratics whose optimum is known."""

# Client i minimises a_i (y - b_i)^2 / 2 in each of D dimensions. C clients.

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfm.federation.corrections import Corrected, begin, corrected
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.update import Update

RATE, ROUNDS = 0.1, 60
A_CD = np.asarray([[1.0, 2.0], [4.0, 0.5], [0.3, 1.0]])
B_CD = np.asarray([[3.0, -1.0], [0.0, 2.0], [-5.0, 4.0]])
STEPS_C = (2, 5, 9)  # different numbers of local steps: what FedAvg does not converge with


def by_jaxfm(method: str, proximal: float = 0.0, rounds: int = ROUNDS, steps: tuple[int, ...] = STEPS_C) -> Any:
    optimizer = optax.with_extra_args_support(corrected(optax.sgd(RATE), method, proximal))
    server = Server({"y": np.zeros(2, np.float32)}, ServerRules(len(steps), len(steps)), control=method == "scaffold")
    controls: Any = [{"y": np.zeros(2, np.float32)} for _ in steps]
    for _ in range(rounds):
        updates = []
        for client, count in enumerate(steps):
            y: Any = {"y": jnp.asarray(server.values["y"])}
            offset = None
            if server.control is not None:
                offset = {"y": jnp.asarray(server.control["y"] - controls[client]["y"])}
            state = begin(optimizer.init(y), 0, offset)
            for _ in range(count):
                gradient = {"y": jnp.asarray(A_CD[client], jnp.float32) * (y["y"] - jnp.asarray(B_CD[client]))}
                change, state = optimizer.update(gradient, state, y, norm=optax.tree.norm(gradient))
                y = optax.apply_updates(y, change)
            change_of_control = None
            if isinstance(state, Corrected) and server.control is not None:
                new = np.asarray(state.total["y"]) / int(state.count)
                change_of_control = {"y": (new - controls[client]["y"]).astype(np.float32)}
                controls[client] = {"y": new}
            difference = {"y": np.asarray(y["y"]) - server.values["y"]}
            updates.append(Update(client, difference, 1, count, {}, change_of_control))
        server.receive(updates)
    return server


def by_hand(method: str, proximal: float = 0.0, rounds: int = ROUNDS, steps: tuple[int, ...] = STEPS_C) -> Any:
    """Algorithm 1 of Karimireddy et al. 2020 with option II; algorithm 2 of Li et al. 2020 with gradient descent."""
    x, c, c_C = np.zeros(2), np.zeros(2), np.zeros((len(steps), 2))
    for _ in range(rounds):
        moved, changes = [], []
        for i, count in enumerate(steps):
            y = x.copy()
            for _ in range(count):
                g = A_CD[i] * (y - B_CD[i])
                y = y - RATE * (g + proximal * (y - x) + (c - c_C[i] if method == "scaffold" else 0))
            moved.append(y - x)
            new = c_C[i] - c + (x - y) / (count * RATE)
            changes.append(new - c_C[i])
            c_C[i] = new
        x = x + np.mean(moved, axis=0)
        c = c + np.mean(changes, axis=0)
    return x, c


@pytest.mark.parametrize(("method", "proximal"), [("fedavg", 0.0), ("fedprox", 0.7), ("scaffold", 0.0)])
def test_a_method_is_that_of_its_paper(method: str, proximal: float) -> None:
    server = by_jaxfm(method, proximal, rounds=4)
    x, c = by_hand(method, proximal, rounds=4)
    np.testing.assert_allclose(server.values["y"], x, rtol=2e-5)
    if method == "scaffold":
        np.testing.assert_allclose(server.control["y"], c, rtol=1e-4, atol=1e-5)


def test_scaffold_comes_to_the_optimum_of_all_where_the_others_do_not() -> None:
    optimum = (A_CD * B_CD).sum(axis=0) / A_CD.sum(axis=0)
    found = {
        method: np.abs(by_jaxfm(method, 0.7 if method == "fedprox" else 0.0).values["y"] - optimum).max()
        for method in ("fedavg", "fedprox", "scaffold")
    }
    # SCAFFOLD's fixed point is the optimum, whatever the numbers of steps; a proximal term brings clients nearer.
    assert found["scaffold"] < 0.02 and found["fedavg"] > 0.3, found
    assert found["fedprox"] < found["fedavg"], found


def test_fedavg_and_no_proximal_term_leave_the_optimizer_alone() -> None:
    optimizer = optax.adam(0.1)
    assert corrected(optimizer, "fedavg") is optimizer and corrected(optimizer, "fedprox", 0.0) is optimizer


def test_clipping_is_told_the_norm_of_the_corrected_gradient() -> None:
    told = []

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        told.append(float(extra["norm"]))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    optimizer = optax.with_extra_args_support(corrected(inner, "fedprox", 1.0))
    state = optimizer.init({"y": jnp.zeros(2)})
    optimizer.update({"y": jnp.asarray([0.0, 1.0])}, state, {"y": jnp.asarray([3.0, 3.0])}, norm=jnp.asarray(1.0))
    assert told == [5.0]


def test_a_round_begins_at_its_own_place_of_the_schedule() -> None:
    optimizer = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(lambda count: 1.0 / (1 + count)))
    state = begin(optimizer.init({"y": jnp.zeros(2)}), 7)
    counts = [int(each) for each in (state[0].count, state[1].count)]
    assert counts == [0, 7]  # Adam's bias is that of fresh moments
