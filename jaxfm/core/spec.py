"""What a trained model is beside its weights, kept in task.json: enough to predict, evaluate and export."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from flax import nnx

from jaxfm import files, schema
from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig, UnfitShapeError, upgraded
from jaxfm.errors import UserError

SPEC_FILE = "task.json"
# Of task.json. Version 1 kept replaced-token detection as an objective of masked LM; version 2 had other names for
# parts of the encoder.
SPEC_VERSION = 3
_UNUSABLE = "Take it from a backup of the run, or train again."


class Spec(Protocol):
    """A frozen dataclass of JSON values: task.json is {"task": name, "version": ..., **its fields}."""

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        ...

    @property
    def row_length(self) -> int:
        """Positions of a row that the layers see."""
        ...

    def batch_spec(self) -> BatchSpec:
        """Returns the arrays of a training batch."""
        ...

    def make_model(self, build: Build, rngs: nnx.Rngs) -> nnx.Module:
        """Builds the model; parameter values are drawn from `rngs`.

        What is adapted to the task, its `models.encoder.Encoder`, is its attribute `encoder`.
        """
        ...


class SpecValues(dict[str, Any]):
    """The content of a task.json; a key that is absent is the user's mistake."""

    def __init__(self, path: pathlib.Path, values: Mapping[str, Any]):
        """`path` is for messages."""
        super().__init__(values)
        self.path = path

    def __missing__(self, key: str) -> Any:
        """Raises UserError."""
        raise UserError(f"{self.path}: has no {key!r}, so it was changed, or is of another jaxfm. {_UNUSABLE}")


def write_spec(workdir: pathlib.Path, task: str, spec: Any) -> None:
    """Writes task.json of a task's name and its spec, a dataclass."""
    files.write_json(workdir / SPEC_FILE, {"version": SPEC_VERSION, "task": task, **dataclasses.asdict(spec)})


def read_spec_values(workdir: pathlib.Path) -> SpecValues:
    """Returns what `write_spec` wrote, of this version or an older one.

    Raises:
      UserError: the file is absent, cut, of a newer jaxfm, or its encoder has values of a wrong kind.
    """
    path = workdir / SPEC_FILE
    if not path.is_file():
        raise UserError(f"--workdir={workdir}: holds no run of jaxfm ({SPEC_FILE} is not there).")
    # `read_versioned` takes the version out; one without is of the time before versions.
    values = SpecValues(path, files.read_versioned(path, SPEC_VERSION))
    if not isinstance(values["task"], str) or not isinstance(values["encoder"], dict):
        raise UserError(f"{path}: is not a task that this jaxfm knows. {_UNUSABLE}")
    values["encoder"] = upgraded(values["encoder"])
    try:
        schema.build(EncoderConfig, values["encoder"], root=f"{path}: encoder.")
    except UnfitShapeError as error:
        raise UserError(f"{path}: encoder: {error}. {_UNUSABLE}") from error
    return values


def build_spec(cls: type, values: SpecValues) -> Any:
    """Returns the spec that the values of a task.json but its "task" stand for; UserError for any other values."""
    fields = {name: value for name, value in values.items() if name != "task"}
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            values[field.name]  # an absent one is named
    return schema.build(cls, fields, root=f"{values.path}: ")
