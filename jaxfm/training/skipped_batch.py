"""The batch of an update that was skipped, in a file: what a run leaves that stops because of it, and how it is read.

A batch is a pure function of rows, seed and step, so it is made again when the run stops, and nothing is held before.
Process 0 makes the rows of all processes: each of them can read the whole training data.
"""

# B batch over all hosts

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxfm import files
from jaxfm.config import FREE_ON_RESUME, Config
from jaxfm.core.batch import Batch, BatchSpec
from jaxfm.errors import UserError
from jaxfm.parallel import distributed
from jaxfm.schema import flatten, is_under, to_dict
from jaxfm.training.setup import Setup
from jaxfm.training.state import run_key_data

SKIPPED_DIR = "skipped"
_FORMAT, _VERSION = "jaxfm skipped batch", 1
_ROWS, _FIELD = "rows", "batch/"


@dataclasses.dataclass(frozen=True)
class SkippedBatch:
    """A batch with what its update depended on beside the parameters.

    Attributes:
      step: number of the update, counted from 1 as in the log.
      total_steps: of the run.
      key: uint32 [2], key data of the run.
      config_sha256: of the config, the keys left out that a run may be resumed with other values of.
      rows: int64 [B], their numbers in the training data.
      batch: field -> array [B, ...].
    """

    step: int
    total_steps: int
    key: np.ndarray
    config_sha256: str
    rows: np.ndarray
    batch: Batch


def config_sha256(config: Config) -> str:
    """Returns a hash of all that decides a run's updates."""
    values = {key: value for key, value in flatten(to_dict(config)).items() if not is_under(key, FREE_ON_RESUME)}
    return files.json_digest(values)


def stop_after_skips(config: Config, setup: Setup, workdir: pathlib.Path, step: int, in_a_row: int) -> None:
    """Ends a run whose last `in_a_row` updates up to `step` were skipped, if these are too many.

    Called by all processes of the run. Raises UserError, after the batch of update `step` has been saved.
    """
    if in_a_row < config.train.stop_after_skips:
        return
    path = workdir / SKIPPED_DIR / f"{step}.safetensors"
    problem = ""
    if distributed.is_main():
        skipped = SkippedBatch(
            step=step,
            total_steps=setup.total_steps,
            key=run_key_data(config.seed),
            config_sha256=config_sha256(config),
            rows=setup.batches.row_numbers(step - 1),
            batch=setup.batches.whole_batch(step - 1),
        )
        try:
            write(path, skipped)
        except OSError as error:
            problem = f"The batch of step {step} could not be saved ({error})."
    # A process that ends would end process 0 while it writes.
    distributed.agree("the batch of the last skipped update", {})
    spikes = " or far above those before" if config.optim.spike_factor else ""
    raise UserError(
        f"training diverged: the last {in_a_row} updates up to step {step} had gradients that are not finite{spikes} "
        "(none of them reached the weights). Try a lower config.optim.learning_rate, a longer "
        "config.optim.warmup_fraction, config.optim.clip_norm=1.0 or config.train.precision=f32. "
        + (
            problem
            or f"The batch of step {step} is saved: python -m jaxfm.evaluate --workdir={workdir} --replay={path} says "
            "which rows and parameters it is due to."
        )
    )


def write(path: pathlib.Path, skipped: SkippedBatch) -> None:
    """Writes the file in one step."""
    facts = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "step": str(skipped.step),
        "total_steps": str(skipped.total_steps),
        "key": json.dumps([int(word) for word in skipped.key]),
        "config_sha256": skipped.config_sha256,
    }
    arrays = {_ROWS: skipped.rows.astype(np.int64)}
    arrays |= {_FIELD + name: np.ascontiguousarray(values) for name, values in skipped.batch.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path, binary=True) as file:
        file.write(safetensors.numpy.save(arrays, facts))


def read(path: pathlib.Path) -> SkippedBatch:
    """Reads what `write` wrote; UserError for anything else, or a file that is cut."""
    if not path.is_file():
        raise UserError(f"--replay={path}: no such file. A run that stops for skipped updates says where it is.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"--replay={path}: cannot be read as a safetensors file ({error}).") from error
    if facts.get("format") != _FORMAT:
        raise UserError(f"--replay={path}: is not the batch of a skipped update (its metadata do not say so).")
    if facts.get("version") != str(_VERSION):
        raise UserError(
            f"--replay={path}: has version {facts.get('version')}, but this jaxfm reads version {_VERSION}: use the "
            "jaxfm that wrote it."
        )
    try:
        return SkippedBatch(
            step=int(facts["step"]),
            total_steps=int(facts["total_steps"]),
            key=np.asarray(json.loads(facts["key"]), np.uint32).reshape(2),
            config_sha256=facts["config_sha256"],
            rows=arrays.pop(_ROWS),
            batch={name.removeprefix(_FIELD): values for name, values in arrays.items()},
        )
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"--replay={path}: was changed after it was written ({error!r}).") from error


def check(path: pathlib.Path, skipped: SkippedBatch, config: Config, spec: BatchSpec) -> None:
    """Raises UserError where a file is of another run than `config`, or its arrays are not a batch of `spec`."""
    if skipped.config_sha256 != config_sha256(config):
        raise UserError(
            f"--replay={path}: is of a run with another config than that of --workdir. Give the run directory that the "
            "file lies in."
        )
    shapes = _shapes(skipped.batch)
    wanted = {name: ((len(skipped.rows), *field.shape), np.dtype(field.dtype)) for name, field in spec.items()}
    if shapes != wanted:
        wrong = sorted(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
        raise UserError(f"--replay={path}: its arrays {', '.join(wrong)} are not those of a batch of this run.")
    if not 1 <= skipped.step <= skipped.total_steps:
        raise UserError(f"--replay={path}: step {skipped.step} is not one of 1 to {skipped.total_steps}.")


def _shapes(batch: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (values.shape, values.dtype) for name, values in batch.items()}
