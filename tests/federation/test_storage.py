"""The state of rounds on the disk: all of it, bit for bit, and a damaged round costs one round."""

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.storage import RoundStore
from jaxfm.federation.update import Update

START = {"encoder/a": np.arange(3, dtype=np.float32), "head/kernel": np.ones((2, 2), np.float32)}


class Known:
    """What the store asks of a client."""

    def __init__(self, number: int) -> None:
        self.number, self.control = number, None


def server(optimizer: str) -> Server:
    return Server(START, ServerRules(2, 2, optimizer=optimizer, rate=0.5), control=True)


def round_of(one: Server, scale: float) -> None:
    values = {path: np.float32(scale) * (value + 1) for path, value in START.items()}
    one.receive([Update(client, values, 1, 1, {}, control=values) for client in (0, 1)])


def damage(folder: pathlib.Path) -> None:
    """Cuts a byte off every file of the parameters."""
    for path in (folder / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("optimizer", ["sgd", "yogi"])
def test_all_of_it_comes_back(tmp_path: pathlib.Path, optimizer: str) -> None:
    store, one = RoundStore(tmp_path), server(optimizer)
    clients: Any = [Known(0), Known(1)]
    clients[1].control = {path: value * 3 for path, value in START.items()}
    kept = []
    for number in range(1, 5):
        round_of(one, 0.1 * number)
        kept.append(dict(one.values))
        store.save(one, clients, [{"round": each} for each in range(1, number + 1)], best=1)
    store.close()
    store, other = RoundStore(tmp_path), server(optimizer)
    again: Any = [Known(0), Known(1)]
    assert store.restore(other, again) == [{"round": each} for each in (1, 2, 3, 4)]
    assert other.round == 4 and again[0].control is None
    for path in START:
        assert np.array_equal(other.values[path], one.values[path])
        assert other.control is not None and one.control is not None
        assert np.array_equal(other.control[path], one.control[path])
        assert np.array_equal(again[1].control[path], clients[1].control[path])
        assert np.array_equal(store.values(1)[path], kept[0][path])  # the best one is kept
    round_of(one, 1.0)
    round_of(other, 1.0)
    assert all(np.array_equal(one.values[path], other.values[path]) for path in START)
    store.close()


def test_a_damaged_round_costs_one_round(tmp_path: pathlib.Path) -> None:
    store, one = RoundStore(tmp_path), server("sgd")
    for number in (1, 2):
        round_of(one, 0.1 * number)
        store.save(one, [], [{"round": each} for each in range(1, number + 1)], best=1)
    store.close()
    damage(tmp_path / "2")
    store, other = RoundStore(tmp_path), server("sgd")
    assert store.restore(other, []) == [{"round": 1}] and other.round == 1
    assert (tmp_path / "damaged" / "2").is_dir()
    store.close()
    damage(tmp_path / "1")
    store = RoundStore(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        store.restore(server("sgd"), [])
    store.close()


def test_without_a_round_there_is_nothing(tmp_path: pathlib.Path) -> None:
    store = RoundStore(tmp_path)
    assert store.restore(server("sgd"), []) == []
    store.close()
