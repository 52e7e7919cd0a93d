"""Slow, failing and poisoned clients: what each does in a round, whoever else there is."""

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation.faults import Faults, Turn, parse_of_clients
from jaxfm.federation.update import Update

STEPS = dict.fromkeys(range(100), 8)


def test_without_faults_all_do_all() -> None:
    assert Faults().turns(0, [2, 5], STEPS) == [Turn(2, 8), Turn(5, 8)]


def test_slow_clients_do_a_part_by_the_deadline() -> None:
    slow = {1: 0.5, 2: 0.05}
    turns = {turn.client: turn for turn in Faults(slow=slow).turns(0, [0, 1, 2], STEPS)}
    assert turns[1] == Turn(1, 4, "slow: 4 of 8 updates")
    assert turns[2] == Turn(2, 0, "late: 0 of 8 updates by the deadline")
    assert [turn.steps for turn in Faults(slow=slow, deadline=2.0).turns(0, [0, 1, 2], STEPS)] == [8, 8, 0]
    assert [turn.steps for turn in Faults(slow=slow, late="drop").turns(0, [0, 1, 2], STEPS)] == [8, 0, 0]
    assert [turn.steps for turn in Faults(deadline=0.5).turns(0, [0], STEPS)] == [4]


def test_clients_that_are_gone_receive_nothing() -> None:
    faults = Faults(gone={3: 2})
    assert faults.turns(0, [3], STEPS) == [Turn(3, 8)]  # round 1
    assert faults.turns(1, [3], STEPS) == [Turn(3, 0, "gone since round 2", receives=False)]


def test_shares_are_drawn_anew_each_round_and_the_same_again() -> None:
    faults = Faults(seed=1, stragglers=0.5, fail=0.2)
    rounds = [faults.turns(round, range(100), STEPS) for round in range(20)]
    failed = np.mean([turn.why == "dropped out" for turns in rounds for turn in turns])
    slow = np.mean([turn.why.startswith("slow") for turns in rounds for turn in turns])
    assert failed == pytest.approx(0.2, abs=0.03) and slow == pytest.approx(0.5 * 0.8, abs=0.04)
    assert all(1 <= turn.steps <= 8 for turns in rounds for turn in turns if turn.why != "dropped out")
    assert rounds[0] != rounds[1] and faults.turns(5, range(100), STEPS) == rounds[5]
    # Others who take part change nothing for a client.
    assert faults.turns(5, [42], STEPS) == [rounds[5][42]]


def test_poison() -> None:
    value = np.asarray([1.0, -2.0], np.float32)
    for kind, expected in (("sign_flip", [-3.0, 6.0]), ("scale", [3.0, -6.0]), ("nan", [np.nan, np.nan])):
        faults = Faults(poison={4: kind}, poison_scale=3.0)
        sent = faults.poisoned(Update(4, {"a": value}, 1, 1, {}, control={"a": value}), 0)
        np.testing.assert_array_equal(sent.difference["a"], np.asarray(expected, np.float32))
        assert sent.control is not None and np.array_equal(sent.control["a"], sent.difference["a"], equal_nan=True)
    honest = Update(3, {"a": value}, 1, 1, {})
    assert faults.poisoned(honest, 0) is honest
    large = Update(4, {"a": np.full(10_000, 0.5, np.float32)}, 1, 1, {})
    noise = [
        Faults(poison={4: "noise"}, poison_scale=2.0).poisoned(large, round).difference["a"] for round in (0, 0, 1)
    ]
    assert noise[0].std() == pytest.approx(1.0, rel=0.05) and abs(noise[0].mean()) < 0.05
    assert np.array_equal(noise[0], noise[1]) and not np.array_equal(noise[0], noise[2])


def test_options_of_clients() -> None:
    assert parse_of_clients("3:0.25, 7:0.5", "slow", float, "3:0.25") == {3: 0.25, 7: 0.5}
    assert parse_of_clients("", "slow", float, "3:0.25") == {}
    for text, message in (
        ("3", "must be CLIENT:VALUE"),
        ("x:1", "must be CLIENT:VALUE"),
        ("3:1,3:2", "client 3 twice"),
    ):
        with pytest.raises(UserError, match=message):
            parse_of_clients(text, "slow", float, "3:0.25")


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (Faults(stragglers=1.5), "--stragglers=1.5"),
        (Faults(slow={5: 0.5}), "--slow: there is no client 5; they are 0 to 4"),
        (Faults(slow={1: 2.0}), "--slow=1:2"),
        (Faults(gone={1: 0}), "rounds are counted from 1"),
        (Faults(poison={1: "sign"}), "--poison=1:sign: is unknown"),
        (Faults(late="skip"), "--late=skip"),
        (Faults(deadline=0.0), "--deadline=0"),
        (Faults(poison_scale=-1.0), "--poison_scale=-1"),
    ],
)
def test_what_is_refused(faults: Faults, message: str) -> None:
    with pytest.raises(UserError, match=message):
        faults.check(5)
