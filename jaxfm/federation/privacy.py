"""Differential privacy of clients: updates that are clipped, Gaussian noise on their sum, and what it adds up to.

The unit is a client: two federations are neighbours where one has a client more (McMahan et al. 2018, arXiv 1710.06963,
DP-FedAvg). Each round every client takes part with probability q, independently of the others, as the accountant
assumes; its update is scaled to an L2 norm of at most C over all its arrays together; the server adds N(0, (z C)^2) to
each number of the sum and divides by q N, whoever came (the fixed denominator of section 3 there: the number of those
who came is private too). What leaves a round is this noised mean alone: no metric, norm or count of a client.

The guarantee is one against whoever sees the models, not against the server. Noise is drawn from the seed and the
round, so that a simulation can be repeated and resumed: who knows the seed can take the noise away, so it is a secret
as long as the model is public. Noise is of floating-point numbers; the attack of Mironov 2012 on their lowest bits is
not defended against.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.errors import UserError, did_you_mean
from jaxfm.training.privacy_accounting import LEAST_NOISE, MOST_NOISE, RDP, epsilon_of, library, noise_for

Arrays = Mapping[str, np.ndarray]
EXAMPLE = "epsilon:8,delta:1e-5,clip_norm:0.5"
_NAMES = ("epsilon", "noise", "delta", "clip_norm")
_NOISE, _SAMPLING = 0x6E6F6973, 0x73616D70
"""Tell the draws of noise and of clients from each other and from others of a seed."""


@dataclasses.dataclass(frozen=True)
class Privacy:
    """What is asked for: a budget or an amount of noise, and the bound of an update.

    Attributes:
      clip_norm: C, the largest L2 norm of an update.
      delta: of (epsilon, delta)-privacy.
      epsilon: the budget of all rounds together; None: `noise` says how much noise there is.
      noise: z, the noise multiplier: standard deviation of the noise on the sum, in units of C; None: from `epsilon`.
    """

    clip_norm: float
    delta: float
    epsilon: float | None = None
    noise: float | None = None

    def __str__(self) -> str:
        budget = f"noise:{self.noise:g}" if self.epsilon is None else f"epsilon:{self.epsilon:g}"
        return f"{budget},delta:{self.delta:g},clip_norm:{self.clip_norm:g}"


def read_privacy(words: Sequence[str], flag: str = "--private") -> Privacy | None:
    """Reads what is asked for, as ("epsilon:8", "delta:1e-5", "clip_norm:0.5"); None of no words.

    Raises:
      UserError: a word of another form, an unknown name, one given twice, missing, or out of its range.
    """
    if not words:
        return None
    given, values = f"{flag}={','.join(words)}", dict[str, float]()
    for word in words:
        name, colon, text = word.partition(":")
        if not colon or name not in _NAMES:
            raise UserError(f"{given}: {word!r} must be NAME:NUMBER, as {EXAMPLE}. {did_you_mean(name, _NAMES)}")
        if name in values:
            raise UserError(f"{given}: names {name} twice.")
        try:
            values[name] = float(text)
        except ValueError:
            raise UserError(f"{given}: {text!r} must be a number, as {EXAMPLE}.") from None
        if not (0 < values[name] < math.inf):
            raise UserError(f"{given}: {name} must be a number above 0.")
    missing = [name for name in ("delta", "clip_norm") if name not in values]
    if missing or ("epsilon" in values) == ("noise" in values):
        lacking = " and ".join(missing) or "either epsilon, a budget, or noise, a multiplier"
        raise UserError(f"{given}: must have {lacking}, as {EXAMPLE}.")
    if values["delta"] >= 1:
        raise UserError(f"{given}: delta must be below 1, and below one divided by the number of clients.")
    if not LEAST_NOISE <= values.get("noise", 1.0) <= MOST_NOISE:
        raise UserError(f"{given}: noise must be from {LEAST_NOISE:g} to {MOST_NOISE:g}.")
    return Privacy(**values)


def global_norm(arrays: Arrays) -> float:
    """Returns the L2 norm over all arrays together, summed in f64."""
    return math.sqrt(sum(float(np.sum(np.square(each, dtype=np.float64))) for each in arrays.values()))


def clipped(difference: Arrays, clip_norm: float) -> dict[str, np.ndarray]:
    """Returns the difference scaled to an L2 norm of at most `clip_norm` over all arrays, f64.

    One that is not finite becomes zeros: no bound holds for it, and who sees the model may not learn of it.
    """
    norm = global_norm(difference)
    if not math.isfinite(norm):
        return {name: np.zeros(each.shape, np.float64) for name, each in difference.items()}
    # Rounding of the product may not push it above the bound again.
    scale = 1.0 if norm <= clip_norm else clip_norm / norm * (1 - 1e-12)
    return {name: np.asarray(each, np.float64) * scale for name, each in difference.items()}


def sample_clients(clients: int, rate: float, seed: int, round_number: int) -> np.ndarray:
    """Returns the numbers of the clients of a round, int64, rising: each is in it with probability `rate`, by itself.

    There may be none: a round without clients adds its noise like any other (it is among those that are counted).
    """
    draws = np.random.default_rng((seed, round_number, _SAMPLING)).random(clients)
    return np.flatnonzero(draws < rate)


def noise_like(shapes: Mapping[str, Sequence[int]], deviation: float, seed: int, round_number: int) -> Arrays:
    """Returns N(0, deviation^2) for each number, f64, in the order of the names: a function of seed and round."""
    generator = np.random.default_rng((seed, round_number, _NOISE))
    return {name: generator.normal(0.0, deviation, tuple(shapes[name])) for name in sorted(shapes)}


@dataclasses.dataclass(frozen=True)
class GaussianMechanism:
    """The mean of clipped updates with noise, of clients that are drawn independently of each other.

    Attributes:
      clip_norm: C, the largest L2 norm of an update.
      noise: z, the noise multiplier.
      rate: q, the probability with which a client is in a round.
      clients: N, of the federation, however many come.
      seed: of noise and sampling. A secret: whoever knows it can subtract the noise.
    """

    clip_norm: float
    noise: float
    rate: float
    clients: int
    seed: int

    @property
    def denominator(self) -> float:
        """The expected number of clients of a round, by which the sum is divided."""
        return self.rate * self.clients

    def sample(self, round_number: int) -> np.ndarray:
        """Returns the numbers of the clients of a round."""
        return sample_clients(self.clients, self.rate, self.seed, round_number)

    def mean(
        self, differences: Iterable[Arrays], shapes: Mapping[str, Sequence[int]], round_number: int
    ) -> dict[str, np.ndarray]:
        """Returns (the sum of the clipped differences + noise) / (q N), f64, of arrays of these shapes.

        Clients that were drawn and did not come count as zeros; with none at all the mean is noise.
        """
        total = {name: np.zeros(tuple(shape), np.float64) for name, shape in shapes.items()}
        for difference in differences:
            assert difference.keys() == total.keys(), (sorted(difference), sorted(total))
            for name, each in clipped(difference, self.clip_norm).items():
                total[name] += each
        return self.noised(total, round_number)

    def noised(self, total: Arrays, round_number: int) -> dict[str, np.ndarray]:
        """Returns (a sum of differences that clients have clipped + noise) / (q N), f64."""
        shapes = {name: each.shape for name, each in total.items()}
        noise = noise_like(shapes, self.noise * self.clip_norm, self.seed, round_number)
        return {name: (total[name] + noise[name]) / self.denominator for name in total}


@dataclasses.dataclass(frozen=True)
class Spent:
    """What a run has spent, as it is printed and kept.

    Attributes:
      epsilon, delta: (epsilon, delta)-privacy of everything so far, by privacy loss distributions (the tighter one).
      epsilon_rdp: the same delta by Rényi divergences; an upper bound too.
      rounds, rate, noise, clip_norm, clients: what it is computed from.
    """

    epsilon: float
    delta: float
    epsilon_rdp: float
    rounds: int
    rate: float
    noise: float
    clip_norm: float
    clients: int

    def __str__(self) -> str:
        return (
            f"epsilon {self.epsilon:.3g} at delta {self.delta:g} a client (Renyi: {self.epsilon_rdp:.3g}), "
            f"of {self.rounds} rounds, each client in a round with probability {self.rate:g}, noise multiplier "
            f"{self.noise:.4g}, clip_norm {self.clip_norm:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON values, with the unit and the kind of neighbours."""
        return {**dataclasses.asdict(self), "unit": "client", "neighbours": "one client more or less"}


def make_mechanism(privacy: Privacy, *, clients: int, rate: float, rounds: int, seed: int) -> GaussianMechanism:
    """Returns the mechanism whose noise keeps all rounds within the budget, or has the multiplier asked for.

    Raises:
      UserError: a delta that promises nothing to so many clients, a rate out of range, a budget that cannot be kept, or
        dp-accounting is not installed.
    """
    if not 0 < rate <= 1:
        raise UserError(
            f"--private={privacy}: the share of clients of a round must be above 0, at most 1; is {rate:g}."
        )
    if privacy.delta >= 1 / clients:
        raise UserError(
            f"--private={privacy}: delta must be below one divided by the number of clients, {1 / clients:g}: giving "
            "away one client whole would satisfy it."
        )
    noise = privacy.noise
    if noise is None:
        assert privacy.epsilon is not None
        noise = noise_for(privacy.epsilon, rate=rate, rounds=rounds, delta=privacy.delta)
    else:
        library()  # what was spent is told at the end: a run without the accountant ends here, not there
    return GaussianMechanism(privacy.clip_norm, noise, rate, clients, seed)


def spent(mechanism: GaussianMechanism, rounds: int, delta: float) -> Spent:
    """Returns what that many rounds of a mechanism have spent.

    Raises UserError where dp-accounting is not installed.
    """
    asked = {"noise": mechanism.noise, "rate": mechanism.rate, "rounds": rounds, "delta": delta}
    return Spent(
        epsilon_of(**asked),
        delta,
        epsilon_of(**asked, accountant=RDP),
        rounds,
        mechanism.rate,
        mechanism.noise,
        mechanism.clip_norm,
        mechanism.clients,
    )
