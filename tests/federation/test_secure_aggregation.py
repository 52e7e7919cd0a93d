import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation import secure_aggregation as secure
from jaxfm.federation.secure_aggregation import FixedPoint, Party, simulate

CLIENTS = (0, 2, 3, 7)


def _draw(seed: int = 0):
    generator = np.random.default_rng(seed)
    return lambda below: int.from_bytes(generator.bytes(66), "big") % below


def _values(clients: tuple[int, ...] = CLIENTS, size: int = 1000) -> dict[int, dict[str, np.ndarray]]:
    generator = np.random.default_rng(5)
    return {
        client: {
            "encoder/kernel": generator.normal(size=(size, 3)).astype(np.float32),
            "head/bias": generator.normal(size=4).astype(np.float32),
        }
        for client in clients
    }


def _rounded_sum(values: dict[int, dict[str, np.ndarray]], fraction: int) -> dict[str, np.ndarray]:
    first = next(iter(values.values()))
    return {
        path: sum(np.rint(each[path].astype(np.float64) * 2**fraction) for each in values.values()) / 2**fraction
        for path in first
    }


@pytest.mark.parametrize(("bits", "fraction"), [(32, 20), (64, 40)])
def test_the_sum_is_exactly_that_of_the_rounded_values(bits: int, fraction: int) -> None:
    values = _values()
    done = simulate(values, FixedPoint(bits, fraction, 4), round_number=3)
    for path, expected in _rounded_sum(values, fraction).items():
        np.testing.assert_array_equal(done.total[path], expected)
        np.testing.assert_allclose(done.total[path], sum(each[path] for each in values.values()), atol=4 * 2**-20)
    assert done.gone == () and done.bytes_sent == 4 * 3004 * bits // 8


def test_the_sum_does_not_depend_on_the_secrets_and_each_round_has_other_masks() -> None:
    values, form = _values(size=5), FixedPoint(64, 40, 4)
    first, again = (simulate(values, form, draw=_draw(seed)) for seed in (1, 2))
    later = simulate(values, form, draw=_draw(1), round_number=1)
    for path in first.total:
        np.testing.assert_array_equal(first.total[path], again.total[path])
        np.testing.assert_array_equal(first.total[path], later.total[path])
        assert (first.masked[0][path] != again.masked[0][path]).any()
        assert (first.masked[0][path] != later.masked[0][path]).all()


@pytest.mark.parametrize("gone", [(7,), (0,), (2,)])
def test_masks_of_clients_that_drop_out_are_taken_off(gone: tuple[int, ...]) -> None:
    here = tuple(client for client in CLIENTS if client not in gone)
    values = _values(here, size=50)
    done = simulate(values, FixedPoint(64, 40, 4), clients=CLIENTS)
    assert done.gone == gone
    for path, expected in _rounded_sum(values, 40).items():
        np.testing.assert_array_equal(done.total[path], expected)


def test_two_of_six_drop_out() -> None:
    values = _values((0, 1, 3, 4), size=10)
    done = simulate(values, FixedPoint(32, 20, 6), clients=range(6))
    for path, expected in _rounded_sum(values, 20).items():
        np.testing.assert_array_equal(done.total[path], expected)


def test_a_masked_update_looks_uniform_and_says_nothing_of_the_values() -> None:
    """Of 65,536 numbers the top byte: chi-squared of 255 degrees of freedom, 400 is beyond 1 in 10^7."""
    zeros = {client: {"w": np.zeros(2**16)} for client in CLIENTS}
    masked = simulate(zeros, FixedPoint(32, 20, 4), draw=_draw(3)).masked[2]["w"]
    for shift in (24, 0):
        counts = np.bincount((masked >> np.uint32(shift)).astype(np.int64) & 255, minlength=256)
        assert ((counts - 256) ** 2 / 256).sum() < 400
    plain = FixedPoint(32, 20, 4).encode(_values()[2])["encoder/kernel"].ravel()
    hidden = simulate(_values(), FixedPoint(32, 20, 4), draw=_draw(4)).masked[2]["encoder/kernel"].ravel()
    assert abs(np.corrcoef(plain.view(np.int32).astype(float), hidden.view(np.int32).astype(float))[0, 1]) < 0.08
    # Without its own mask, and with the pairs' alone, the sum of all would still be right: both are on.
    assert (np.bincount((hidden >> np.uint32(24)).astype(np.int64), minlength=256) > 0).mean() > 0.99


def test_a_client_never_gives_away_both_secrets_of_another() -> None:
    parties = {number: Party(number, _draw(number)) for number in range(3)}
    for number, party in parties.items():
        for other, shares in party.shares_for(range(3), 2).items():
            parties[other].keep(number, shares)
    with pytest.raises(UserError, match="client 0: refuses to unmask client 1, said to be here and gone"):
        parties[0].reveal([0, 1], [1, 2])
    assert sorted(parties[0].reveal([0, 1], [2])) == [0, 1, 2]
    with pytest.raises(UserError, match="has given away its shares"):
        parties[0].reveal([0], [1, 2])


def test_both_of_a_pair_derive_one_key() -> None:
    first, second = Party(1, _draw(1)), Party(4, _draw(2))
    one = secure.pair_seed(first._pair_secret, second.public_key, 1, 4)
    assert one == secure.pair_seed(second._pair_secret, first.public_key, 4, 1) and len(one) == 32
    # The prime of RFC 3526 is one: Fermat's test to three bases, and its half too (a safe prime).
    for prime in (secure._PRIME, (secure._PRIME - 1) // 2):
        assert all(pow(base, prime - 1, prime) == 1 for base in (3, 5, 7))
    assert secure._PRIME.bit_length() == 2048


@pytest.mark.parametrize(
    ("clients", "arrived", "threshold", "message"),
    [
        ((0, 1), (0, 1), 0, "2 of 2 clients: needs three or more"),
        ((0, 1, 2), (0,), 0, "1 of 3 clients: needs three or more"),
        ((0, 1, 2, 3), (0, 1), 0, "2 of 4 clients are left, and 3 must be"),
        ((0, 1, 2, 3), (0, 1, 2), 2, "the threshold 2 must be from 3 to 4"),
        ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3), 4, "6 clients, and the integers have room for 5"),
    ],
)
def test_rounds_that_are_refused(
    clients: tuple[int, ...], arrived: tuple[int, ...], threshold: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        simulate(_values(arrived, size=1), FixedPoint(64, 40, 5), clients=clients, threshold=threshold)


def test_values_that_a_sum_has_no_room_for_are_refused() -> None:
    form = FixedPoint(32, 24, 4)
    assert 31 < form.limit < 32
    exact = form.encode({"w": np.array([-form.limit, form.limit])})
    np.testing.assert_allclose(form.decode(exact)["w"], [-form.limit, form.limit], atol=2**-24)
    four = exact["w"] * np.uint32(4)
    np.testing.assert_allclose(form.decode({"w": four})["w"], [-4 * form.limit, 4 * form.limit], atol=2**-22)
    for bad in (32.0, np.nan, np.inf):
        with pytest.raises(UserError, match="w has a value of size (32|nan|inf); modulo 2.32 with 24 binary places"):
            form.encode({"w": np.array([0.0, bad])})
    with pytest.raises(UserError, match="must be 2.32 or 2.64"):
        FixedPoint(16, 8, 4)
    with pytest.raises(UserError, match="no room for values of 1"):
        FixedPoint(32, 30, 4)
