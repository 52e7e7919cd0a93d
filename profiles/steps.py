"""A compiled train step with its state and batches, and its figures: for the scripts that time one."""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxfm.config import AUTO, Config
from jaxfm.core.batch import Dataset, Volume
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.objective import Objective
from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.pipeline import TrainBatches
from jaxfm.data.text.packing import pack
from jaxfm.errors import UserError
from jaxfm.parallel.compilation import held_bytes
from jaxfm.parallel.mesh import host_rows, make_mesh
from jaxfm.tasks import registry
from jaxfm.tasks.fine_tuning import assumed_shapes
from jaxfm.tasks.registry import check_key, from_config_dict
from jaxfm.training import batch_size
from jaxfm.training import initial as initials
from jaxfm.training.session import make_session
from jaxfm.training.state import count_parameters

# What random rows look like; "data": the config's own rows instead.
FULL, PACKED, PADDED, DATA = "full", "packed", "padded", "data"
_TOTAL_STEPS = 100_000  # of schedules, which need a number


def settled(config: Config, most: int) -> tuple[Config, tuple[str, ...]]:
    """Returns the config with the largest batch that fits where it is "auto", at most `most` rows; and notes."""
    if config.train.batch_size != AUTO:
        return config, ()
    objective = registry.abstract_objective(config, initials.shape(config.model)[0])
    mesh = make_mesh(config.parallel.mesh)
    return batch_size.autotune_batch_size(config, objective, mesh, most=most)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step computes, on which rows.

    Attributes:
      objective: model and loss.
      rows: packed rows to take batches of.
      loaded: path -> array of the parameters that are not drawn at random.
    """

    objective: Objective
    rows: Dataset
    loaded: Mapping[str, HostArray]

    @classmethod
    def of_data(cls, config: Config, initial: Initial | None = None) -> "Work":
        """Returns the config's own; `initial` saves reading the weights again."""
        task, loaded = registry.create(config, initial or initials.resolve(config.model))
        return cls(task.objective, task.datasets["train"], loaded)

    @classmethod
    def synthetic(cls, config: Config, kind: str, example_tokens: int = 0, count: int = 0) -> "Work":
        """Returns the config's model over random rows: neither data nor weights nor a tokenizer need be there.

        Args:
          config: row length, model, task.
          kind: one segment a row (FULL), several examples (PACKED), one example and padding (PADDED).
          example_tokens: of an example of the latter two, on average; between half and one and a half times that. 0: a
            third of the row length.
          count: of rows; 0: two batches.
        """
        encoder, _ = initials.shape(config.model)
        objective = registry.abstract_objective(config, encoder)
        rows = random_rows(
            objective,
            config.data.row_length,
            kind=kind,
            example_tokens=example_tokens or max(config.data.row_length // 3, 1),
            count=count or 2 * config.train.batch_size,
            seed=config.seed,
        )
        return cls(objective, rows, {})


def random_rows(
    objective: Objective, row_length: int, *, kind: str, example_tokens: int, count: int, seed: int
) -> ArrayDataset:
    """Returns `count` rows of random tokens and labels, laid out as `kind` says (see `Work.synthetic`)."""
    draw = np.random.default_rng(seed)
    spec = objective.spec.batch_spec()
    label = spec.get("labels")  # absent where targets are drawn on the device
    per_token = label is None or bool(label.axes)
    most = row_length if label is None or per_token else label.shape[0]  # examples that a row has labels for
    if kind == FULL:
        sizes_of_rows = [np.array([row_length])] * count
    else:
        # More than enough examples to fill the rows; those left over, and with them rows poorly filled, are dropped.
        low, high = max(example_tokens // 2, 1), min(example_tokens + (example_tokens + 1) // 2, row_length)
        wanted = count if kind == PADDED else 2 * count * max(row_length // low, 1)
        sizes = draw.integers(low, high + 1, wanted)
        examples = [np.array([i]) for i in range(count)] if kind == PADDED else pack(sizes, row_length, most)[:count]
        sizes_of_rows = [sizes[index] for index in examples]
    indices = np.arange(row_length)
    segment_ids, positions = np.zeros((2, count, row_length), np.int32)
    for row, sizes in enumerate(sizes_of_rows):
        ends = np.cumsum(sizes)
        segment = np.searchsorted(ends, indices, side="right")
        inside = segment < len(sizes)
        segment_ids[row] = np.where(inside, segment + 1, 0)
        starts = (ends - sizes)[np.minimum(segment, len(sizes) - 1)]
        positions[row] = np.where(inside, indices - starts, 0)
    vocabulary = objective.spec.encoder.vocab_size
    tokens = draw.integers(min(5, vocabulary - 1), vocabulary, segment_ids.shape)
    arrays = {
        "tokens": np.where(segment_ids > 0, tokens, 0).astype(np.int32),
        "segment_ids": segment_ids,
        "positions": positions,
        "type_ids": np.zeros_like(segment_ids),
    }
    if label is not None:
        used = segment_ids > 0 if per_token else np.arange(1, most + 1) <= segment_ids.max(1, keepdims=True)
        drawn = draw.integers(0, 2, (count, *label.shape))
        kept = drawn if label.dtype.kind == "f" else np.where(_spread(used, drawn.ndim), drawn, -1)
        arrays["labels"] = kept.astype(label.dtype)
    volume = Volume("tokens", row_length, np.count_nonzero(segment_ids) / max(count, 1))
    return ArrayDataset({name: arrays[name] for name in spec}, spec, volume)


def _spread(mask: np.ndarray, rank: int) -> np.ndarray:
    return mask.reshape(mask.shape + (1,) * (rank - mask.ndim))


class TimedStep:
    """The train step of a config, compiled ahead, and what every call of it took.

    Attributes:
      session: the step as traced.
      compiled: the step.
      lower_seconds: of tracing and lowering.
      compile_seconds: of that and compilation, together.
      batches: a few batches on the devices, taken in turns.
      tokens: of a batch, over all devices.
      useful_share: of these that are no padding.
      loss: mean loss of the last step.
      seconds: of each call of `run`'s, in order: since the end of the one before, or since it was issued.
      host_seconds: of each call the part until the host is free again.
    """

    def __init__(
        self,
        config: Config,
        work: Work | None = None,
        *,
        batches: int = 4,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Compiles it, for the config's own data unless other work is given, and for all devices unless some are."""
        self.config, self.work = config, work or Work.of_data(config)
        rows, self.mesh = self.work.rows, make_mesh(config.parallel.mesh, devices)
        size = config.train.batch_size
        start = time.perf_counter()
        self.session = make_session(
            config, self.work.objective, self.mesh, total_steps=config.train.steps or _TOTAL_STEPS
        )
        self.session.lower(size)
        self.lower_seconds = time.perf_counter() - start
        self.compiled = self.session.compiled(size)
        self.compile_seconds = time.perf_counter() - start
        self.tokens = size * rows.volume.per_row
        self.useful_share = rows.volume.useful_share
        self.state = self.session.initial_state(config.seed, self.work.loaded)
        stream = TrainBatches(
            rows, batch_size=size, seed=config.seed, host_rows=lambda size: host_rows(self.mesh, size)
        )
        self.batches = [self.session.shard(stream.batch(index)) for index in range(batches)]
        self.calls = 0
        self.loss = float("nan")
        self.seconds: list[float] = []
        self.host_seconds: list[float] = []
        self.host_cpu_seconds: list[float] = []

    def run(self, steps: int) -> None:
        """Runs and times `steps` steps. As in a run, each is dispatched before the previous one has ended."""
        sums = [self.session.empty_sums() for _ in range(steps)]
        jax.block_until_ready((self.state, sums))
        since, under_way = time.perf_counter(), None
        for fresh in sums:
            batch = self.batches[self.calls % len(self.batches)]
            start = time.perf_counter()
            # New sums for each step: sums passed on would be donated before they can be waited for.
            self.state, done = self.compiled(self.state, fresh, batch, ())
            self.host_seconds.append(time.perf_counter() - start)
            self.calls += 1
            if under_way is not None:
                since = self._ended(under_way, since)
            under_way = done
        if under_way is not None:
            self._ended(under_way, since)
            total, weight = np.asarray(under_way["loss"])
            self.loss = float(total / weight)

    def run_idle(self, steps: int) -> None:
        """Runs `steps` steps, each dispatched to an idle device, and measures the host's processor time for it.

        The time is that of the calling thread: a wall clock would include preemption if the device is the CPU.
        """
        for _ in range(steps):
            fresh, batch = self.session.empty_sums(), self.batches[self.calls % len(self.batches)]
            jax.block_until_ready((self.state, fresh))
            start = time.thread_time()
            self.state, done = self.compiled(self.state, fresh, batch, ())
            self.host_cpu_seconds.append(time.thread_time() - start)
            jax.block_until_ready(done)
            self.calls += 1

    def _ended(self, sums: Any, since: float) -> float:
        jax.block_until_ready(sums)
        now = time.perf_counter()
        self.seconds.append(now - since)
        return now

    def median_seconds(self, *, warm_up: int = 2) -> float:
        """Returns the median of a step's seconds, the first `warm_up` left out."""
        return statistics.median(self.seconds[warm_up:])

    def memory(self) -> dict[str, Any]:
        """Returns the compiler's account of memory in bytes a device: temporary, arguments, peak."""
        found = self.compiled.memory_analysis()
        assert found is not None, "CPU, GPU and TPU say"
        held = held_bytes(found)
        return {
            "temporary_bytes": found.temp_size_in_bytes,
            "held_bytes": held,
            "peak_bytes": held + found.temp_size_in_bytes,
        }

    def parameters(self) -> int:
        """Returns how many the model has."""
        return count_parameters(self.session.abstract.params, self.work.objective.spec.encoder)

    def model_flops(self) -> float:
        """Returns the operations of a step by formula (`jaxfm.models.flops`), over all devices."""
        return self.config.train.batch_size * self.work.objective.flops_per_row(self.config.adapt)

    def facts(self, *, warm_up: int, peak_flops: float | None) -> dict[str, Any]:
        """Returns what the calls so far say, the first `warm_up` left out, as JSON values.

        Args:
          warm_up: calls that do not count.
          peak_flops: of a device, a second; None: not known, and so no "mfu" either.
        """
        seconds = spread(self.seconds[warm_up:])
        rate, achieved = self.tokens / seconds["median"], self.model_flops() / seconds["median"] / self.mesh.size
        device = jax.local_devices()[0].memory_stats() or {}
        return {
            "parameters": self.parameters(),
            "tokens": self.tokens,
            "useful_share": round(self.useful_share, 4),
            "step_seconds": seconds,
            "tokens_per_second": rate,
            "useful_tokens_per_second": rate * self.useful_share,
            "achieved_tflops": achieved / 1e12,
            "mfu": None if peak_flops is None else achieved / peak_flops,
            "host_ms": 1e3 * statistics.median(self.host_seconds[warm_up:]),
            "host_cpu_ms": 1e3 * statistics.median(self.host_cpu_seconds) if self.host_cpu_seconds else None,
            "lower_seconds": self.lower_seconds,
            "compile_seconds": self.compile_seconds,
            **self.memory(),
            # Of the process up to now, earlier steps of a sweep included; the compiler's figure is this step's alone.
            "process_peak_bytes": device.get("peak_bytes_in_use"),
            "loss": self.loss,
        }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns least, quartiles and most of some numbers."""
    least, lower, median, upper, most = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return {"least": least, "lower_quartile": lower, "median": median, "upper_quartile": upper, "most": most}


def read_config(file: str, changes: Sequence[str] = ()) -> Config:
    """Returns the checked config of "FILE.py[:variant]" after changes, words such as "--config.train.batch_size=8".

    Raises:
      UserError: as `read_values`.
    """
    return assumed_shapes(from_config_dict(read_values(file, changes)))


def read_values(file: str, changes: Sequence[str] = ()) -> ConfigDict:
    """Returns what `read_config` checks.

    Raises:
      UserError: the file, variant or key does not exist, or a value has a wrong type.
    """
    for word in changes:
        check_key(word.removeprefix("--config.").partition("=")[0])
    words = ["profiles", f"--config={file}", *changes]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=words)
    try:
        values(words)
        config = holder.value
        config.is_locked  # noqa: B018  (config_flags keeps a missing file's error until it is looked at)
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        text = str(error).strip()
        # Of a config file that raises, the last line says what was wrong.
        text = text.splitlines()[-1].removeprefix("jaxfm.errors.UserError: ") if "Traceback" in text else text
        raise UserError(f"--config={file} {' '.join(changes)}: {' '.join(text.split())}") from error
    return config


def devices() -> dict[str, Any]:
    """Returns facts of JAX's devices for result files, to go with `quality.machine`."""
    first = jax.devices()[0]
    return {
        "platform": first.platform,
        "device_kind": first.device_kind,
        "devices": jax.device_count(),
        "backend": " ".join(first.client.platform_version.split()),
    }
