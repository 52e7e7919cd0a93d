"""What the server does: it draws clients, combines what they send and moves the model. It sees no example.

All of its state is arrays and a number (`state`), so that a server that was stopped goes on to the same bits.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError, did_you_mean
from jaxfm.federation import aggregation
from jaxfm.federation.aggregation import Aggregation
from jaxfm.federation.update import Update, Values

_SELECTION = 1  # stream of the draws of clients, apart from all others

# Of Reddi et al. 2021 (algorithms 1 and 2, section 5): b1 0.9, b2 0.99, tau 1e-3. Adam here corrects its bias, as optax
# does.
_MOMENTUM, _B2, _TAU = 0.9, 0.99, 1e-3
OPTIMIZERS: Mapping[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=_MOMENTUM),
    "adagrad": functools.partial(optax.adagrad, initial_accumulator_value=0.0, eps=_TAU),
    "adam": functools.partial(optax.adam, b1=_MOMENTUM, b2=_B2, eps=_TAU),
    "yogi": functools.partial(optax.yogi, b1=_MOMENTUM, b2=_B2, eps=_TAU),
}


@dataclasses.dataclass(frozen=True)
class ServerRules:
    """How a server works.

    Attributes:
      clients: N, numbered from 0.
      per_round: clients that are drawn for a round.
      seed: of the draws.
      aggregation: how updates become one.
      optimizer: of OPTIMIZERS, which moves the model along the combined difference; "sgd" with rate 1 is FedAvg.
      rate: its learning rate.
    """

    clients: int
    per_round: int
    seed: int = 0
    aggregation: Aggregation = Aggregation()
    optimizer: str = "sgd"
    rate: float = 1.0

    def __post_init__(self) -> None:
        """Raises UserError for values out of range."""
        if self.clients < 1:
            raise UserError(f"--clients={self.clients}: must be at least 1.")
        if not 1 <= self.per_round <= self.clients:
            raise UserError(f"--per_round={self.per_round}: must be from 1 to the {self.clients} clients.")
        if self.optimizer not in OPTIMIZERS:
            raise UserError(
                f"--server_optimizer={self.optimizer}: is unknown. {did_you_mean(self.optimizer, OPTIMIZERS)}"
            )
        if not self.rate > 0:
            raise UserError(f"--server_rate={self.rate:g}: must be above 0.")


class Server:
    """The model of all clients, and what moves it.

    Attributes:
      rules: how it works.
      round: rounds done.
      values: path -> f32, what is trained of the model.
      control: path -> f32, SCAFFOLD's control variate of the server; None for other methods.
    """

    def __init__(self, values: Mapping[str, np.ndarray], rules: ServerRules, *, control: bool = False) -> None:
        """`values` are those of round 0; `control`: whether clients send control variates."""
        self.rules, self.round = rules, 0
        self.values: Values = {path: np.array(value, np.float32) for path, value in values.items()}
        self.control: Values | None = (
            {path: np.zeros_like(value) for path, value in self.values.items()} if control else None
        )
        self._optimizer = OPTIMIZERS[rules.optimizer](rules.rate)
        self._opt_state = self._optimizer.init(self.values)

    def select(self, round: int) -> list[int]:
        """Returns the clients of a round, ascending: a function of seed and round alone."""
        rules = self.rules
        return sorted(shuffled(rules.clients, rules.seed, _SELECTION, round)[: rules.per_round].tolist())

    @property
    def moves_alone(self) -> bool:
        """Whether a round moves the model without an update of any client."""
        return False

    def problem(self, updates: Sequence[Update], selected: Sequence[int]) -> str:
        """Returns why the updates of the clients that were selected cannot be read together; "" where they can."""
        del updates, selected
        return ""

    def facts(self) -> dict[str, Any]:
        """Returns what to remember of the last round, as JSON values."""
        return {}

    def receive(self, updates: Sequence[Update], selected: Sequence[int] = ()) -> None:
        """Moves the model by the updates of a round, and counts the round; `selected`: clients that were to answer.

        Raises UserError for updates that cannot be combined (`aggregation.check`); nothing is changed then.
        """
        del selected
        ordered = aggregation.check(updates)
        self.move(
            aggregation.combine(ordered, self.rules.aggregation),
            None if self.control is None else aggregation.combine_controls(ordered, self.rules.aggregation),
            len(ordered),
        )

    def move(self, difference: Values, control: Values | None = None, clients: int = 0) -> None:
        """Moves the model by a combined difference, and counts the round.

        Args:
          difference: path -> f32, of all clients together; its negative is the gradient of the server's optimizer
            (Reddi et al. 2021, algorithm 1).
          control: the combined change of `clients` clients' control variates; None for other methods than SCAFFOLD.
          clients: how many of them.
        """
        gradient = {path: -value for path, value in difference.items()}
        updates, self._opt_state = self._optimizer.update(gradient, self._opt_state, self.values)
        moved: Any = optax.apply_updates(self.values, updates)
        self.values = {path: np.asarray(value, np.float32) for path, value in moved.items()}
        if self.control is not None:
            assert control is not None
            share = np.float32(clients / self.rules.clients)
            self.control = {path: value + share * control[path] for path, value in self.control.items()}
        self.round += 1

    def skip(self) -> None:
        """Counts a round that changes nothing: no client has answered, or its model was refused."""
        self.round += 1

    def state(self) -> dict[str, Any]:
        """Returns all that the server remembers, but the round, as nested dicts of 32-bit arrays."""
        leaves = jax.tree.leaves(self._opt_state)
        return {
            "values": dict(self.values),
            **({} if self.control is None else {"control": dict(self.control)}),
            **(
                {"optimizer": {f"{number:05d}": np.asarray(leaf) for number, leaf in enumerate(leaves)}}
                if leaves
                else {}
            ),
        }

    def restore(self, state: Mapping[str, Any], round: int) -> None:
        """Takes over what `state` has returned after `round` rounds."""
        self.round = round
        self.values = {path: np.asarray(state["values"][path]) for path in self.values}
        if self.control is not None:
            self.control = {path: np.asarray(state["control"][path]) for path in self.control}
        kept = state.get("optimizer", {})
        leaves = [jnp.asarray(kept[name]) for name in sorted(kept)]
        self._opt_state = jax.tree.unflatten(jax.tree.structure(self._opt_state), leaves)
