"""A server that is told less: sums of masked updates in place of each, clipped ones with noise in place of a mean."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.errors import UserError
from jaxfm.federation import aggregation, secure_aggregation
from jaxfm.federation.privacy import GaussianMechanism, clipped
from jaxfm.federation.secure_aggregation import FixedPoint
from jaxfm.federation.server import Server, ServerRules
from jaxfm.federation.update import Update, Values

_WEIGHT = "weight of the client"
"""Path of what a client's difference was multiplied by, which is masked with it."""
_FRACTIONS = {32: 20, 64: 40}


def fixed_point(bits: int, clients: int) -> FixedPoint:
    """Returns integers modulo 2^bits for sums over so many clients: 20 binary places of 32, 40 of 64.

    Raises UserError for another modulus, or for more clients than it has room for.
    """
    return FixedPoint(bits, _FRACTIONS.get(bits, 0), clients)


class ProtectedServer(Server):
    """A server whose mean is private, or of which a simulation of secure aggregation shows it the sum alone, or both.

    With a mechanism all clients count alike, whatever their number of examples, and a round without a client moves the
    model by noise: that none came is not to be seen. Secure aggregation clips and weighs at the client, and masks what
    comes of it.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        rules: ServerRules,
        *,
        mechanism: GaussianMechanism | None = None,
        form: FixedPoint | None = None,
        examples: int = 0,
    ) -> None:
        """Starts at round 0.

        Args:
          values: of round 0.
          rules: how it works; the aggregation must be the mean.
          mechanism: of privacy, which draws the clients of a round too.
          form: of the integers that clients mask; None: it sees each update.
          examples: of all clients together, by which weights are kept small; without a mechanism.
        """
        super().__init__(values, rules)
        self._mechanism, self._form, self._examples = mechanism, form, examples
        self._facts: dict[str, Any] = {}

    @property
    def moves_alone(self) -> bool:
        """Whether a round moves the model without an update of any client."""
        return self._mechanism is not None

    def select(self, round: int) -> list[int]:
        """Returns the clients of a round, ascending."""
        return super().select(round) if self._mechanism is None else self._mechanism.sample(round).tolist()

    def problem(self, updates: Sequence[Update], selected: Sequence[int]) -> str:
        """Returns why nothing of a round can be read: too few are left to take the masks off; "" where it can."""
        if self._form is None or (not updates and self._mechanism is not None):
            return ""
        try:
            secure_aggregation.check(selected, [each.client for each in updates], 0, self._form)
        except UserError as error:
            return str(error)
        return ""

    def receive(self, updates: Sequence[Update], selected: Sequence[int] = ()) -> None:
        """Moves the model by the updates of a round, and counts the round; `selected`: clients that were to answer.

        Raises UserError for updates that cannot be combined; nothing is changed then.
        """
        self._facts = {}
        shapes = {path: value.shape for path, value in self.values.items()}
        ordered = aggregation.check(updates) if updates else []
        if self._form is None or not ordered:
            assert self._mechanism is not None
            mean = self._mechanism.mean((each.difference for each in ordered), shapes, self.round)
        else:
            mean = self._of_masked(ordered, selected)
        self.move({path: np.asarray(value, np.float32) for path, value in mean.items()}, clients=len(ordered))

    def facts(self) -> dict[str, Any]:
        """Returns what to remember of the last round."""
        return dict(self._facts)

    def _of_masked(self, updates: Sequence[Update], selected: Sequence[int]) -> Values:
        assert self._form is not None
        sent = {each.client: self._prepared(each) for each in updates}
        done = secure_aggregation.simulate(
            sent, self._form, clients=sorted({*selected, *sent}), round_number=self.round
        )
        self._facts = {"bytes_up": done.bytes_sent, "unmasked_without": list(done.gone)}
        if self._mechanism is not None:
            return self._mechanism.noised(done.total, self.round)
        weight = float(done.total.pop(_WEIGHT)[0])
        return {path: value / weight for path, value in done.total.items()}

    def _prepared(self, update: Update) -> Values:
        """Returns what a client masks: its clipped difference, or one times its weight, and that."""
        if self._mechanism is not None:
            assert self._form is not None
            # Rounding to integers may make it longer, by half a unit in each number at most.
            size = sum(value.size for value in update.difference.values())
            rounding = math.sqrt(size) * 2.0 ** -(self._form.fraction + 1)
            if rounding > 0.1 * self._mechanism.clip_norm:
                raise UserError(
                    f"secure aggregation modulo 2^{self._form.bits}: rounds an update of {size:,} numbers by up to "
                    f"{rounding:.2g}, too much beside its largest norm of {self._mechanism.clip_norm:g}. Take 2^64."
                )
            return clipped(update.difference, self._mechanism.clip_norm - rounding)
        # On average 1: sums of weights keep within the integers, whatever examples there are.
        weight = update.examples * self.rules.clients / max(self._examples, 1)
        weighed = {path: weight * value.astype(np.float64) for path, value in update.difference.items()}
        return {**weighed, _WEIGHT: np.array([weight])}
