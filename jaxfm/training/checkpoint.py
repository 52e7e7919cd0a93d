"""Checkpoints that are whole and verified or not used. The one file that knows Orbax."""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.metrics import Sums
from jaxfm.parallel import distributed
from jaxfm.training import manifest
from jaxfm.training.hashes import array_hashes
from jaxfm.training.paths import TRAINING_ONLY
from jaxfm.training.state import TrainState

logger = logging.getLogger(__name__)

UNFINISHED = ".orbax-checkpoint-tmp"  # in the names of Orbax's folders that are being written
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
_DIGEST = "sha256"  # key of `meta`: of all else in it
# Where checkpoints that cannot be read are moved, as they are: CHECKPOINTS/damaged/STEP.
DAMAGED_DIR = "damaged"
# The name under which checkpoints keep `TrainState.live_params`.
_LIVE_PARAMS = "raw"
_GUARD = "guard"  # absent without a guard against spikes, and in checkpoints of before


class Checkpoints:
    """The checkpoints of one run: CHECKPOINTS/STEP/{params, rest, meta}, and manifest.json.

    `params` are apart so that predict and export read nothing else; `meta` holds a hash of every array, because the
    file format has none: flipped bits would be restored without a word. The manifest is written last, before the
    rename that gives the checkpoint its name, and older ones are removed after that rename: whenever the process is
    killed, one that was whole before is there still.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        *,
        keep_last: int = 1,
        read_only: bool = False,
        saved: Callable[[int], None] | None = None,
    ):
        """Opens (and unless read_only makes) the directory; `saved` is told the step of every save that has begun."""
        self._directory, self._saved, self._is_closed = directory, saved, False
        self._policy = _KeepLastAndBest(last=keep_last)
        with _quiet():  # Orbax warns of options, too
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_manifest),
            )
            try:
                self._manager = ocp.CheckpointManager(
                    directory.absolute(), item_names=(PARAMS_ITEM, REST_ITEM, META_ITEM), options=options
                )
            except Exception as error:  # whatever Orbax makes of damaged files, as in `_restore`
                if isinstance(error, OSError) and not read_only:
                    raise  # a disk that is full, a directory that may not be written
                raise UserError(
                    f"{directory}: what it says of its checkpoints cannot be read ({_reason(error)})."
                ) from error

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

    def read_whole(self, step: int) -> tuple[Any, Any, dict[str, Any]]:
        """Returns parameters, all other arrays, and the JSON values of a checkpoint, as they are on the disk.

        The trees have dicts and lists in place of the classes that the arrays were saved from; all arrays are on one
        device of this process, which alone reads. UserError where the checkpoint is not whole.
        """
        params, meta = self._restore(step, PARAMS_ITEM, self._shapes(step, PARAMS_ITEM))
        rest, _ = self._restore(step, REST_ITEM, self._shapes(step, REST_ITEM))
        return params, rest, {name: value for name, value in meta.items() if name != "hashes"}

    def save_whole(
        self, step: int, params: Any, rest: Any, meta: Mapping[str, Any], *, keep: Sequence[int] = ()
    ) -> None:
        """Starts a save of what `read_whole` returns, or a changed form of it; UserError when the disk is too full.

        Checkpoints of the steps `keep` outlive the others.
        """
        self._policy.best = tuple(keep)
        self._save(step, meta, params=params, rest=rest)

    def _save(self, step: int, meta: Mapping[str, Any], **items: Any) -> None:
        check_room(self._directory, items)
        # Of an attempt that was killed (a mean of checkpoints is saved anew). Orbax silently skips the save of a step
        # that is not newer than all it has.
        for earlier in [known for known in self._manager.all_steps() if known >= step]:
            self._manager.delete(earlier)
        hashes = {name: array_hashes(tree) for name, tree in items.items()}
        arrays = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        content = {**meta, "hashes": hashes}
        content[_DIGEST] = files.json_digest(content)
        with _writing(self._directory):
            self._manager.save(step, args=ocp.args.Composite(**arrays, meta=ocp.args.JsonSave(content)))
        if self._saved is not None:
            self._saved(step)

    def _write_manifest(self) -> None:
        """Writes the manifest of the checkpoint that is about to get its name; Orbax calls it in its own thread."""
        if not distributed.is_main():
            return
        for folder in self._directory.glob("*" + UNFINISHED + "*"):
            manifest.write(folder)

    def set_aside(self, step: int) -> pathlib.Path:
        """Moves a checkpoint to where nothing looks for it; returns the folder. Nothing of it is removed.

        All processes of a run call it; the first one moves.
        """
        folder, number = self._directory / DAMAGED_DIR, 1
        target = folder / str(step)
        while target.exists():
            target, number = folder / f"{step}.{number}", number + 1
        if distributed.is_main():
            folder.mkdir(exist_ok=True)
            os.replace(self._directory / str(step), target)
        distributed.agree(f"checkpoint {step} is set aside", {})
        self._manager.reload()
        return target

    def restore_latest(
        self, state: TrainState, sums: Any, *, at_most: int | None = None
    ) -> tuple[TrainState, Sums, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole, onto the shapes and shardings of the abstract arguments.

        Later ones than that of step `at_most` are left alone. Returns None when there is no checkpoint. Broken ones are
        named in the log and set aside once an older one is found to be whole.

        Raises:
          UserError: there are checkpoints, but none is whole; or they are weights alone, what a finished run keeps.
        """
        rest = _rest(state, sums)
        steps = sorted((step for step in self._manager.all_steps() if at_most is None or step <= at_most), reverse=True)
        if steps and not any((self._directory / str(step) / REST_ITEM).is_dir() for step in steps):
            raise UserError(
                f"{self._directory}: holds the weights of a finished run alone, from which training cannot resume. "
                "jaxfm.evaluate, predict and export use the run as it is, and config.model.init=run:WORKDIR trains its "
                "weights further in another --workdir."
            )
        broken: dict[int, UserError] = {}
        for step in steps:
            try:
                params, meta = self._restore(step, "params", state.params)
                others, _ = self._restore(step, "rest", rest)
            except UserError as error:
                broken[step] = error
                continue
            for each, why in broken.items():
                where = self.set_aside(each)
                logger.warning(
                    "%s It is set aside, in %s; the checkpoint before, of step %d, is taken.", why, where, step
                )
            live_params, guard = others.get(_LIVE_PARAMS, {}), others.get(_GUARD, {})
            restored = TrainState(others["step"], params, others["opt_state"], others["key"], live_params, guard)
            return restored, others["sums"], meta
        if steps:
            raise UserError(
                f"{self._directory}: none of the checkpoints {sorted(steps)} is whole. "
                f"{' '.join(str(error) for error in broken.values())} Move the run directory away to start anew."
            )
        return None

    def restore_params(self, step: int, params: Any) -> Any:
        """Restores the parameters alone; UserError when that checkpoint is not there or not whole."""
        if step not in self._manager.all_steps():
            raise UserError(f"{self._directory}: there is no checkpoint of step {step}.")
        return self._restore(step, "params", params)[0]

    def restore_or_set_aside(self, step: int, params: Any) -> Any | None:
        """Restores the parameters alone; None, said in the log, where that checkpoint is not there or not whole."""
        try:
            return self.restore_params(step, params)
        except UserError as error:
            moved = f" It is set aside, in {self.set_aside(step)}." if step in self._manager.all_steps() else ""
            logger.warning("%s%s", error, moved)
            return None

    def verify(self, step: int) -> str:
        """Reads all arrays of a checkpoint, whatever they are of; returns what is wrong with it, "" where it is whole.

        One process alone may call it; each part is on one device of it while it is read.
        """
        try:
            parts = [item for item in (PARAMS_ITEM, REST_ITEM) if (self._directory / str(step) / item).is_dir()]
            if PARAMS_ITEM not in parts:
                return f"{self._directory / str(step)}: has no {PARAMS_ITEM}."
            for item in parts:
                self._restore(step, item, self._shapes(step, item))
        except UserError as error:
            return str(error)
        return ""

    def _shapes(self, step: int, item: str) -> Any:
        """Returns what a part of a checkpoint says of its arrays' shapes, all of them on one device."""
        folder = (self._directory / str(step) / item).absolute()
        try:
            with _quiet(), ocp.StandardCheckpointer() as reader:
                tree = reader.metadata(folder).item_metadata.tree
            whole = SingleDeviceSharding(jax.local_devices()[0])
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree)
        except Exception as error:  # whatever Orbax makes of damaged files, as in `_restore`
            raise UserError(f"{folder}: the arrays' shapes cannot be read ({_reason(error)}).") from error

    def steps(self) -> list[int]:
        """Returns the steps there are checkpoints of, oldest first."""
        return sorted(self._manager.all_steps())

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the JSON values saved beside the arrays of a step; UserError when they cannot be read."""
        try:
            return _checked(self._read(step, meta=ocp.args.JsonRestore())["meta"])
        except Exception as error:  # whatever Orbax makes of damaged files, as in `_restore`
            raise UserError(
                f"{self._directory / str(step)}: the checkpoint cannot be read ({_reason(error)})."
            ) from error

    def wait(self) -> None:
        """Waits for saves in the background; UserError where the file system refused one (OSError: as it is)."""
        with _writing(self._directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves, as `wait`, and frees the threads; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with _writing(self._directory):
                self._manager.close()
        finally:
            self._reader.close()

    def _read(self, step: int, **items: Any) -> Any:
        with _quiet():
            return self._reader.restore((self._directory / str(step)).absolute(), args=ocp.args.Composite(**items))

    def _how_to_read(self, step: int, item: str, target: Any) -> Any:
        """Returns how Orbax is to read an item: the whole, or without what only training has and nobody asks for."""
        whole = ocp.args.StandardRestore(target)
        if item != PARAMS_ITEM or TRAINING_ONLY in target:
            return whole
        meta = _checked(self._read(step, meta=ocp.args.JsonRestore())[META_ITEM])
        if not any(path.startswith(f"{TRAINING_ONLY}/") for path in meta["hashes"][item]):
            return whole
        how = ocp.checkpoint_utils.construct_restore_args(target)
        return ocp.args.PyTreeRestore(target, restore_args=how, partial_restore=True)

    def _restore(self, step: int, item: str, target: Any) -> tuple[Any, dict[str, Any]]:
        where = self._directory / str(step)
        reason, restored, meta = "", {}, {}
        try:
            manifest.check(where, (item, META_ITEM))
            arrays = self._how_to_read(step, item, target)
            restored = self._read(step, **{item: arrays}, meta=ocp.args.JsonRestore())
            meta = _checked(restored[META_ITEM])
        # What Orbax and TensorStore raise for a missing, torn or changed file is anything, by place and version.
        except Exception as error:
            reason = _reason(error)
            if _debugging():
                logger.warning("%s: reading %s failed", where, item, exc_info=error)
        # What one process of a run could not read, none goes on with.
        if not distributed.all_processes(f"reading {item} of {where}", not reason):
            raise UserError(f"{where}: the checkpoint cannot be read ({reason or 'by another process'}).")
        tree = restored[item]
        files.check_values(meta, {"hashes": dict}, f"{where}: its meta")
        files.check_values(meta["hashes"], {item: dict}, f"{where}: the hashes of its meta")
        wrong = [name for name, value in array_hashes(tree).items() if meta["hashes"][item].get(name) != value]
        if wrong:
            raise UserError(f"{where}: the bytes of {', '.join(wrong[:3])} are not those that were saved.")
        return tree, meta


def _checked(meta: Any) -> dict[str, Any]:
    """Returns what a checkpoint remembers beside arrays; ValueError where it has changed since (older: not known)."""
    if not isinstance(meta, dict):
        raise ValueError(f"{META_ITEM}: is a {type(meta).__name__}")
    if _DIGEST in meta and meta.pop(_DIGEST) != files.json_digest(meta):
        raise ValueError(f"{META_ITEM}: its bytes are not those that were saved")
    return meta


def _debugging() -> bool:
    return os.environ.get(_DEBUG, "0") not in ("", "0")


def _reason(error: Exception) -> str:
    """Says in a line why a checkpoint cannot be read; TensorStore's own text goes through all its layers."""
    text = str(error).strip()
    files_named = re.findall(r'local file "([^"]+)"', text)
    if files_named:
        return f"{text.partition(':')[0].replace('_', ' ').lower()}: {files_named[-1]}"
    line = text.splitlines()[0] if text else type(error).__name__
    return line.rstrip(".") if len(line) <= 200 else f"{line[:200]} ..."


@contextlib.contextmanager
def _writing(directory: pathlib.Path) -> Iterator[None]:
    """Says in one message what TensorStore could not write; it raises ValueError("STATUS: ...") whatever it is."""
    try:
        yield
    except ValueError as error:
        if not re.match(r"[A-Z_]+: ", str(error)):
            raise
        raise UserError(
            f"{directory}: a checkpoint cannot be written ({_reason(error)}). What was saved before is whole."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax' logs and the news of reads that it gave up off the terminal: what is wrong is said in one line."""
    if _debugging():
        yield
        return
    if not isinstance(sys.unraisablehook, _WithoutAbandonedReads):
        # For good: TensorStore's threads may come back at any time later.
        sys.unraisablehook = _WithoutAbandonedReads(sys.unraisablehook)
        logging.getLogger("asyncio").addFilter(_is_no_abandoned_read)
        threading.excepthook = _WithoutFailedSaves(threading.excepthook)
        absl_logging.get_absl_logger().addFilter(_is_not_of_orbax)
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.FATAL)
    try:
        yield
    finally:
        absl_logging.set_verbosity(before)


class _WithoutAbandonedReads:
    """A hook of `sys.unraisablehook` that drops what Orbax's reads say once the first of them has failed.

    The others are left behind unfinished: their event loop has ended, or what they raised is never asked for.
    """

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error, code = unraisable.exc_value, getattr(unraisable.object, "cr_code", None)
        is_a_read = code is not None and "orbax" in code.co_filename
        if not is_a_read and not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            self._before(unraisable)


class _WithoutFailedSaves:
    """A hook of `threading.excepthook` that drops what Orbax's threads raise; whoever waits for them gets it."""

    def __init__(self, before: Callable[[Any], Any]) -> None:
        self._before = before

    def __call__(self, arguments: Any) -> None:
        frames = traceback.walk_tb(arguments.exc_traceback)
        if _debugging() or not any("orbax" in frame.f_code.co_filename for frame, _ in frames):
            self._before(arguments)


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns whether a record of absl is of another package than Orbax, which logs with traces what it raises too."""
    return _debugging() or "orbax" not in record.pathname


def _is_no_abandoned_read(record: logging.LogRecord) -> bool:
    """Returns whether a record of asyncio is of anything but a read of TensorStore whose error nobody asked for."""
    return "tensorstore" not in record.getMessage().lower()


def _rest(state: TrainState, sums: Any) -> dict[str, Any]:
    """All of a checkpoint but the parameters."""
    rest = {"opt_state": state.opt_state, "key": state.key, "step": state.step, "sums": sums}
    rest |= {_LIVE_PARAMS: state.live_params} if state.live_params else {}
    return rest | ({_GUARD: state.guard} if state.guard else {})


def check_room(directory: pathlib.Path, state: Any) -> None:
    """Raises UserError when the disk has no room for one checkpoint of a state's arrays, which may be abstract."""
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    files.check_room(directory, size, "a checkpoint")
