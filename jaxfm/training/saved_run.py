"""A trained run, opened once for everything that uses it: evaluation, prediction, export, a next run, a judge."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.judging import register_opener
from jaxfm.core.spec import SPEC_FILE, Spec
from jaxfm.core.task import TOKENIZER_DIR, Predictor, Task, TaskDefinition
from jaxfm.errors import UserError
from jaxfm.models.kernels import XLA
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.schema import to_dict
from jaxfm.tasks import registry
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints, array_hashes
from jaxfm.training.judging import RunJudge, check_judge
from jaxfm.training.paths import path_name
from jaxfm.training.quantised_weights import WEIGHTS_FILE, restore_stored


@dataclasses.dataclass(frozen=True)
class Restored:
    """The parameters that a run stands for.

    Attributes:
      graphdef: of the model.
      params: sharded over the mesh.
      step: whose checkpoint they are.
    """

    graphdef: nnx.GraphDef[Any]
    params: Any
    step: int

    def to_host(self) -> dict[str, np.ndarray]:
        """Returns path -> host array of every parameter."""
        return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(self.params)}


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run directory: what was trained, how, and on what.

    Attributes:
      workdir: the run directory.
      config: of the run.
      definition: of its task.
      spec: what its model is beside the weights.
    """

    workdir: pathlib.Path
    config: Config
    definition: TaskDefinition
    spec: Spec

    def predictor(self) -> Predictor:
        """Returns what turns input into predictions, and writes the model for other libraries."""
        return self.definition.predictor(self.workdir, self.spec)

    def task(self, source: str, split: str, config: Config | None = None) -> Task:
        """Builds the task over one split of a source, for evaluation; by `config`, where it is not the run's own."""
        return self.definition.reopen(self.workdir, self.spec, config or self.config, source, split)

    def abstract_model(self, mesh: Mesh, build: Build) -> tuple[nnx.GraphDef[Any], Any]:
        """Returns the model's structure and the shapes of its parameters, sharded over the mesh.

        Raises:
          UserError: the values of task.json make no model.
        """
        try:
            return build_abstract(lambda: self.spec.make_model(build, nnx.Rngs(0)), mesh)
        except (AssertionError, ArithmeticError, ValueError, TypeError, KeyError, IndexError) as error:
            # No data and no weights are looked at yet, so whatever models assert of a spec is about this file.
            raise UserError(
                f"{self.workdir / SPEC_FILE}: its values fit no model of this jaxfm ({type(error).__name__}: {error}). "
                "Take it from a backup of the run, or train again."
            ) from error

    def restore(self, mesh: Mesh, build: Build) -> Restored:
        """Restores what the run stands for: the mean of some checkpoints where that won, else the one that was chosen.

        That is the best or the last, as `config.eval.select` says, and the last where none was evaluated; of a
        quantised run (`jaxfm.quantise`) its rounded weights.

        Raises:
          UserError: the run has no whole checkpoint yet.
        """
        if self.config.model.attention == XLA:  # a run without kernels never takes them; else what suits the rows
            build = dataclasses.replace(build, attention=AttentionConfig(XLA))
        graphdef, abstract = self.abstract_model(mesh, build)
        if (self.workdir / WEIGHTS_FILE).is_file():
            return Restored(graphdef, *restore_stored(self.workdir, self.spec.encoder.quantisation, abstract))
        for directory in (self.workdir / workdirs.AVERAGED_DIR, self.workdir / workdirs.CHECKPOINTS_DIR):
            if not directory.is_dir():
                continue
            checkpoints = Checkpoints(directory, read_only=True)
            try:
                steps = checkpoints.steps()
                if steps:
                    best = _best(directory, checkpoints, steps[-1])
                    step = best if self.config.eval.select == "best" and best in steps else steps[-1]
                    return Restored(graphdef, checkpoints.restore_params(step, abstract), step)
            finally:
                checkpoints.close()
        raise UserError(f"{self.workdir}: has no checkpoint yet.")

    def fingerprint(self, restored: Restored) -> str:
        """Returns a hash of what results depend on: the weights, task.json and the tokenizer's files."""
        digest = hashlib.sha256((self.workdir / SPEC_FILE).read_bytes())
        for path in sorted((self.workdir / TOKENIZER_DIR).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(self.workdir).as_posix()}\0".encode() + path.read_bytes())
        digest.update(json.dumps(array_hashes(restored.params), sort_keys=True).encode())
        return digest.hexdigest()


def open_run(workdir: pathlib.Path) -> SavedRun:
    """Reads config.json and task.json of a run directory, those of older versions too.

    Raises:
      UserError: the directory holds no run, a damaged one, or one of a task or version that this jaxfm does not know.
    """
    config = workdirs.read_config(workdir)
    definition, spec = registry.read_spec(workdir, to_dict(config))
    return SavedRun(workdir, config, definition, spec)


def available_mesh(config: Config) -> tuple[Mesh, str]:
    """Returns the run's own mesh or, where there are other devices than it was trained on, all of them along fsdp.

    The second result is a note in that case.
    """
    try:
        return make_mesh(config.parallel.mesh), ""
    except UserError as error:
        note = f"NOTE: the run's mesh is not one of these devices, all of which share the parameters instead. {error}"
        return make_mesh(MeshConfig(data=1, fsdp=-1)), note


def _best(directory: pathlib.Path, checkpoints: Checkpoints, step: int) -> int:
    """Returns the step that a checkpoint says is the best so far."""
    try:
        return checkpoints.meta(step)["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory / str(step)}: the checkpoint's meta cannot be read ({error}). Remove this "
            "checkpoint to use the one before, or train on from it."
        ) from error


_RUN = "run:"


def _open_judge(uri: str, option: str) -> RunJudge:
    """Opens run:WORKDIR as a judge of images (`core.judging.open_judge`), on one device of this process.

    All processes of a run score the same outputs, each by itself.
    """
    workdir = files.expanded(uri.removeprefix(_RUN))
    if not uri.startswith(_RUN) or not (workdir / SPEC_FILE).is_file():
        raise UserError(f"{option}: {uri!r} is not a trained run. Give run:WORKDIR, the directory of such a run.")
    run = open_run(workdir)
    predictor = run.predictor()
    check_judge(predictor, run.config.task.name, f"{option}: {uri}")
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    try:
        restored = run.restore(mesh, Build())
    except UserError as error:
        raise UserError(f"{option}: {error}") from error
    return RunJudge(predictor, restored.graphdef, restored.params, mesh, run.config.eval.batch_size)


register_opener(_open_judge)
