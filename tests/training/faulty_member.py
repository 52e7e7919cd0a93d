"""One process of a run whose numbers go wrong, for test_faulty_processes.py."""

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.objective import Loss
from jaxfm.errors import UserError
from jaxfm.parallel import distributed
from jaxfm.programs.train import train
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.training import session
from tests import tiny

coordinator, count, process, folder, what = sys.argv[1:]
plain_loss, plain_steps = NerObjective.loss, session.Session.steps


def nan_loss(self: Any, model: Any, batch: Any, context: Any) -> Loss:
    """The loss, NaN from the fifth of eight updates on."""
    found = plain_loss(self, model, batch, context)
    return found._replace(total=found.total * jnp.where(context.progress >= 0.5, jnp.nan, 1.0))


def flipped_steps(self: Any, state: Any, batches: Any, constants: Any = (), **more: Any) -> Any:
    """The updates, from a state of which one bit is flipped on the device of process 1."""

    def flip(leaf: jax.Array) -> jax.Array:
        own = np.array(leaf.addressable_data(0))
        own.reshape(-1).view(np.uint32)[0] ^= np.uint32((1 << 20) * (jax.process_index() == 1))
        part = jax.device_put(own, leaf.addressable_shards[0].device)
        return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, [part])

    state.params["head"]["kernel"] = flip(state.params["head"]["kernel"])
    return plain_steps(self, state, batches, constants, **more)


if what == "nan":
    NerObjective.loss = nan_loss
if what == "flip":
    session.Session.steps = flipped_steps
values = {"train__stop_after_skips": 2, "train__verify_every_steps": 2, "eval__every_steps": 3}
config = tiny.config(pathlib.Path(folder), **values)
distributed.start(coordinator, int(count), int(process))
with distributed.ProcessGroup():
    try:
        train(config, pathlib.Path(folder) / what)
    except UserError as error:
        print(f"found: {error}", flush=True)
        raise
