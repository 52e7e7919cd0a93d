"""How the loop makes its updates: of one run, or of several that are stacked in one program.

A stack has every array of the runs' states along a new first axis. One compiled step, `jax.vmap` of the single one,
moves all of them; what differs between the runs is in their states (parameters, moments, keys), in their batches and,
for a grid, in numbers of the optimizer.
"""

# R runs, B batch, T tokens

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxfm.core.batch import Batch, axes_of
from jaxfm.errors import UserError
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import Sums
from jaxfm.optim_config import OptimConfig
from jaxfm.parallel import mesh as meshes
from jaxfm.training.session import Session, Stepped, abstract_batch
from jaxfm.training.state import TrainState

# Numbers of `config.optim` that may differ between the runs of a stack.
VARIED = ("learning_rate", "weight_decay")


class Stepping(Protocol):
    """The updates of the runs of one loop. Runs have numbers from 0; "all" are their states and sums in one tree."""

    @property
    def session(self) -> Session:
        """The step of a single run."""
        ...

    @property
    def abstract(self) -> TrainState:
        """Shapes and shardings of the states of all."""
        ...

    def lower(self, batch_size: int) -> jax.stages.Lowered:
        """Lowers the step for batches of that many rows a run: what is wrong with it is found here."""
        ...

    def compiled(self, batch_size: int) -> jax.stages.Compiled:
        """Returns the compiled step for batches of that many rows a run; compiled once."""
        ...

    def put(self, everything: Any, run: int, state: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
        """Returns states and sums of all with those of one run replaced; `everything` is None at first."""
        ...

    def state_of(self, states: Any, run: int) -> Any:
        """Returns the state of one run, or a part of it, from the states of all."""
        ...

    def sums_of(self, sums: Sums) -> Sequence[Sums]:
        """Returns the sums of each run."""
        ...

    def shard(self, batches: Sequence[Batch]) -> Mapping[str, jax.Array]:
        """Puts this host's rows of a batch of each run on the devices."""
        ...

    def steps(
        self, first: int, state: TrainState, batches: Iterator[Mapping[str, jax.Array]], sums: Sums
    ) -> Iterator[Stepped]:
        """Yields once after each update of all, as `Session.steps`; `first` updates are done before."""
        ...

    def verify_copies(self, step: int, state: TrainState, sums: Sums) -> None:
        """See `Session.verify_copies`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class SingleRun:
    """One run: its session as it is (implements Stepping)."""

    session: Session

    @property
    def abstract(self) -> TrainState:
        """See Stepping."""
        return self.session.abstract

    def lower(self, batch_size: int) -> jax.stages.Lowered:
        """See Stepping."""
        return self.session.lower(batch_size)

    def compiled(self, batch_size: int) -> jax.stages.Compiled:
        """See Stepping."""
        return self.session.compiled(batch_size)

    def put(self, everything: Any, run: int, state: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
        """See Stepping."""
        del everything, run
        return state, sums

    def state_of(self, states: Any, run: int) -> Any:
        """See Stepping."""
        del run
        return states

    def sums_of(self, sums: Sums) -> Sequence[Sums]:
        """See Stepping."""
        return (sums,)

    def shard(self, batches: Sequence[Batch]) -> Mapping[str, jax.Array]:
        """See Stepping."""
        (batch,) = batches
        return self.session.shard(batch)

    def steps(
        self, first: int, state: TrainState, batches: Iterator[Mapping[str, jax.Array]], sums: Sums
    ) -> Iterator[Stepped]:
        """See Stepping."""
        del first  # the state has it
        return self.session.steps(state, batches, sums=sums)

    def verify_copies(self, step: int, state: TrainState, sums: Sums) -> None:
        """See Stepping."""
        self.session.verify_copies(step, state, sums)


@dataclasses.dataclass(frozen=True, eq=False)
class StackedRuns:
    """Several runs in one program (implements Stepping). Arrays of "all" are [R, ...]; the new axis is never cut.

    Attributes:
      session: of any of the runs: they differ in nothing that it knows but `optims`.
      optims: `config.optim` of each run; they differ in VARIED alone.
    """

    session: Session
    optims: tuple[OptimConfig, ...]
    _lowered: dict[int, jax.stages.Lowered] = dataclasses.field(default_factory=dict)
    _compiled: dict[int, jax.stages.Compiled] = dataclasses.field(default_factory=dict)

    @property
    def abstract(self) -> TrainState:
        """See Stepping."""
        return self._states

    @functools.cached_property
    def _states(self) -> TrainState:
        return jax.tree.map(self._stacked, self.session.abstract)

    def lower(self, batch_size: int) -> jax.stages.Lowered:
        """See Stepping.

        Raises:
          UserError: a size that cannot be cut over micro-batches and devices, or a kernel that cannot be stacked.
        """
        if batch_size not in self._lowered:
            session = self.session
            key = session.batch_keys.get(batch_size, "batch size")
            meshes.check_batch_size(key, batch_size, session.mesh, accumulate=session.accumulate)
            batch = jax.tree.map(self._stacked, abstract_batch(session.batch_spec, batch_size, session.mesh))
            step = jax.jit(self._step, donate_argnums=(0, 1), out_shardings=_shardings((self.abstract, self._sums)))
            try:
                with jax.set_mesh(session.mesh):  # for the constraints on activations
                    constants = session.abstract_constants
                    self._lowered[batch_size] = step.lower(self.abstract, self._sums, batch, constants)
            except NotImplementedError as error:  # a primitive without a rule for a further axis
                raise UserError(
                    f"config.train.seeds: the step of these runs cannot be computed for several at once ({error}). "
                    "config.model.attention=xla takes no kernel; or train one after the other (jaxfm.seeds)."
                ) from error
        return self._lowered[batch_size]

    def compiled(self, batch_size: int) -> jax.stages.Compiled:
        """See Stepping."""
        if batch_size not in self._compiled:
            self._compiled[batch_size] = self.lower(batch_size).compile()
            del self._lowered[batch_size]
        return self._compiled[batch_size]

    def put(self, everything: Any, run: int, state: TrainState, sums: Sums) -> tuple[TrainState, Sums]:
        """See Stepping; one run's arrays are held twice while they are copied, and never all of them."""
        if everything is None:
            everything = self._zeros()
        return self._put(everything, (state, sums), np.int32(run))

    def state_of(self, states: Any, run: int) -> Any:
        """See Stepping; the arrays are copies."""
        leaves, structure = jax.tree.flatten(states)
        shardings = (NamedSharding(leaf.sharding.mesh, PartitionSpec(*leaf.sharding.spec[1:])) for leaf in leaves)
        return _take(structure, tuple(shardings))(states, np.int32(run))

    def sums_of(self, sums: Sums) -> Sequence[Sums]:
        """See Stepping."""
        return _divided(sums, len(self.optims))

    def shard(self, batches: Sequence[Batch]) -> Mapping[str, jax.Array]:
        """See Stepping."""
        shardings = meshes.batch_shardings(axes_of(self.session.batch_spec), self.session.mesh)
        return {
            name: jax.device_put(np.stack([batch[name] for batch in batches]), _with_runs(shardings[name]))
            for name in batches[0]
        }

    def steps(
        self, first: int, state: TrainState, batches: Iterator[Mapping[str, jax.Array]], sums: Sums
    ) -> Iterator[Stepped]:
        """See Stepping."""
        open_sums, constants = sums, self.session.constants
        for step, arrays in enumerate(batches, start=first + 1):
            program = self.compiled(next(iter(arrays.values())).shape[1])
            with jax.transfer_guard("disallow"):
                state, open_sums = program(state, open_sums, arrays, constants)
            stepped = Stepped(step, state, open_sums, self._empty_sums)
            yield stepped
            open_sums = stepped.sums

    def verify_copies(self, step: int, state: TrainState, sums: Sums) -> None:
        """Does nothing: `grid.check` refuses `train.verify_every_steps`."""
        del step, state, sums

    def _step(
        self, states: TrainState, sums: Sums, batches: Mapping[str, jax.Array], constants: Any
    ) -> tuple[TrainState, Sums]:
        """The update of all, which read the same constants."""
        numbers = {name: [getattr(optim, name) for optim in self.optims] for name in VARIED}
        varied = {name: np.asarray(of, np.float32) for name, of in numbers.items() if len(set(of)) > 1}
        if not varied:
            return jax.vmap(self.session.train_step, in_axes=(0, 0, 0, None))(states, sums, batches, constants)

        def one(state: TrainState, sums: Sums, batch: Any, values: Mapping[str, Any]) -> tuple[TrainState, Sums]:
            return self.session.step_with(dataclasses.replace(self.optims[0], **values))(state, sums, batch, constants)

        return jax.vmap(one)(states, sums, batches, {name: jnp.asarray(of) for name, of in varied.items()})

    def _stacked(self, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.ShapeDtypeStruct((len(self.optims), *leaf.shape), leaf.dtype, sharding=_with_runs(leaf.sharding))

    @functools.cached_property
    def _sums(self) -> dict[str, jax.ShapeDtypeStruct]:
        whole = meshes.replicated(self.session.mesh)
        shape = jax.ShapeDtypeStruct((len(self.optims), 2), jnp.float32, sharding=whole)
        return dict.fromkeys(self.session.metric_names, shape)

    @functools.cached_property
    def _zeros(self) -> Any:
        shapes = (self.abstract, self._sums)
        return jax.jit(
            lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
            out_shardings=_shardings(shapes),
        )

    @functools.cached_property
    def _put(self) -> Any:
        def put(everything: Any, one: Any, run: jax.Array) -> Any:
            return jax.tree.map(lambda all_R, leaf: all_R.at[run].set(leaf), everything, one)

        return jax.jit(put, donate_argnums=0, out_shardings=_shardings((self.abstract, self._sums)))

    @functools.cached_property
    def _empty_sums(self) -> Any:
        names, count = dict.fromkeys(self.session.metric_names), len(self.optims)

        def empty() -> Any:
            return {name: jnp.tile(zeros, (count, 1)) for name, zeros in metrics_lib.zeros_like(names).items()}

        return jax.jit(empty, out_shardings=_shardings(self._sums))


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def _with_runs(sharding: NamedSharding) -> NamedSharding:
    """Returns the sharding of arrays with the axis of runs before the others, whole on every device."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


@functools.cache
def _take(structure: Any, shardings: tuple[NamedSharding, ...]) -> Any:
    """Returns the program that takes one run out of a stack, compiled once for a tree of arrays."""

    def take(states: Any, run: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, run, keepdims=False), states)

    return jax.jit(take, out_shardings=jax.tree.unflatten(structure, shardings))


@functools.partial(jax.jit, static_argnums=1)
def _divided(sums: Sums, count: int) -> list[Sums]:
    return [{name: value[run] for name, value in sums.items()} for run in range(count)]
