"""What goes wrong with clients in a simulation: slow ones, ones that are gone, and ones that send poison.

Whether and how is a function of the seed, the round and the client's number, so that a resumed simulation repeats it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from jaxfm.errors import UserError, did_you_mean
from jaxfm.federation.update import Update, Values

Value = TypeVar("Value")
PARTIAL, DROP = LATE = ("partial", "drop")
SIGN_FLIP, SCALE, NOISE, NAN = POISONS = ("sign_flip", "scale", "noise", "nan")
_FAIL, _STRAGGLE, _PART, _NOISE = 21, 22, 23, 24  # streams of random numbers


class Turn(NamedTuple):
    """What a client does in a round.

    Attributes:
      client: its number.
      steps: updates that it does; 0: it sends nothing.
      why: that is so, where it does not do all of them; "" where it does.
      receives: whether it has received the model at all.
    """

    client: int
    steps: int
    why: str = ""
    receives: bool = True


@dataclasses.dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
      seed: of whatever is drawn.
      stragglers: share of the clients of a round, drawn anew, that get through a part of their steps alone, any part
        alike (Li et al. 2020, section 5.2).
      slow: client -> its speed, as a part of the others'.
      deadline: when the server goes on, in times that a client of speed 1 needs for its steps.
      late: "partial": what a client has done until then is taken; "drop": it is left out.
      gone: client -> the first round, from 1, in which it does not answer any more.
      fail: share of the clients of a round, drawn anew, that do not answer.
      poison: client -> one of POISONS.
      poison_scale: what a poisoned update is multiplied by.
    """

    seed: int = 0
    stragglers: float = 0.0
    slow: Mapping[int, float] = dataclasses.field(default_factory=dict)
    deadline: float = 1.0
    late: str = PARTIAL
    gone: Mapping[int, int] = dataclasses.field(default_factory=dict)
    fail: float = 0.0
    poison: Mapping[int, str] = dataclasses.field(default_factory=dict)
    poison_scale: float = 1.0

    def check(self, clients: int) -> None:
        """Raises UserError for numbers out of range and clients that do not exist."""
        for option, share in (("stragglers", self.stragglers), ("fail", self.fail)):
            if not 0 <= share <= 1:
                raise UserError(f"--{option}={share:g}: must be from 0 to 1, a share of the clients of a round.")
        if self.late not in LATE:
            raise UserError(f"--late={self.late}: is unknown. {did_you_mean(self.late, LATE)}")
        if not self.deadline > 0 or not self.poison_scale > 0:
            name, value = ("poison_scale", self.poison_scale) if self.deadline > 0 else ("deadline", self.deadline)
            raise UserError(f"--{name}={value:g}: must be above 0.")
        for option, of_clients in (("slow", self.slow), ("leave", self.gone), ("poison", self.poison)):
            for client in of_clients:
                if not 0 <= client < clients:
                    raise UserError(f"--{option}: there is no client {client}; they are 0 to {clients - 1}.")
        for client, speed in self.slow.items():
            if not 0 < speed <= 1:
                raise UserError(f"--slow={client}:{speed:g}: must be above 0 and at most 1, a part of the usual speed.")
        for client, first in self.gone.items():
            if first < 1:
                raise UserError(f"--leave={client}:{first}: rounds are counted from 1.")
        for client, kind in self.poison.items():
            if kind not in POISONS:
                raise UserError(f"--poison={client}:{kind}: is unknown. {did_you_mean(kind, POISONS)}")

    def turns(self, round: int, selected: Sequence[int], steps: Mapping[int, int]) -> list[Turn]:
        """Returns what each selected client does in a round (from 0), which has `steps` updates for each."""
        return [self._turn(round, client, steps[client]) for client in selected]

    def _turn(self, round: int, client: int, steps: int) -> Turn:
        if round + 1 >= self.gone.get(client, math.inf):
            return Turn(client, 0, f"gone since round {self.gone[client]}", receives=False)
        if self._uniform(_FAIL, round, client) < self.fail:
            return Turn(client, 0, "dropped out")
        done = min(steps, math.floor(self.deadline * self.slow.get(client, 1.0) * steps + 1e-9))
        if self._uniform(_STRAGGLE, round, client) < self.stragglers:
            done = min(done, max(1, math.floor(self._uniform(_PART, round, client) * steps)))
        if done == steps:
            return Turn(client, steps)
        if not done or self.late == DROP:
            return Turn(client, 0, f"late: {done} of {steps} updates by the deadline")
        return Turn(client, done, f"slow: {done} of {steps} updates")

    def poisoned(self, update: Update, round: int) -> Update:
        """Returns what a client sends in place of its update; of one that is not poisoned the update."""
        kind = self.poison.get(update.client)
        if kind is None:
            return update
        rng = np.random.Generator(np.random.PCG64(self._sequence(_NOISE, round, update.client)))

        def changed(values: Values) -> Values:
            return {path: _poisoned(value, kind, self.poison_scale, rng) for path, value in values.items()}

        control = None if update.control is None else changed(update.control)
        return dataclasses.replace(update, difference=changed(update.difference), control=control)

    def _uniform(self, stream: int, round: int, client: int) -> float:
        """Returns a number in [0, 1), of raw bits, which NumPy promises to keep (NEP 19)."""
        return float(np.random.PCG64(self._sequence(stream, round, client)).random_raw() >> 11) / 2**53

    def _sequence(self, stream: int, round: int, client: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, stream, round, client])


def _poisoned(value: np.ndarray, kind: str, scale: float, rng: np.random.Generator) -> np.ndarray:
    if kind == SIGN_FLIP:
        return np.float32(-scale) * value
    if kind == SCALE:
        return np.float32(scale) * value
    if kind == NAN:
        return np.full_like(value, np.nan)
    size = np.sqrt(np.mean(np.square(value, dtype=np.float64)))  # noise as large as the update, times the scale
    return (scale * size * rng.standard_normal(value.shape)).astype(np.float32)


def parse_of_clients(text: str, option: str, kind: Callable[[str], Value], example: str) -> dict[int, Value]:
    """Returns client -> value of "3:0.25,7:0.5"; UserError for another form, or a client that is named twice."""
    found: dict[int, Value] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        client, colon, value = part.partition(":")
        try:
            if not (colon and value):
                raise ValueError("no value")
            number, parsed = int(client), kind(value)
        except ValueError:
            form = f"must be CLIENT:VALUE, several with commas, as --{option}={example}"
            raise UserError(f"--{option}={text}: {form}.") from None
        if number in found:
            raise UserError(f"--{option}={text}: names client {number} twice.")
        found[number] = parsed
    return found
