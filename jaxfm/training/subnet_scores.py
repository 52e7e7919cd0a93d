"""Scores of subnets with the weights of their supernet, on its validation split; one program for all of them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.models.subnets import Selected, Subnet, SubnetSpace, cut_encoder, selection_of
from jaxfm.parallel.mesh import build_abstract
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.saved_run import SavedRun, available_mesh
from jaxfm.training.session import compute_dtype, scans_layers
from jaxfm.training.supernet import is_asked_for, space_of

SPLIT = "valid"
_VERSION = 1


class SubnetScores:
    """The scores of a supernet's subnets: metrics of the validation split; those known are kept in a file.

    Attributes:
      run: of the supernet.
      task: with its validation split.
      space: its subnets.
      encoder: of the supernet.
    """

    def __init__(self, run: SavedRun, path: pathlib.Path):
        """Opens the weights and the data.

        Raises:
          UserError: the run is not of a supernet or has no checkpoint, or the file is of another run or other data.
        """
        if not is_asked_for(run.config.supernet):
            raise UserError(
                f"--supernet={run.workdir}: was trained without subnets. Train one with config.supernet.depths, heads "
                "or ffn_sizes: docs/supernet.md."
            )
        self.run, self.encoder = run, run.spec.encoder
        self.space: SubnetSpace = space_of(run.config.supernet, self.encoder)
        self.task: Task = run.task(run.config.data.source, SPLIT)
        mesh, _ = available_mesh(run.config)
        build = Build(compute_dtype(run.config.train.precision), scans_layers(run.config.model.scan_layers))
        restored = run.restore(mesh, build)
        self._params, self._rows = restored.params, self.task.datasets[SPLIT]
        self._evaluator = self._make_evaluator(mesh, build)
        self._path = path
        self._identity = {"run": run.fingerprint(restored), SPLIT: self._rows.fingerprint()}
        self._known = self._read()

    def _make_evaluator(self, mesh: Mesh, build: Build) -> Evaluator:
        spec, outputs = self.run.spec, self.task.objective.outputs
        graphdef, _ = build_abstract(lambda: Selected(spec.make_model(build, nnx.Rngs(0)), self.encoder), mesh)
        size = whole_batches(self.run.config.eval.batch_size, len(self._rows), mesh)
        return Evaluator(lambda selected, batch: outputs(selected.subnet(), batch), graphdef, mesh, size)

    def metrics(self, subnet: Subnet) -> Mapping[str, float]:
        """Returns the metrics of a subnet on the validation split."""
        name = name_of(subnet)
        if name not in self._known:
            selection = selection_of(self.encoder, subnet)
            params: dict[str, Any] = {"model": self._params, **selection._asdict()}
            outputs = self._evaluator(params, self._rows)
            found = self.task.scorer(SPLIT).metrics(outputs)
            self._known[name] = {metric: float(value) for metric, value in found.items() if np.isfinite(value)}
            files.write_json(self._path, {"version": _VERSION, **self._identity, "scores": self._known})
        return self._known[name]

    def _read(self) -> dict[str, dict[str, float]]:
        if not self._path.is_file():
            return {}
        found = files.read_versioned(self._path, _VERSION)
        files.check_values(found, {"scores": dict}, str(self._path))
        if {name: found.get(name) for name in self._identity} != self._identity:
            raise UserError(
                f"--workdir={self._path.parent}: holds scores of another run, or of other validation data, than "
                f"--supernet={self.run.workdir}. Name another directory."
            )
        return found["scores"]


def name_of(subnet: Subnet) -> str:
    """Returns the name of a subnet in files: "layers3_heads6_ffn768"."""
    return f"layers{subnet.depth}_heads{subnet.heads}_ffn{subnet.ffn_size}"


def subnet_of(whole: EncoderConfig, encoder: EncoderConfig) -> Subnet | None:
    """Returns the subnet of a whole encoder that has the shape of another one; None where there is none."""
    subnet = Subnet(encoder.num_layers, encoder.num_heads, encoder.ffn_size)
    fits = all(
        size <= most for size, most in zip(subnet, (whole.num_layers, whole.num_heads, whole.ffn_size), strict=True)
    )
    unlike = {"dropout": 0.0, "attention_dropout": 0.0}  # these are not part of the shape
    cut, other = (
        dataclasses.replace(each, **unlike | {"head_size": each.head_dim})
        for each in ((cut_encoder(whole, subnet) if fits else whole), encoder)
    )
    return subnet if cut == other else None
