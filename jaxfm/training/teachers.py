"""Trained models that a run reads: their shapes, whether they fit the run, and their weights."""

import dataclasses
import math
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import FULL, EncoderConfig
from jaxfm.core.grown_head import takes_head
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.objective import LearnsFromTeachers
from jaxfm.core.spec import Spec
from jaxfm.core.task import TOKENIZER_DIR, Task
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.vocabulary import has_tokenizer
from jaxfm.parallel import mesh as meshes
from jaxfm.training.loading import put
from jaxfm.training.paths import flat, nested
from jaxfm.training.supernet import of_shape

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEY = "config.distil.teacher"
MASKED_LM_KEY = "config.augment.masked_lm"
_ENCODER, _HEAD, _LABELS = "encoder/", "head/", "labels"


@dataclasses.dataclass(frozen=True, eq=False)
class KnownTeacher:
    """What `config.distil.teacher` names, of which no weights are read yet (`training/initial.py`).

    What `config.augment.masked_lm` names is one too: a frozen model that training reads.

    Attributes:
      uri: as it was given.
      encoder: its shape.
      spec: of its run; None for weights that are of no run.
      weights: reads what a run starts from that begins with its weights.
      labels_and_tokenizer: reads the classes of its head, and the folder of its tokenizer.
      key: of the config, which names it.
    """

    uri: str
    encoder: EncoderConfig
    spec: Spec | None
    weights: Callable[[], Initial]
    labels_and_tokenizer: Callable[[], tuple[tuple[str, ...], pathlib.Path | None]]
    key: str = KEY


class EncoderAlone(nnx.Module):
    """A teacher whose layers alone are read: a model without its head."""

    def __init__(self, model: Any):
        """Takes the encoder out of a model."""
        self.encoder = model.encoder


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A trained model as a step computes it.

    Attributes:
      known: what the config names.
      objective: gives its logits for the rows of the run; None: its layers alone are read.
      spec: how it reads these rows.
      graphdef: of the model.
      abstract: shapes and shardings of its parameters.
    """

    known: KnownTeacher
    objective: LearnsFromTeachers | None
    spec: Spec
    graphdef: nnx.GraphDef[Any]
    abstract: Any

    @property
    def encoder(self) -> EncoderConfig:
        """Its shape."""
        return self.known.encoder

    def model(self, params: Any) -> Any:
        """Returns the model; nothing reaches its parameters in a backward pass."""
        return nnx.merge(self.graphdef, jax.lax.stop_gradient(params))

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract))


def open_teachers(
    config: Config, objective: LearnsFromTeachers, known: Sequence[KnownTeacher], build: Build, mesh: Mesh
) -> tuple[Teacher, ...]:
    """Returns teachers as a step computes them, by shapes alone: no weights are read.

    Args:
      config: of the run.
      objective: of the run's task.
      known: what `config.distil.teacher` names.
      build: how the run's own model computes.
      mesh: over which the teachers' parameters are cut as the run's own.

    Raises:
      UserError: a model that cannot compute the rows of this run.
    """
    build = dataclasses.replace(build, remat="none", frozen_layers=0)
    return tuple(_opened(each, config, objective, build, mesh) for each in known)


def _opened(known: KnownTeacher, config: Config, objective: LearnsFromTeachers, build: Build, mesh: Mesh) -> Teacher:
    uri, encoder = known.uri, known.encoder
    if encoder.reads_padding:
        raise UserError(f"{KEY}: {uri!r} is the text tower of a pair. Name an encoder of texts.")
    if encoder.sight != FULL:
        raise UserError(f"{KEY}: {uri!r} is an encoder whose tokens see no later ones. Name one that sees both sides.")
    given: Any = objective
    own, spec = None, of_shape(given, encoder).spec
    if config.distil.soft:
        try:
            own = objective.of_teacher(known.spec, encoder)
        except UserError as error:
            raise UserError(
                f"{KEY}: {uri!r} {error}. Train a teacher for this task, or learn from its layers alone "
                "(config.distil.soft=0, with hidden, attention or relations)."
            ) from error
        with_outputs: Any = own
        spec = with_outputs.spec
    _check_rows(uri, spec, given.spec, encoder)

    def make() -> nnx.Module:
        model = spec.make_model(build, nnx.Rngs(0))
        return model if own is not None else EncoderAlone(model)

    graphdef, abstract = meshes.build_abstract(make, mesh)
    return Teacher(known, own, spec, graphdef, abstract)


def _check_rows(uri: str, spec: Spec, own: Spec, encoder: EncoderConfig) -> None:
    """Raises UserError where the rows of a run lack what a teacher reads, or are longer than it can read."""
    rows = own.batch_spec()
    for name, field in spec.batch_spec().items():
        if name == _LABELS and name in rows:  # never read of a teacher, which may know fewer
            continue
        if name not in rows or rows[name].shape != field.shape:
            raise UserError(
                f"{KEY}: {uri!r} reads {name!r} [{', '.join(map(str, field.shape))}] of a row, which rows of this run "
                f"{'do not have' if name not in rows else 'have in another shape'}. Take a student of the teacher's "
                "family."
            )
    check_length(KEY, uri, own, encoder)


def check_length(key: str, uri: str, own: Spec, encoder: EncoderConfig) -> None:
    """Raises UserError where a frozen model, which `key` names by `uri`, has fewer positions than a run's examples."""
    longest = getattr(own, "window", own.row_length)
    if not encoder.reads_patches and longest > encoder.max_positions:
        raise UserError(
            f"{key}: {uri!r} has {encoder.max_positions} positions, but an example of this run may have {longest} "
            "tokens. Set config.data.row_length, or config.data.window, to at most that many."
        )


def check_teachers(config: Config, task: Task, known: Sequence[KnownTeacher]) -> None:
    """Raises UserError where a frozen model reads other tokens than a run's rows have, or gives other classes."""
    if not known:
        return
    labels = tuple(getattr(task.objective.spec, "labels", ()))
    tokenizer = tokenizer_of(task)
    vocabulary = None if tokenizer is None else tokenizer.get_vocab()
    for teacher in known:
        found, folder = teacher.labels_and_tokenizer()
        if teacher.key == KEY and config.distil.soft and labels:
            _check_labels(config, teacher.uri, found, labels)
        if vocabulary is not None:
            _check_vocabulary(teacher.key, teacher.uri, folder, vocabulary)


def tokenizer_of(task: Task) -> "PreTrainedTokenizerFast | None":
    """Returns the tokenizer that made a task's rows; None: they are not of text."""
    with tempfile.TemporaryDirectory() as folder:
        task.save(pathlib.Path(folder))
        own = pathlib.Path(folder) / TOKENIZER_DIR
        return load_tokenizer(own) if has_tokenizer(own) else None


def _check_labels(config: Config, uri: str, found: Sequence[str], labels: Sequence[str]) -> None:
    if not found and len(labels) > 1:
        raise UserError(
            f"{KEY}: {uri!r} has no head with the classes of this task. Train it first (jaxfm train, from these "
            "weights), and name the run: run:WORKDIR."
        )
    if len(labels) > 1 and set(found) != set(labels):
        if len(config.distil.teachers) == 1 and takes_head(config, found, labels):
            return  # a head that grew: what the teacher knows is learned of it
        raise UserError(
            f"{KEY}: {uri!r} knows the classes {_listed(found)}, but the data have {_listed(labels)}. Train a teacher "
            "on these data."
        )


def _check_vocabulary(key: str, uri: str, tokenizer: pathlib.Path | None, own: dict[str, int]) -> None:
    if tokenizer is None or not has_tokenizer(tokenizer):
        raise UserError(f"{key}: {uri!r} has no tokenizer, so it is not known whether it reads the rows of this run.")
    theirs = load_tokenizer(tokenizer).get_vocab()
    if theirs != own:
        other = next((piece for piece in own if theirs.get(piece) != own[piece]), "")
        advice = f"Give the student that of the teacher: config.model.tokenizer=dir:{tokenizer}."
        raise UserError(
            f"{key}: {uri!r} has another tokenizer than this run ({other!r} has the number {own.get(other)} here and "
            f"{theirs.get(other)} there), so it cannot read the same rows. "
            + (advice if key == KEY else "Name a masked LM of the tokenizer that this run has.")
        )


def load(teacher: Teacher, labels: Sequence[str] = ()) -> Any:
    """Reads a teacher's parameters and puts them on the devices.

    Args:
      teacher: opened.
      labels: classes of the run; a head with the same ones in another order is put in this one.

    Raises:
      UserError: weights that are not there, or lack a part of the model.
    """
    first = teacher.known.weights()
    shapes = flat(teacher.abstract)
    lacking = [path for path in shapes if path not in first.params or first.params[path].shape != shapes[path].shape]
    if lacking:
        raise UserError(
            f"{KEY}: {teacher.known.uri!r} lacks {', '.join(lacking[:3])} of the shape that this task's model has. "
            "Train it for the task first, and name the run: run:WORKDIR."
        )
    order = [first.labels.index(label) for label in labels] if set(labels) == set(first.labels) else []

    def ordered(path: str, value: HostArray) -> HostArray:
        if not path.startswith(_HEAD) or len(order) < 2 or order == sorted(order):
            return value
        return np.ascontiguousarray(np.asarray(value)[..., order])

    return nested({path: put(ordered(path, first.params[path]), shape) for path, shape in shapes.items()})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "") if names else "(none)"
