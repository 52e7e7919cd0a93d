"""What a client does: it trains the server's model on its own examples, and scores it on those that it holds out.

A client knows what the server sends and its own data, and nothing of other clients: its batches, its dropout and its
held-out examples depend on its own number and the run's seed alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from jaxfm.core.batch import Batch, Dataset
from jaxfm.core.task import Scorer
from jaxfm.federation.corrections import SCAFFOLD
from jaxfm.federation.local import LocalTraining, Trained
from jaxfm.federation.update import Scores, Update, Values


@dataclasses.dataclass(frozen=True, eq=False)
class ClientData:
    """The data of one client, which stay with it.

    Attributes:
      rows: of training.
      examples: training examples in them.
      held_out: rows of the examples that the client scores models on; None without any.
      held_out_examples: how many these are.
      scorer: scores the outputs of `held_out`.
      name: what a person calls the client: a file, or "client 3".
    """

    rows: Dataset
    examples: int
    held_out: Dataset | None = None
    held_out_examples: int = 0
    scorer: Scorer | None = None
    name: str = ""


class Client:
    """One client.

    Attributes:
      number: from 0.
      data: its own.
      seed: of its batches and its dropout.
      control: path -> f32, c_i of SCAFFOLD; None until the client has taken part in a round, and for other methods.
    """

    def __init__(self, number: int, data: ClientData, work: LocalTraining) -> None:
        """`work` is what all clients of this program share; it holds none of their data."""
        self.number, self.data, self.seed = number, data, client_seed(work.config.seed, number)
        self.control: Values | None = None
        self._work, self._batches = work, work.batches(data.rows, self.seed)
        self._new_control: Values | None = None

    @property
    def steps(self) -> int:
        """Local updates of a whole round."""
        return self._work.steps_of(self._batches)

    def train(
        self,
        global_values: Mapping[str, np.ndarray],
        round: int,
        *,
        steps: int | None = None,
        control: Mapping[str, np.ndarray] | None = None,
    ) -> Update:
        """Trains locally and returns what is sent.

        Args:
          global_values: path -> f32, the trained part of the server's model.
          round: from 0; which batches are taken, and the learning rate, depend on it.
          steps: updates that are done, fewer than `steps` of the client where it is slow; None: all.
          control: c of SCAFFOLD's server.
        """
        done = self.steps if steps is None else steps
        assert 1 <= done <= self.steps
        state = self._work.start(global_values, self.seed, round, self.offset(control))
        return self.update_of(global_values, self._work.run(state, self.round_batches(round, done)), done, control)

    def train_alone(self, values: Mapping[str, np.ndarray], rounds: int) -> Values:
        """Returns what is trained after as many updates as in all rounds, by itself and without going back.

        The rate is that of federated training at each update, and the optimizer keeps what it remembers.
        """
        state = self._work.start(values, self.seed, 0, None)
        for round in range(rounds):
            state = self._work.go_on(state, round, self.round_batches(round, self.steps))
        return self._work.values_of(state.params)

    def score(self, global_values: Mapping[str, np.ndarray]) -> Scores:
        """Scores a model on the examples that the client holds out; without any there are no metrics."""
        data = self.data
        if data.held_out is None or data.scorer is None:
            return Scores(self.number, 0, {})
        outputs = self._work.evaluate(self._work.params_of(global_values), data.held_out)
        metrics = {name: float(value) for name, value in data.scorer.metrics(outputs).items()}
        return Scores(self.number, data.held_out_examples, metrics)

    def settle(self, *, accepted: bool) -> None:
        """Ends a round that the client has trained in: its new control variate counts where the round does."""
        if accepted and self._new_control is not None:
            self.control = self._new_control
        self._new_control = None

    def round_batches(self, round: int, steps: int) -> Iterator[Batch]:
        """Yields the batches of a round; those of other rounds are others, whichever the client takes part in."""
        first = round * self.steps
        return (self._batches.batch(step) for step in range(first, first + steps))

    def offset(self, control: Mapping[str, np.ndarray] | None) -> Values | None:
        """Returns c - c_i, what SCAFFOLD adds to gradients; None for other methods."""
        if self._work.rules.method != SCAFFOLD:
            return None
        assert control is not None, "SCAFFOLD's server sends its control variate"
        own = self.control
        return {path: value if own is None else value - own[path] for path, value in control.items()}

    def update_of(
        self,
        global_values: Mapping[str, np.ndarray],
        trained: Trained,
        steps: int,
        control: Mapping[str, np.ndarray] | None = None,
    ) -> Update:
        """Returns what is sent of local training.

        The new control variate of SCAFFOLD is the mean of the client's own gradients on the way, which for plain
        gradient descent is option II of Karimireddy et al. 2020 (algorithm 1, line 12): c_i - c + (x - y) / (K rate).
        """
        change = None
        if trained.gradient is not None:
            assert control is not None
            old = self.control
            self._new_control = trained.gradient
            change = {path: value if old is None else value - old[path] for path, value in trained.gradient.items()}
        difference = {path: value - global_values[path] for path, value in trained.values.items()}
        return Update(self.number, difference, self.data.examples, steps, trained.metrics, change)


def client_seed(seed: int, number: int) -> int:
    """Returns the seed of a client: a function of the run's and of the client's number, whatever others there are."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
