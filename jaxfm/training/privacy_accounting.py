"""What noise and sampling promise: epsilon at a delta of many rounds or steps, and the noise that a budget needs.

A thin layer over Google's dp-accounting (extra `privacy`). All figures are of the Gaussian mechanism: at each step
every unit (a row, a client) is taken with probability q, independently of the others, and its part of a sum, of L2 norm
at most C, is hidden by N(0, (z C)^2). Neighbours are data with one unit more or less.
"""

import functools
from typing import Any, NamedTuple

from jaxfm.errors import UserError, install_hint

ACCOUNTANTS = PLD, RDP = ("pld", "rdp")
LEAST_NOISE, MOST_NOISE = 0.2, 1e4
TOLERANCE = 1e-3  # of a noise multiplier that is searched for
# Of Renyi divergences. Fractional orders below 2 do not converge for large sampling rates, and say so in the log.
ORDERS = (*(order / 2 for order in range(4, 24)), *range(12, 64), 80, 96, 128, 256, 512)
_GRID = 1e-4  # of privacy losses, for an epsilon of 10 or less


class Truncation(NamedTuple):
    """A step that takes at most `most` of the `units`: of more that were drawn, a random subset."""

    units: int
    most: int


def epsilon_of(
    *, noise: float, rate: float, rounds: int, delta: float, accountant: str = PLD, truncation: Truncation | None = None
) -> float:
    """Returns epsilon at `delta` of `rounds` rounds of the Gaussian mechanism under Poisson sampling.

    Args:
      noise: z, the noise multiplier.
      rate: q, the probability with which a unit is in a round.
      rounds: how often; 0 spends nothing.
      delta: of (epsilon, delta)-privacy.
      accountant: "pld" (privacy loss distributions, discretised so that epsilon is never too small; Doroshenko et al.
        2022) or "rdp" (Renyi divergences; Mironov et al. 2019, arXiv 1908.10530).
      truncation: where a step has room for fewer than all units; for "pld" alone (Ganesh et al. 2025, arXiv
        2508.15089).

    Raises:
      UserError: dp-accounting is not installed.
    """
    if not rounds:
        return 0.0
    if truncation is not None and truncation.most < truncation.units:
        assert accountant == PLD, "Renyi divergences of truncated samples are not known"
        dp = library()
        once = dp.TruncatedSubsampledGaussianDpEvent(truncation.units, rate, truncation.most, noise)
        return float(_accountant(PLD).compose(dp.SelfComposedDpEvent(once, rounds)).get_epsilon(delta))
    event = _event(noise, rate=rate, rounds=rounds)
    by_divergence = float(_accountant(RDP).compose(event).get_epsilon(delta))
    if accountant == RDP:
        return by_divergence
    # Both are upper bounds. Those of distributions are the tighter ones, but for what rounding to their grid adds.
    return min(by_divergence, float(_accountant(PLD, by_divergence).compose(event).get_epsilon(delta)))


def noise_for(epsilon: float, *, rate: float, rounds: int, delta: float, accountant: str = PLD) -> float:
    """Returns the least noise multiplier, to 1e-3 above it, with which `rounds` rounds stay within epsilon at delta.

    Raises:
      UserError: no noise is enough, or dp-accounting is not installed.
    """
    dp = library()

    def calibrated(kind: str, bracket: Any) -> float:
        event = functools.partial(_event, rate=rate, rounds=rounds)
        return float(
            dp.calibrate_dp_mechanism(lambda: _accountant(kind, epsilon), event, epsilon, delta, bracket, tol=1e-3)
        )

    try:
        # Of Rényi divergences first: they are computed faster, and bound the noise that is needed from above.
        noise = calibrated(RDP, dp.LowerEndpointAndGuess(LEAST_NOISE, 1.0))
    except dp.mechanism_calibration.NoBracketIntervalFoundError:
        raise UserError(
            f"epsilon {epsilon:g} at delta {delta:g}: no noise is enough for {rounds} rounds, each unit in a "
            f"round with probability {rate:g}. Ask for a larger epsilon, fewer rounds or fewer clients a round."
        ) from None
    if accountant == RDP:
        return noise
    less = 0.8 * noise
    while less > LEAST_NOISE and epsilon_of(noise=less, rate=rate, rounds=rounds, delta=delta) <= epsilon:
        noise, less = less, 0.8 * less
    return calibrated(PLD, dp.ExplicitBracketInterval(less, noise)) if less > LEAST_NOISE else noise


def library() -> Any:
    """Returns the package `dp_accounting`; UserError where it is not installed."""
    try:
        import dp_accounting  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError(f"Accounting for privacy needs the package {error.name}: {install_hint('privacy')}.") from None
    return dp_accounting


def _accountant(kind: str, about: float = 0.0) -> Any:
    """Returns an accountant without events, for an epsilon of `about` that much: the grid is as fine as that needs."""
    assert kind in ACCOUNTANTS, kind
    dp = library()
    if kind == RDP:
        return dp.rdp.RdpAccountant(ORDERS)
    return dp.pld.PLDAccountant(value_discretization_interval=_GRID * max(1.0, about / 10))


def _event(noise: float, *, rate: float, rounds: int) -> Any:
    dp = library()
    once = dp.GaussianDpEvent(noise)
    return dp.SelfComposedDpEvent(once if rate == 1 else dp.PoissonSampledDpEvent(rate, once), rounds)
