"""Checkpoints that are whole and verified or not used. The one file that knows Orbax."""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax import lax
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.metrics import Sums
from jaxfm.parallel import distributed
from jaxfm.training.paths import path_name
from jaxfm.training.state import TrainState

logger = logging.getLogger(__name__)

_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError)
_DEBUG = "JAXFM_DEBUG"  # environment variable: 1 shows what Orbax and TensorStore say of a damaged checkpoint


@dataclasses.dataclass
class _KeepLastAndBest(policies.PreservationPolicy):
    """Keeps the last `last` checkpoints and those that the run calls its best."""

    last: int
    best: Sequence[int] = ()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: policies.PreservationContext) -> Sequence[bool]:
        del context
        late = len(checkpoints) - self.last
        return [index >= late or checkpoint.step in self.best for index, checkpoint in enumerate(checkpoints)]


# The parts of a checkpoint, each a folder of its own.
PARAMS_ITEM, REST_ITEM, META_ITEM = "params", "rest", "meta"
# The name under which checkpoints keep `TrainState.live_params`.
_LIVE_PARAMS = "raw"


class Checkpoints:
    """The checkpoints of one run: CHECKPOINTS/STEP/{params, rest, meta}.

    `params` are apart so that predict and export read nothing else; `meta` holds a hash of every array, because the
    file format has none: flipped bits would be restored without a word.
    """

    def __init__(self, directory: pathlib.Path, *, keep_last: int = 1, read_only: bool = False):
        """Opens (and unless read_only makes) the directory."""
        self._directory = directory
        self._policy = _KeepLastAndBest(last=keep_last)
        with _quiet():
            self._manager = ocp.CheckpointManager(
                directory.absolute(),
                item_names=(PARAMS_ITEM, REST_ITEM, META_ITEM),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._policy,
                    create=not read_only,
                    read_only=read_only,
                    cleanup_tmp_directories=not read_only,
                ),
            )

        # Reads for this process alone: the manager's own would wait for all processes to have read, for ever when one
        # of them cannot.
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(),
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=None, active_processes={jax.process_index()}, barrier_sync_key_prefix="read"
            ),
        )

    def save(self, state: TrainState, sums: Sums, meta: Mapping[str, Any], *, keep: Sequence[int] = ()) -> None:
        """Starts a save in the background; the arrays are copied before it returns.

        Args:
          state: as after its last update; its step names the checkpoint.
          sums: the open metric sums.
          meta: JSON values kept beside the arrays.
          keep: steps whose checkpoints must outlive the others.

        Raises:
          UserError: the disk is too full; what was saved before is kept. (A failed write would leave Orbax' threads
            in a state that no message comes out of, so the room is looked at first.)
        """
        rest = _rest(state, sums)
        self._policy.best = tuple(keep)
        self._save(int(state.step), meta, params=state.params, rest=rest)

    def save_params(self, step: int, params: Any, meta: Mapping[str, Any]) -> None:
        """Starts a save of parameters alone, for `restore_params`; UserError when the disk is too full."""
        self._save(step, meta, params=params)

    def _save(self, step: int, meta: Mapping[str, Any], **items: Any) -> None:
        check_room(self._directory, items)
        # Later checkpoints are damaged; the run resumed from an earlier one. Orbax silently skips the save of a step
        # that is not newer than all it has.
        for broken in [known for known in self._manager.all_steps() if known >= step]:
            self._manager.delete(broken)
        hashes = {name: array_hashes(tree) for name, tree in items.items()}
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._manager.save(step, args=ocp.args.Composite(**arrays, meta=ocp.args.JsonSave({**meta, "hashes": hashes})))

    def restore_latest(self, state: TrainState, sums: Any) -> tuple[TrainState, Sums, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole, onto the shapes and shardings of the abstract arguments.

        Returns None when there is no checkpoint. A broken one is named in the log and the one before is taken.

        Raises:
          UserError: there are checkpoints, but none is whole; or they are weights alone, what a finished run keeps.
        """
        rest = _rest(state, sums)
        steps = sorted(self._manager.all_steps(), reverse=True)
        if steps and not any((self._directory / str(step) / REST_ITEM).is_dir() for step in steps):
            raise UserError(
                f"{self._directory}: holds the weights of a finished run alone, from which training cannot resume. "
                "jaxfm.evaluate, predict and export use the run as it is, and config.model.init=run:WORKDIR trains its "
                "weights further in another --workdir."
            )
        for step in steps:
            try:
                params, meta = self._restore(step, "params", state.params)
                others, _ = self._restore(step, "rest", rest)
            except UserError as error:
                logger.warning("%s Trying the checkpoint before.", error)
                continue
            live_params = others.get(_LIVE_PARAMS, {})
            restored = TrainState(others["step"], params, others["opt_state"], others["key"], live_params)
            return restored, others["sums"], meta
        if steps:
            raise UserError(
                f"{self._directory}: none of the checkpoints {sorted(steps)} is whole. Move the run directory away to "
                "start anew."
            )
        return None

    def restore_params(self, step: int, params: Any) -> Any:
        """Restores the parameters alone; UserError when that checkpoint is not there or not whole."""
        if step not in self._manager.all_steps():
            raise UserError(f"{self._directory}: there is no checkpoint of step {step}.")
        return self._restore(step, "params", params)[0]

    def steps(self) -> list[int]:
        """Returns the steps there are checkpoints of, oldest first."""
        return sorted(self._manager.all_steps())

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the JSON values saved beside the arrays of a step; UserError when they cannot be read."""
        try:
            return self._read(step, meta=ocp.args.JsonRestore())["meta"]
        except _UNREADABLE as error:
            raise UserError(
                f"{self._directory / str(step)}: the checkpoint cannot be read ({_reason(error)})."
            ) from error

    def wait(self) -> None:
        """Waits for saves in the background and raises what went wrong in them."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves and frees the threads."""
        self._manager.close()
        self._reader.close()

    def _read(self, step: int, **items: Any) -> Any:
        with _quiet():
            return self._reader.restore((self._directory / str(step)).absolute(), args=ocp.args.Composite(**items))

    def _restore(self, step: int, item: str, target: Any) -> tuple[Any, dict[str, Any]]:
        where = self._directory / str(step)
        reason, restored = "", {}
        try:
            restored = self._read(step, **{item: ocp.args.StandardRestore(target)}, meta=ocp.args.JsonRestore())
        # What Orbax and TensorStore raise for a missing or torn file differs by driver and version.
        except Exception as error:
            # Orbax raises Exception itself where a process cannot read its part of an array.
            if not isinstance(error, _UNREADABLE) and type(error) is not Exception:
                raise
            reason = _reason(error)
            if _debugging():
                logger.warning("%s: reading %s failed", where, item, exc_info=error)
        # What one process of a run could not read, none goes on with.
        if not distributed.all_processes(f"reading {item} of {where}", not reason):
            raise UserError(f"{where}: the checkpoint cannot be read ({reason or 'by another process'}).")
        tree, meta = restored[item], restored["meta"]
        wrong = [
            name
            for name, value in array_hashes(tree).items()
            if meta.get("hashes", {}).get(item, {}).get(name) != value
        ]
        if wrong:
            raise UserError(f"{where}: the bytes of {', '.join(wrong[:3])} are not those that were saved.")
        return tree, meta


def _debugging() -> bool:
    return os.environ.get(_DEBUG, "0") not in ("", "0")


def _reason(error: Exception) -> str:
    """Says in a line why a checkpoint cannot be read; TensorStore's own text goes through all its layers."""
    text = str(error).strip()
    files_named = re.findall(r'local file "([^"]+)"', text)
    if files_named:
        return f"{text.partition(':')[0].replace('_', ' ').lower()}: {files_named[-1]}"
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= 160 else f"{line[:160]} ..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax' logs and the news of reads that it gave up off the terminal: what is wrong is said in one line."""
    if _debugging():
        yield
        return
    if not isinstance(sys.unraisablehook, _WithoutAbandonedReads):
        # For good: TensorStore's threads may come back at any time later.
        sys.unraisablehook = _WithoutAbandonedReads(sys.unraisablehook)
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.FATAL)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


class _WithoutAbandonedReads:
    """A hook of `sys.unraisablehook` that drops what reads say whose event loop ended with the first that failed."""

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._before(unraisable)


def _rest(state: TrainState, sums: Any) -> dict[str, Any]:
    """All of a checkpoint but the parameters."""
    rest = {"opt_state": state.opt_state, "key": state.key, "step": state.step, "sums": sums}
    return rest | ({_LIVE_PARAMS: state.live_params} if state.live_params else {})


def check_room(directory: pathlib.Path, state: Any) -> None:
    """Raises UserError when the disk has no room for one checkpoint of a state's arrays, which may be abstract."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    files.check_room(directory, size, "a checkpoint")


def array_hashes(tree: Any) -> dict[str, int]:
    """Returns path -> 32-bit hash of each array's bits and their places; the same on any mesh.

    Each word is mixed with its index (Murmur3's finaliser) and the results are added modulo 2^32: integer addition
    has no order, so shards add up to the same on any number of devices. Runs on the devices; fetches 4 bytes an array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    hashes = jax.device_get(_hash_leaves([leaf for _, leaf in leaves]))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, np.asarray(hashes), strict=True)}


@jax.jit
def _hash_leaves(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_hash(leaf) for leaf in leaves])


def _hash(leaf: jax.Array) -> jax.Array:
    bits = lax.bitcast_convert_type(leaf, jnp.uint32)
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        index = index * jnp.uint32(bits.shape[axis]) + lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = bits + index * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
