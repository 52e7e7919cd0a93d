"""Local training: some ordinary steps of a client from the values that the server sent."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.config import Config
from jaxfm.core.batch import Batch, Dataset
from jaxfm.core.initial import HostArray
from jaxfm.data.pipeline import TrainBatches
from jaxfm.errors import UserError, did_you_mean
from jaxfm.federation.corrections import FEDAVG, FEDPROX, METHODS, SCAFFOLD, begin, corrected
from jaxfm.federation.update import Values
from jaxfm.observe import metrics as metrics_lib
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.paths import flat, nested
from jaxfm.training.schedule import train_batches
from jaxfm.training.session import Session
from jaxfm.training.state import TrainState, run_key_data


@dataclasses.dataclass(frozen=True)
class LocalRules:
    """How clients train.

    Attributes:
      method: of METHODS.
      proximal: mu of FedProx, the weight of the proximal term.
      steps: updates of a client in a round; 0: as many as `epochs` of its own rows take.
      epochs: passes over a client's rows in a round, where `steps` is 0.
      stride: updates by which a round moves the learning rate's schedule: `steps`, or the most of any client.
    """

    method: str = FEDAVG
    proximal: float = 0.0
    steps: int = 0
    epochs: float = 1.0
    stride: int = 1

    def __post_init__(self) -> None:
        """Raises UserError for an unknown method or a number out of range."""
        if self.method not in METHODS:
            raise UserError(f"--method={self.method}: is unknown. {did_you_mean(self.method, METHODS)}")
        if self.proximal < 0 or (self.method == FEDPROX) != (self.proximal > 0):
            need = "above 0 for" if self.method == FEDPROX else "0 without"
            raise UserError(f"--proximal={self.proximal:g}: must be {need} --method={FEDPROX}.")
        if self.steps < 0 or (not self.steps and not self.epochs > 0):
            raise UserError(f"--local_steps={self.steps}, --local_epochs={self.epochs:g}: one of them must be above 0.")


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """What local training comes to.

    Attributes:
      values: path -> f32, of the trained part after it.
      metrics: means over its updates.
      gradient: path -> f32, the mean of the client's own gradients (SCAFFOLD); None for other methods.
    """

    values: Values
    metrics: dict[str, float]
    gradient: Values | None = None


class LocalTraining:
    """What all clients of one program share: the step, its compiled program, and the frozen part of the model.

    Attributes:
      session: whose optimizer takes the method's gradients.
      config: of the run.
      rules: of local training.
      base: all parameters as the run began; the frozen part is never sent.
    """

    def __init__(self, session: Session, config: Config, base: Any, rules: LocalRules) -> None:
        """Raises UserError where the config asks for what has no meaning in local training."""
        check(session, config)
        self.session = session.with_optimizer(corrected(session.optimizer, rules.method, rules.proximal))
        self.config, self.base, self.rules = config, base, rules

    @functools.cached_property
    def evaluate(self) -> Evaluator:
        """Computes the outputs of rows."""
        return self.session.evaluator(self.config.eval.batch_size)

    def values_of(self, params: Any) -> Values:
        """Returns path -> host f32 array of the trained part of parameters: what is sent."""
        trained = flat(self.session.adaptation.partition.trained(params))
        return {path: np.asarray(value, np.float32) for path, value in jax.device_get(trained).items()}

    def params_of(self, values: Mapping[str, HostArray]) -> Any:
        """Returns all parameters on the devices, with these values in the trained part."""
        return self._put(nested(values), self.base)

    def batches(self, rows: Dataset, seed: int) -> TrainBatches:
        """Returns the training batches of a client; its order depends on its own seed alone."""
        return train_batches(dataclasses.replace(self.config, seed=seed), rows, self.session.mesh)

    def steps_of(self, batches: TrainBatches) -> int:
        """Returns the updates of a client in a whole round."""
        return self.rules.steps or max(1, batches.steps_for(self.rules.epochs))

    def first_step(self, round: int) -> int:
        """Returns the updates of the schedule before a round."""
        return round * self.rules.stride

    def start(self, values: Mapping[str, np.ndarray], seed: int, round: int, offset: Values | None) -> TrainState:
        """Returns the state of a client at the beginning of a round; `offset`: c - c_i of SCAFFOLD."""
        step, key = np.int32(self.first_step(round)), run_key_data(seed)
        return self._start(nested(values), self.base, step, key, None if offset is None else nested(offset))

    def run(self, state: TrainState, batches: Iterator[Batch]) -> Trained:
        """Does one update a batch, of which there is one at least; the state's buffers are given away."""
        *_, last = self.session.steps(state, batches)
        state = last.state
        trained = self.session.adaptation.partition.trained(state.params)
        return self.result(trained, state.opt_state, metrics_lib.means(last.take_sums()))

    def go_on(self, state: TrainState, round: int, batches: Iterator[Batch]) -> TrainState:
        """Returns the state after an update a batch, at the rates of a round; nothing else is begun anew."""
        *_, last = self.session.steps(self._at_step(state, np.int32(self.first_step(round))), batches)
        return last.state

    def result(self, trained: Any, opt_state: Any, metrics: dict[str, float]) -> Trained:
        """Returns what local training comes to, of the trained part of the parameters and the optimizer's state."""
        gradient = None
        if self.rules.method == SCAFFOLD:
            total, count = jax.device_get((flat(opt_state.total), opt_state.count))
            gradient = {path: np.asarray(value / np.float32(max(int(count), 1))) for path, value in total.items()}
        values = {path: np.asarray(value, np.float32) for path, value in jax.device_get(flat(trained)).items()}
        return Trained(values, metrics, gradient)

    @functools.cached_property
    def _put(self) -> Any:
        partition = self.session.adaptation.partition
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.session.abstract.params)

        def put(values: Any, base: Any) -> Any:
            return jax.tree.map(jnp.copy, partition.put(values, base))

        return jax.jit(put, out_shardings=shardings)

    @functools.cached_property
    def _at_step(self) -> Any:
        def at_step(state: TrainState, step: Any) -> TrainState:
            return dataclasses.replace(state, step=jnp.copy(step), opt_state=begin(state.opt_state, step))

        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.session.abstract)
        return jax.jit(at_step, donate_argnums=0, out_shardings=shardings)

    @functools.cached_property
    def _start(self) -> Any:
        partition, session = self.session.adaptation.partition, self.session
        shardings = jax.tree.map(lambda leaf: leaf.sharding, session.abstract)

        def start(values: Any, base: Any, step: Any, key: Any, offset: Any) -> TrainState:
            state = start_state(session, values, step, key, offset)
            # Copies: a step is given them away.
            return dataclasses.replace(state, params=jax.tree.map(jnp.copy, partition.put(state.params, base)))

        return jax.jit(start, out_shardings=shardings)


def start_state(session: Session, trained: Any, step: Any, key: Any, offset: Any = None) -> TrainState:
    """Returns the state of a client at the beginning of a round; its `params` are the trained part alone.

    To be called inside jax.jit, also under jax.vmap. All arrays are copies, as a step is given them away.
    """
    trained = jax.tree.map(jnp.copy, trained)
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=trained,
        opt_state=begin(session.optimizer.init(trained), step, offset),
        key=jnp.copy(key),
        guard=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), session.abstract.guard),
    )


def check(session: Session, config: Config) -> None:
    """Raises UserError for keys that have no meaning, or another one, where many clients train."""
    optim, train, adapt = config.optim, config.train, config.adapt
    averages = "is an average over one run's updates, and the server averages over clients"
    rules = (
        (adapt.ema > 0, f"config.adapt.ema={adapt.ema:g}", averages, "Set 0"),
        (
            session.adaptation.averaging is not None,
            f"config.optim.name={optim.name}",
            averages,
            "Take adamw or sgd",
        ),
        (adapt.average_best > 1, f"config.adapt.average_best={adapt.average_best}", averages, "Set 0"),
        (
            bool(train.first_batch_size),
            f"config.train.first_batch_size={train.first_batch_size}",
            "grows one run's batch",
            "Set it and batch_warmup_steps to 0",
        ),
        (
            train.verify_every_steps > 0,
            f"config.train.verify_every_steps={train.verify_every_steps}",
            "verifies a run",
            "Set 0",
        ),
    )
    for holds, what, why, choice in rules:
        if holds:
            raise UserError(f"{what}: {why}. {choice}.")
