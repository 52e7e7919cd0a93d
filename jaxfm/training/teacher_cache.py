"""Outputs of teachers for the training rows, computed once and kept on the disk by the content of rows and teachers.

A file holds the mean of the teachers' logits for each row, in the order of the rows. Its name is a hash of all that it
depends on: the rows, the weights, how they are computed. So a file is never out of date, and runs that differ in the
student alone share it.
"""

# N rows

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.batch import Batch, BatchSpec, Dataset, Field, Volume
from jaxfm.core.build import Build
from jaxfm.core.objective import LearnsFromTeachers
from jaxfm.errors import UserError
from jaxfm.parallel import distributed
from jaxfm.training.distillation import LOGITS, logits_field
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.hashes import hash_of
from jaxfm.training.teachers import KnownTeacher, Teacher, load, open_teachers

FOLDER = "teachers"
_DIGEST = "sha256"


@dataclasses.dataclass(frozen=True, eq=False)
class TaughtRows:
    """Rows that bring the logits of teachers with them (implements core.batch.Dataset).

    Attributes:
      rows: of the task.
      logits: f32 [N, ...].
      field: of the logits.
      path: of the file that holds them.
      teachers: hash of the teachers' weights.
    """

    rows: Dataset
    logits: np.ndarray
    field: Field
    path: pathlib.Path
    teachers: str

    @property
    def spec(self) -> BatchSpec:
        """Those of the task, and the logits."""
        return {**self.rows.spec, LOGITS: self.field}

    @property
    def volume(self) -> Volume:
        """As the task's."""
        return self.rows.volume

    def __len__(self) -> int:
        """The number of rows N."""
        return len(self.rows)

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for."""
        return {**self.rows.take(index), LOGITS: self.logits[index]}

    def fingerprint(self) -> str:
        """Identifies the rows' content, not that of the teachers."""
        return self.rows.fingerprint()


def taught_rows(
    config: Config,
    objective: LearnsFromTeachers,
    known: Sequence[KnownTeacher],
    rows: Dataset,
    build: Build,
    mesh: Mesh,
) -> TaughtRows:
    """Returns training rows with the logits of `config.distil.teacher`: of the file, or computed now and written.

    Args:
      config: of the run.
      objective: of its task.
      known: the teachers that the config names.
      rows: for training.
      build: how the run's own model computes.
      mesh: of its devices.

    Raises:
      UserError: a teacher that does not fit the run, a damaged file, a disk that is full.
    """
    teachers = open_teachers(config, objective, known, build, mesh)
    field = logits_field(objective, teachers[0])
    labels = getattr(teachers[0].spec, "labels", ())
    weights = [load(teacher, labels) for teacher in teachers]
    weights_hash = files.json_digest([hash_of(each) for each in weights])
    specs = [repr(teacher.spec) for teacher in teachers]
    key = files.json_digest([rows.fingerprint(), weights_hash, specs, str(build.dtype), list(field.shape)])
    folder = files.user_path(config.data.cache, "config.data.cache") if config.data.cache else files.user_cache()
    path = folder / FOLDER / f"{key}.safetensors"
    if distributed.all_processes(f"{path.name} is read", path.is_file()):
        return TaughtRows(rows, _read(path, (len(rows), *field.shape)), field, path, weights_hash)
    logits = np.zeros((len(rows), *field.shape), np.float32)
    for teacher, params in zip(teachers, weights, strict=True):
        logits += _logits(teacher, params, rows, config.eval.batch_size, mesh) / len(teachers)
    if distributed.is_main():
        _write(path, logits)
    return TaughtRows(rows, logits, field, path, weights_hash)


def _logits(teacher: Teacher, params: object, rows: Dataset, batch_size: int, mesh: Mesh) -> np.ndarray:
    own = teacher.objective
    assert own is not None, "see distillation_checks"
    evaluate = Evaluator(lambda model, batch: {LOGITS: own.logits(model, batch)}, teacher.graphdef, mesh, batch_size)
    return evaluate(params, rows)[LOGITS]


def _write(path: pathlib.Path, logits: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.check_room(path.parent, logits.nbytes, "the outputs of a teacher")
    content = safetensors.numpy.save({LOGITS: logits}, metadata={_DIGEST: _digest(logits)})
    with files.atomic_write(path, binary=True) as file:
        file.write(content)


def _read(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
    damaged = f"{path}: does not hold the outputs of a teacher as they were written. Remove it: it is made anew."
    try:
        with safetensors.safe_open(path, "numpy") as file:
            logits, digest = file.get_tensor(LOGITS), (file.metadata() or {}).get(_DIGEST)
    except (OSError, safetensors.SafetensorError, KeyError) as error:
        raise UserError(damaged) from error
    if logits.shape != shape or logits.dtype != np.float32 or digest != _digest(logits):
        raise UserError(damaged)
    return logits


def _digest(logits: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()
