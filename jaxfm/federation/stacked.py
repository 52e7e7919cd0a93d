"""Several clients trained in one program: `jax.vmap` of the step over what differs between them.

All clients share the frozen part of the model, so it is held once. What is stacked along a new first axis is what is
trained of each, with its optimizer's state, its key and its batches. A client that does fewer steps than the others
stands still for the rest: both sides of the choice are computed, and the old one is kept.
"""

# C clients at once, K steps

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxfm.core.batch import Batch, axes_of
from jaxfm.errors import UserError
from jaxfm.federation.client import Client
from jaxfm.federation.local import LocalTraining, start_state
from jaxfm.federation.update import Update
from jaxfm.observe import metrics as metrics_lib
from jaxfm.parallel import mesh as meshes
from jaxfm.training.paths import nested
from jaxfm.training.state import TrainState, run_key_data


class StackedTraining:
    """Trains up to C clients at once; one program, whatever the number of those that take part."""

    def __init__(self, work: LocalTraining, at_once: int) -> None:
        """`at_once` is C, above 1."""
        self._work, self._at_once = work, at_once

    def train(
        self,
        turns: Sequence[tuple[Client, int]],
        values: Mapping[str, np.ndarray],
        round: int,
        control: Mapping[str, np.ndarray] | None = None,
    ) -> list[Update]:
        """Returns the updates of clients, each with the number of its steps: what `Client.train` returns.

        Raises UserError where the model's attention is computed by a kernel that cannot be stacked.
        """
        updates: list[Update] = []
        for first in range(0, len(turns), self._at_once):
            updates += self._train(turns[first : first + self._at_once], values, round, control)
        return updates

    def _train(
        self,
        turns: Sequence[tuple[Client, int]],
        values: Mapping[str, np.ndarray],
        round: int,
        control: Mapping[str, np.ndarray] | None,
    ) -> list[Update]:
        work, session = self._work, self._work.session
        # Places without a client do nothing, on the data of the first one.
        clients = [client for client, _ in turns] + [turns[0][0]] * (self._at_once - len(turns))
        steps_C = np.asarray([steps for _, steps in turns] + [0] * (self._at_once - len(turns)))
        offsets = [client.offset(control) for client in clients]
        offset_C = (
            None if control is None else {path: np.stack([each[path] for each in offsets if each]) for path in control}
        )
        states, sums = self._start(
            nested(values),
            np.int32(work.first_step(round)),
            np.stack([run_key_data(client.seed) for client in clients]),
            None if offset_C is None else nested(offset_C),
        )
        batches = [list(client.round_batches(round, steps)) for client, steps in turns]
        for step in range(int(steps_C.max())):
            # A client that is done is given its last batch again.
            here = [of_client[min(step, len(of_client) - 1)] for of_client in batches]
            here += [here[0]] * (self._at_once - len(turns))
            with jax.set_mesh(session.mesh):  # for the constraints on activations
                states, sums = self._step(states, sums, self._shard(here), steps_C > step, work.base, session.constants)
        states, sums = jax.device_get((states, sums))
        updates = []
        for place, (client, steps) in enumerate(turns):
            state, own = jax.tree.map(lambda leaf, place=place: leaf[place], (states, sums))
            trained = work.result(state.params, state.opt_state, metrics_lib.means(own))
            updates.append(client.update_of(values, trained, steps, control))
        return updates

    def _shard(self, batches: Sequence[Batch]) -> dict[str, jax.Array]:
        session = self._work.session
        shardings = meshes.batch_shardings(axes_of(session.batch_spec), session.mesh)
        return {
            name: jax.device_put(
                np.stack([batch[name] for batch in batches]),
                NamedSharding(session.mesh, PartitionSpec(None, *shardings[name].spec)),
            )
            for name in batches[0]
        }

    @functools.cached_property
    def _start(self) -> Any:
        session, places = self._work.session, self._at_once

        def start(values: Any, step: Any, keys: Any, offsets: Any) -> tuple[TrainState, Any]:
            def one(key: Any, offset: Any) -> TrainState:
                return start_state(session, values, step, key, offset)

            states = jax.vmap(one)(keys, offsets)
            zeros = metrics_lib.zeros_like(dict.fromkeys(session.metric_names))
            return states, {name: jnp.tile(value, (places, 1)) for name, value in zeros.items()}

        return jax.jit(start)

    @functools.cached_property
    def _step(self) -> Any:
        session = self._work.session
        partition = session.adaptation.partition

        def one(state: TrainState, sums: Any, batch: Any, goes_on: Any, base: Any, constants: Any) -> Any:
            whole = dataclasses.replace(state, params=partition.put(state.params, base))
            new, more = session.train_step(whole, sums, batch, constants)
            new = dataclasses.replace(new, params=partition.trained(new.params))
            return jax.tree.map(lambda after, before: jnp.where(goes_on, after, before), (new, more), (state, sums))

        stacked = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None, None)), donate_argnums=(0, 1))

        def step(*arguments: Any) -> Any:
            try:
                return stacked(*arguments)
            except NotImplementedError as error:  # a primitive without a rule for a further axis
                raise UserError(
                    f"--at_once={self._at_once}: the step cannot be computed for several clients at once ({error}). "
                    "config.model.attention=xla takes no kernel; or take --at_once=1."
                ) from error

        return step
