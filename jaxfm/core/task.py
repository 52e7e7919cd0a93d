"""What the loop asks of a task; one file a task implements it, and the loop never asks which one it has."""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files, schema
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.evaluation import BootstrapData
from jaxfm.data.pipeline import Rows
from jaxfm.errors import UserError
from jaxfm.observe.metrics import Sums
from jaxfm.observe.tables import Table

# The run directory's memory of a task: enough to predict, evaluate and export without the config or the data.
TASK_FILE = "task.json"
TASK_VERSION = 1  # of task.json; one without a version is of the time before
TOKENIZER_DIR = "tokenizer"
# Probabilities as the model gives them.
NOT_CALIBRATED: Mapping[str, float] = types.MappingProxyType({})


class TaskValues(dict[str, Any]):
    """The content of a task.json; a key that is absent is the user's mistake."""

    def __init__(self, path: pathlib.Path, values: Mapping[str, Any]):
        """`path` is for messages."""
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        """Raises UserError."""
        raise UserError(f"{self.path}: has no {key!r}, so it was changed, or is of another jaxfm. {_UNUSABLE}")


_UNUSABLE = "Take it from a backup of the run, or train again."


def write_task(workdir: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes task.json: "task", the name, and what the task is beside its weights."""
    files.write_json(workdir / TASK_FILE, {"version": TASK_VERSION, **values})


def read_task(workdir: pathlib.Path) -> TaskValues:
    """Returns what `write_task` wrote. Raises UserError where it is absent, cut, or of a newer jaxfm."""
    path = workdir / TASK_FILE
    if not path.is_file():
        raise UserError(f"--workdir={workdir}: holds no run of jaxfm ({TASK_FILE} is not there).")
    values = TaskValues(path, files.read_versioned(path, TASK_VERSION))
    if not isinstance(values["task"], str) or not isinstance(values["encoder"], dict):
        raise UserError(f"{path}: is not a task that this jaxfm knows. {_UNUSABLE}")
    schema.build(EncoderConfig, values["encoder"], root=f"{path}: encoder.")
    return values


def build_spec(cls: type, values: TaskValues) -> Any:
    """Returns the dataclass that the values of a task.json but its "task" stand for; UserError for any other values."""
    fields = {name: value for name, value in values.items() if name != "task"}
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            values[field.name]  # an absent one is named
    return schema.build(cls, fields, root=f"{values.path}: ")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A split's result.

    Attributes:
      metrics: name -> number, for the log; one of them chooses the best checkpoint.
      scores: the same and more, nested, as JSON values for report.json.
      tables: for people.
      predictions: records for predictions/*.jsonl, made as they are asked for.
      remarks: sentences for the person who watches the run.
      bootstrap_data: the metrics as a function of independent units, for intervals and comparisons; None without units.
      plots: name -> what draws it as a PNG file.
    """

    metrics: Mapping[str, float]
    scores: Mapping[str, Any]
    tables: tuple[Table, ...]
    predictions: Iterable[Mapping[str, Any]]
    warnings: tuple[str, ...] = ()
    bootstrap_data: BootstrapData | None = None
    plots: Mapping[str, Callable[[pathlib.Path], None]] = dataclasses.field(default_factory=dict)


class Objective(Protocol):
    """A model and what it minimises: all that the train step is made of."""

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        ...

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool, remat: str = "none") -> nnx.Module:
        """Builds the model; parameter values are drawn from `rngs`. `remat` is that of `ModelConfig`.

        What is adapted to the task, its `models.encoder.Encoder`, is its attribute `encoder`.
        """
        ...

    def label_shape(self, row_length: int) -> tuple[tuple[int, ...], np.dtype]:
        """Returns shape and type of the labels of one row of so many tokens."""
        ...

    def loss(
        self, model: nnx.Module, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Sums]]:
        """Returns the SUM of losses, its weight (targets counted) and further metric sums.

        `key` is for dropout and whatever else is random, `progress` (0 to 1) for whatever changes during a run.
        """
        ...


class Task(Objective, Protocol):
    """A model, a loss and a score over one run's data."""

    name: str
    # Metrics of `score` that may choose a checkpoint -> is more better?
    selection_metrics: Mapping[str, bool]

    def outputs(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what `score` needs of each row, arrays [B, ...]; without dropout."""
        ...

    def splits(self) -> tuple[str, ...]:
        """Returns the names of the splits there are, "train" first."""
        ...

    def rows(self, split: str) -> Rows:
        """Returns a split's packed rows."""
        ...

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits what makes probabilities honest to outputs of the split "valid"; empty where there is nothing to fit."""
        ...

    def score(
        self, split: str, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Scores `outputs` (arrays [N, ...] over the rows of the split), its probabilities by what `calibrate` gave."""
        ...

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        ...


class Predictor(Protocol):
    """A trained model over unlabelled input: records in, rows to compute, records out."""

    # Enough to pack well, few enough to hold: a million lines never are in memory at once.
    records_at_once: int

    # Whether a record may have "tokens", words already split, beside or in place of "text".
    takes_words: bool

    @property
    def pairs(self) -> bool:
        """Whether a record has two texts."""
        ...

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True) -> nnx.Module:
        """Builds the model."""
        ...

    def outputs(self, model: nnx.Module, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what `decode` needs of each row."""
        ...

    def encode(self, records: Sequence[Mapping[str, Any]]) -> Any:
        """Turns records ({"text": ...}) into an object with `rows`, the packed rows to compute."""
        ...

    def decode(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns one result a record, JSON values."""
        ...

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns a result as lines for a person."""
        ...


class Exporter(Protocol):
    """A trained model on its way out."""

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the head; empty where it has none."""
        ...

    def make_model(self, rngs: nnx.Rngs, *, dtype: jnp.dtype, scan: bool = True) -> nnx.Module:
        """Builds the model."""
        ...

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes config, weights and tokenizer as transformers' from_pretrained wants them."""
        ...
