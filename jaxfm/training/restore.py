"""The parameters a run stands for, for the programs that use a trained model."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.build import AttentionConfig
from jaxfm.errors import UserError
from jaxfm.models.kernels import XLA
from jaxfm.parallel.mesh import build_abstract
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.paths import path_name


def restore_params(
    workdir: pathlib.Path, make_model: Callable[[nnx.Rngs], nnx.Module], mesh: Mesh
) -> tuple[nnx.GraphDef[Any], Any, int]:
    """Restores what the run stands for: the mean of some checkpoints where that won, else the one that was chosen.

    That is the best or the last, as `config.eval.select` says, and the last where none was evaluated.

    Returns the model's graph definition, its sharded parameters and their step.

    Raises:
      UserError: no run there, or no whole checkpoint yet.
    """
    config = workdirs.read_config(workdir)

    def make() -> nnx.Module:
        model: Any = make_model(nnx.Rngs(0))
        if config.model.attention == XLA:  # a run that did without kernels does so for good; else what suits the rows
            model.encoder.build = dataclasses.replace(model.encoder.build, attention=AttentionConfig(XLA))
        return model

    graphdef, abstract = build_abstract(make, mesh)
    for directory in (workdir / workdirs.AVERAGED_DIR, workdir / workdirs.CHECKPOINTS_DIR):
        if not directory.is_dir():
            continue
        checkpoints = Checkpoints(directory, read_only=True)
        try:
            steps = checkpoints.steps()
            if steps:
                best = _best(directory, checkpoints, steps[-1])
                step = best if config.eval.select == "best" and best in steps else steps[-1]
                return graphdef, checkpoints.restore_params(step, abstract), step
        finally:
            checkpoints.close()
    raise UserError(f"{workdir}: has no checkpoint yet.")


def _best(directory: pathlib.Path, checkpoints: Checkpoints, step: int) -> int:
    """Returns the step that a checkpoint says is the best so far."""
    try:
        return checkpoints.meta(step)["best"]["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{directory / str(step)}: the checkpoint's meta cannot be read ({error}). Remove this "
            "checkpoint to use the one before, or train on from it."
        ) from error


def to_host(params: Any) -> dict[str, np.ndarray]:
    """Returns path -> host array of every parameter."""
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
