import itertools

import numpy as np
import pytest

from jaxfm.federation import shamir


def _draw(seed: int):
    generator = np.random.default_rng(seed)
    return lambda below: int.from_bytes(generator.bytes(66), "big") % below


def test_any_threshold_of_shares_give_the_secret_back() -> None:
    secret = 2**255 + 12345
    shares = shamir.share(secret, 5, 3, _draw(0))
    assert sorted(shares) == [1, 2, 3, 4, 5]
    for chosen in itertools.chain(itertools.combinations(shares, 3), itertools.combinations(shares, 5)):
        assert shamir.recover({x: shares[x] for x in chosen}) == secret


def test_one_share_less_fits_every_secret() -> None:
    """Of t - 1 shares and any secret there is one polynomial: the shares exclude none."""
    shares = shamir.share(7, 4, 3, _draw(1))
    known = {1: shares[1], 2: shares[2]}
    for other in (0, 7, 2**256 - 1):
        # The third share that would go with that secret, by the interpolation through (0, other) and the known ones.
        moved = {x + 1: value for x, value in {0: other, **known}.items()}  # shifted, as `recover` reads x = 0
        third = _value(moved, 4)
        assert shamir.recover({**known, 3: third}) == other
    assert shamir.recover(known) != 7


def _value(points: dict[int, int], at: int) -> int:
    """The polynomial through the points, by Lagrange."""
    total = 0
    for x, value in points.items():
        part = value
        for other in points:
            if other != x:
                part = part * (at - other) * pow(x - other, -1, shamir.PRIME) % shamir.PRIME
        total += part
    return total % shamir.PRIME


def test_a_threshold_of_one_is_the_secret_itself() -> None:
    assert set(shamir.share(9, 3, 1).values()) == {9}
    with pytest.raises(AssertionError):
        shamir.share(9, 3, 4)
