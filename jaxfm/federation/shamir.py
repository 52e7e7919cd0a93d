"""Shamir's secret sharing (1979): a number cut into n shares of which any t give it back and t - 1 say nothing.

Arithmetic is modulo the Mersenne prime 2^521 - 1, which is above every secret here (256 bits).
"""

import secrets
from collections.abc import Callable, Mapping

PRIME = 2**521 - 1


def share(secret: int, holders: int, threshold: int, draw: Callable[[int], int] = secrets.randbelow) -> dict[int, int]:
    """Returns x -> share for x = 1 ... holders: values of a random polynomial of degree threshold - 1.

    Args:
      secret: 0 to PRIME - 1; the polynomial's value at 0.
      holders: n.
      threshold: t, from 1 to n.
      draw: a number from 0 to below its argument; of the operating system's generator by default.
    """
    assert 0 <= secret < PRIME and 1 <= threshold <= holders, (holders, threshold)
    coefficients = [secret, *(draw(PRIME) for _ in range(threshold - 1))]

    def value(x: int) -> int:
        total = 0
        for coefficient in reversed(coefficients):
            total = (total * x + coefficient) % PRIME
        return total

    return {x: value(x) for x in range(1, holders + 1)}


def recover(shares: Mapping[int, int]) -> int:
    """Returns the value at 0 of the polynomial through the shares: the secret, where they are `threshold` or more."""
    total = 0
    for x, value in shares.items():
        numerator, denominator = 1, 1
        for other in shares:
            if other != x:
                numerator = numerator * -other % PRIME
                denominator = denominator * (x - other) % PRIME
        total = (total + value * numerator * pow(denominator, -1, PRIME)) % PRIME
    return total
