"""The batch size where the config gives no number: by the examples that rows hold, or the largest that fits.

What fits into memory is the compiler's account of the train step; nothing is run to find out.
"""

import bisect
import dataclasses
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from jaxfm.config import AUTO, BY_EXAMPLES, Config
from jaxfm.core.batch import Volume
from jaxfm.core.objective import Objective
from jaxfm.errors import UserError
from jaxfm.parallel import distributed, host_memory
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel.compilation import held_bytes
from jaxfm.schema import replaced
from jaxfm.training.session import make_session
from jaxfm.training.teachers import KnownTeacher

# Of a device's memory: the rest is for the next batch, for what evaluation needs beside the state, and for gaps between
# blocks. Of a computer's: it also holds the data, and whatever else it runs.
_SHARE_OF_DEVICE, _SHARE_OF_HOST = 0.9, 0.5
# Sizes that are tried have so many leading binary digits (8, 9 ... 15, 16, 18 ... 30, 32, 36 ...): at most a ninth of
# the largest batch is given away, for far fewer of them and for rows that divide well.
_DIGITS = 4
_STRIDE = 8  # from one size to a next whose difference shows what a row needs
_TOTAL_STEPS = 100_000  # of schedules, which need a number that memory does not depend on


@dataclasses.dataclass(frozen=True)
class BatchSizeSearch:
    """What was found.

    Attributes:
      size: the largest that fits, None where none does.
      peaks: size -> bytes a device of those that were compiled, in that order; infinite where the compiler gave up.
      limit: bytes a device that may be used.
    """

    size: int | None
    peaks: dict[int, float]
    limit: int

    def describe(self) -> str:
        """Says it in a line."""
        assert self.size is not None
        over = min((size for size in self.peaks if size > self.size), default=None)
        more = "" if over is None else f"; {over} rows would {_needs(self.peaks[over])}"
        return (
            f"batch size auto: {self.size} rows {_needs(self.peaks[self.size])} of {self.limit / 2**30:.2f} GiB a "
            f"device{more} ({len(self.peaks)} compilations)"
        )


def _needs(peak: float) -> str:
    return "not compile" if peak == float("inf") else f"need {peak / 2**30:.2f}"


def autotune_batch_size(
    config: Config, objective: Objective, mesh: Mesh, *, most: int, teachers: Sequence[KnownTeacher] = ()
) -> tuple[Config, tuple[str, ...]]:
    """Returns the config with a batch size that fits where it is "auto", and notes for the log.

    Where the batch grows, it is the last size that is found. All processes of a run find the same.

    Args:
      config: of the run.
      objective: model and loss.
      mesh: of the run.
      most: rows that a batch may have at most, such as those of the data; sizes that fit no mesh are ignored.
      teachers: that the run learns from.

    Raises:
      UserError: not even the smallest batch fits, or how much memory a device has is not known.
    """
    if config.train.batch_size != AUTO:
        return config, ()
    sizes = candidates(meshes.batch_shards(mesh) * config.train.accumulate, most, config.train.first_batch_size)
    limit = distributed.min_over_processes("memory of a device", memory_limit())
    steps, smallest = config.train.steps or _TOTAL_STEPS, with_batch_size(config, sizes[0])
    session = make_session(smallest, objective, mesh, total_steps=steps, teachers=teachers)
    found = search_batch_size(sizes, lambda size: _peak_of(session.lower(size)), limit)
    if found.size is None:
        limits = f"{_needs(found.peaks[sizes[0]])} of {limit / 2**30:.2f} GiB a device"
        raise UserError(
            f"config.train.batch_size: is auto, but not even {sizes[0]} rows of {objective.spec.row_length} tokens "
            f"fit: they {limits}. Try --config.model.remat=full, a shorter --config.data.row_length, or parameters cut "
            "over more devices by --config.parallel.mesh.fsdp."
        )
    return with_batch_size(config, found.size), (found.describe(),)


def batch_of_examples(config: Config, volume: Volume, mesh: Mesh) -> tuple[Config, tuple[str, ...]]:
    """Returns the config with rows that hold `train.batch_examples` on average where its batch size is "examples".

    Args:
      config: of the run.
      volume: of the training rows.
      mesh: of the run; every device gets as many rows for each micro-batch.

    Raises:
      UserError: rows are not made of examples.
    """
    if config.train.batch_size != BY_EXAMPLES:
        return config, ()
    if not volume.examples_per_row:
        raise UserError(
            "config.train.batch_size: is examples, but the rows of this task are not made of labelled examples. Give "
            "the number of rows, or auto."
        )
    unit = meshes.batch_shards(mesh) * config.train.accumulate
    wanted = config.train.batch_examples
    size = max(round(wanted / volume.examples_per_row / unit), 1) * unit
    note = (
        f"batch size: {size} row{'s' * (size != 1)} of {volume.per_row} {volume.unit} hold{'s' * (size == 1)} "
        f"{size * volume.examples_per_row:.1f} examples on average (train.batch_examples: {wanted})"
    )
    return with_batch_size(config, size), (note,)


def with_batch_size(config: Config, size: int) -> Config:
    """Returns the config with so many rows an update."""
    return replaced(config, {"train.batch_size": size})


def candidates(unit: int, most: int, first: int = 0) -> list[int]:
    """Returns the sizes to choose from, ascending and at least one.

    Args:
      unit: what every size is a multiple of: devices that share the rows, times micro-batches.
      most: no size is larger, unless all are.
      first: of a batch that grows; it doubles up to the sizes to choose from.
    """
    if first:
        doubled = [first << power for power in range(1, max(most // first, 2).bit_length())]
        return [size for size in doubled if size <= most] or doubled[:1]
    sizes, scale = list(range(1, 2**_DIGITS)), 2
    while sizes[-1] * unit < most:
        sizes += [leading * scale for leading in range(2 ** (_DIGITS - 1), 2**_DIGITS)]
        scale *= 2
    return [size * unit for size in sizes if size * unit <= most] or [unit]


def search_batch_size(sizes: Sequence[int], peak: Callable[[int], float], limit: int) -> BatchSizeSearch:
    """Finds the largest of ascending sizes whose peak is within the limit; asks for as few peaks as it can.

    Memory is nearly affine in the batch, once activations outweigh what the optimizer needs for a while: two sizes say
    where the limit should lie, and those on both sides of it are asked for to be sure. Where it is not affine the
    search halves now and then, so it always ends.
    """
    peaks: dict[int, float] = {}
    fits, over = -1, len(sizes)  # places of the largest known to fit and of the smallest known not to
    while over - fits > 1:
        halve = len(peaks) >= 4 and len(peaks) % 2 == 0
        wanted = (fits + over) // 2 if halve else _predicted(sizes, peaks, limit)
        wanted = min(max(wanted, fits + 1), over - 1)
        peaks[sizes[wanted]] = peak(sizes[wanted])
        if peaks[sizes[wanted]] <= limit:
            fits = wanted
        else:
            over = wanted
    return BatchSizeSearch(sizes[fits] if fits >= 0 else None, peaks, limit)


def _predicted(sizes: Sequence[int], peaks: dict[int, float], limit: int) -> int:
    """Returns the place of the largest size that should fit, on the line through two peaks near the limit.

    One from each side of it where there are such. Without a slope to follow it is that of some times what fits.
    """
    known = sorted(size for size, value in peaks.items() if value < float("inf"))
    below = [size for size in known if peaks[size] <= limit]
    above = [size for size in known if peaks[size] > limit]
    points = [*below[-1:], *above[:1]] if below and above else [*below[-2:], *above[:2]]
    guess: float = sizes[0]
    if len(points) == 2 and peaks[points[0]] < peaks[points[1]]:
        low, high = points
        guess = low + (limit - peaks[low]) * (high - low) / (peaks[high] - peaks[low])
    elif below or not peaks:
        guess = _STRIDE * max(below, default=sizes[0])
    return bisect.bisect_right(sizes, min(guess, _STRIDE**2 * max(known, default=sizes[0]))) - 1


def memory_limit() -> int:
    """Returns the bytes that the train step may have on one device of this process.

    Raises:
      UserError: the device does not say what it has.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        # Devices of other processes may be of the same computer.
        return int(_SHARE_OF_HOST * host_memory.available() / jax.device_count())
    found = device.memory_stats() or {}
    if "bytes_limit" not in found:
        raise UserError(
            f"config.train.batch_size: is auto, but a {device.device_kind} does not say how much memory it has. Give a "
            "number."
        )
    return int(_SHARE_OF_DEVICE * (found["bytes_limit"] - found.get("bytes_in_use", 0)))


def peak_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Returns the most bytes a device that a program needs, arguments included; None where the backend does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    held = held_bytes(found)
    return held + found.temp_size_in_bytes


def _peak_of(lowered: jax.stages.Lowered) -> float:
    try:
        peak = peak_bytes(lowered.compile())
    except jax.errors.JaxRuntimeError as error:  # compilers for TPU refuse what does not fit
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return float("inf")
    if peak is None:
        raise UserError("config.train.batch_size: is auto, but this compiler does not say what memory a program needs.")
    return peak
