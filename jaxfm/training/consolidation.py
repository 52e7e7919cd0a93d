"""Training that keeps what was learned before: penalties on the parameters, in an objective around any other one.

Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3) adds
weight / 2 * sum_i F_i (theta_i - theta*_i)^2, F the Fisher diagonal of earlier data (`training/fisher.py`) and theta*
the weights after them. Of several earlier stages F is a decaying sum, about the weights after the last of them (online
EWC, Schwarz et al. 2018, arXiv 1805.06370, section 4; Huszar 2018 says why not about those of each stage). O-LoRA (Wang
et al. 2023, arXiv 2310.14152, equation 7) adds weight * sum over earlier stages of |A_earlier^T A|^2, so that a
low-rank update reads other directions of its inputs than those before.

What is compared with are constants of the step, sharded like the parameters. A penalty does not depend on the batch: it
is added once an update, whatever the number of micro-batches.
"""

# L layers, D inputs of a linear map, R rank

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from jaxfm import files
from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config
from jaxfm.consolidation_config import ConsolidationConfig
from jaxfm.core.batch import BatchSpec
from jaxfm.core.objective import Loss, LossContext, Objective
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.observe.metrics import weighted
from jaxfm.training.loading import put
from jaxfm.training.paths import flat

IMPORTANCE, ANCHOR, EARLIER = "importance", "anchor", "earlier"
"""Parts of a file: names of its arrays are PART:PATH, of earlier updates earlier-N:PATH."""
_KEY = "config.consolidate"
_DOWN = "/lora/a"


def around(config: Config, objective: Objective, params: Any) -> Objective:
    """Returns the objective that a run trains: with penalties where `config.consolidate` names files, else as it is.

    Args:
      config: of the run.
      objective: the task's, or one around it.
      params: the model's abstract, sharded parameters.

    Raises:
      UserError: a file that is absent, damaged or of another model; settings that contradict.
    """
    consolidate = config.consolidate
    if consolidate == ConsolidationConfig():
        return objective
    if not (consolidate.importance or consolidate.orthogonal_to):
        raise UserError(f"{_KEY}: has a weight, but importance and orthogonal_to are empty. Name a file of stages.")
    if config.distil.teacher:
        raise UserError(f"{_KEY}: contradicts config.distil.teacher. Leave one of both empty.")
    if objective.whole_batch:
        raise UserError(
            f"{_KEY}: the loss of the task {config.task.name!r} compares all rows of a batch, to which no penalty can "
            "be added yet. Leave it empty."
        )
    shapes = flat(params)
    if consolidate.orthogonal_to and not any(path.endswith(_DOWN) for path in shapes):
        raise UserError(f"{_KEY}.orthogonal_to: needs low-rank updates. Set config.adapt.lora.rank.")
    return ConsolidatedObjective(objective, consolidate, _abstract(consolidate, shapes))


@dataclasses.dataclass(frozen=True, eq=False)
class ConsolidatedObjective:
    """An objective with penalties on the model's parameters (implements core.objective.Objective).

    Attributes:
      inner: what is minimised beside the penalties.
      consolidate: their files and weights.
      constants: part -> path -> shape and sharding, of `LossContext.constants`.
    """

    inner: Objective
    consolidate: ConsolidationConfig
    constants: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]

    whole_batch = False

    @property
    def spec(self) -> Spec:
        """What the model is beside its weights."""
        return self.inner.spec

    def fields(self) -> BatchSpec:
        """Returns nothing: penalties read no row."""
        return {}

    def load_constants(self) -> Any:
        """Reads the files and puts what they hold on the devices, zeros in place of rows that the head had not yet."""
        return load(self.consolidate, self.constants)

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the loss whose mean is that of `inner` plus the penalties, which are metrics too."""
        known, params = context.constants, flat(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        found = self.inner.loss(model, batch, context._replace(constants=()))
        total, metrics = found.total, dict(found.metrics)
        for name, factor, penalty in self._penalties(params, known):
            total += factor * penalty * found.weight
            metrics[name] = weighted(factor * penalty * found.weight, found.weight)
        return Loss(total, found.weight, metrics)

    def _penalties(self, params: Mapping[str, jax.Array], known: Any) -> list[tuple[str, float, jax.Array]]:
        made = []
        if IMPORTANCE in known:
            made.append(("loss_ewc", self.consolidate.weight, ewc_penalty(params, known[IMPORTANCE], known[ANCHOR])))
        earlier = [part for name, part in known.items() if name.startswith(EARLIER)]
        if earlier:
            overlaps = [orthogonality_penalty(params, each) for each in earlier]
            made.append(("loss_orthogonal", self.consolidate.orthogonal_weight, jnp.stack(overlaps).sum()))
        return made

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns those of the model."""
        return self.inner.outputs(model, batch)

    def logits_per_row(self) -> float:
        """As without penalties."""
        return self.inner.logits_per_row()

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """As without penalties, which cost a few operations a parameter and update."""
        return self.inner.flops_per_row(adapt)


def ewc_penalty(
    params: Mapping[str, jax.Array], importance: Mapping[str, jax.Array], anchor: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns sum F (theta - theta*)^2 / 2 over the parameters (path -> array) that have an importance."""
    parts = [0.5 * jnp.sum(factor * (params[path] - anchor[path]) ** 2) for path, factor in importance.items()]
    return jnp.stack(parts).sum()


def orthogonality_penalty(params: Mapping[str, jax.Array], earlier: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the sum over linear maps and layers of the squares of A_earlier^T A, [R_earlier, R]."""
    parts = []
    for path, before in earlier.items():
        if path not in params:
            continue  # of a map that has no update now
        now = params[path]
        before_LDR, now_LDR = (each.reshape(each.shape[0], -1, each.shape[-1]) for each in (before, now))
        parts.append(jnp.sum(jnp.einsum("LDR,LDS->LRS", before_LDR, now_LDR, precision="highest") ** 2))
    return jnp.stack(parts).sum() if parts else jnp.zeros(())


def write(path: pathlib.Path, parts: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes part -> path -> array as a file that `config.consolidate` may name, whole or not at all."""
    tensors = {
        f"{part}:{name}": np.ascontiguousarray(value)
        for part, arrays in parts.items()
        for name, value in arrays.items()
    }
    with files.atomic_write(path, binary=True) as file:
        file.write(safetensors.numpy.save(tensors))


def read(path: pathlib.Path, option: str) -> dict[str, dict[str, np.ndarray]]:
    """Returns part -> path -> array of a file of `write`; UserError, after the name of the key, where it is none."""
    found: dict[str, dict[str, np.ndarray]] = {}
    try:
        with safetensors.safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118  it has no iterator
                part, _, inside = name.partition(":")
                found.setdefault(part, {})[inside] = file.get_tensor(name)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{option}: {path} cannot be read ({error}). Run jaxfm.continual again: it is made anew."
        ) from None
    return found


def load(consolidate: ConsolidationConfig, abstract: Mapping[str, Mapping[str, jax.ShapeDtypeStruct]]) -> Any:
    """Reads the arrays of `_abstract` and puts them on the devices."""
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, value in (("importance", consolidate.importance), ("orthogonal_to", consolidate.orthogonal_to)):
        if value:
            arrays |= read(files.expanded(value), f"{_KEY}.{name}")
    return {
        part: {path: put(padded(arrays[part][path], shape.shape), shape) for path, shape in shapes.items()}
        for part, shapes in abstract.items()
    }


def padded(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array with zeros after its places along axes that have become longer."""
    if value.shape == shape:
        return value
    return np.pad(value, [(0, new - old) for old, new in zip(value.shape, shape, strict=True)])


def _abstract(
    consolidate: ConsolidationConfig, params: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Returns shapes and shardings of what a step reads, by the heads of the files alone.

    Raises UserError for a file of another model.
    """
    found: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    if consolidate.importance:
        held = _shapes(consolidate.importance, "importance")
        if set(held) != {IMPORTANCE, ANCHOR} or set(held[IMPORTANCE]) != set(held[ANCHOR]):
            raise UserError(f"{_KEY}.importance: {consolidate.importance} holds no importance of weights.")
        for path, shape in held[IMPORTANCE].items():
            known = params.get(path)
            if known is None or len(shape) != len(known.shape) or any(map(int.__gt__, shape, known.shape)):
                raise UserError(
                    f"{_KEY}.importance: {consolidate.importance} is of another model: {path} has the shape "
                    f"{list(shape)} there and {None if known is None else list(known.shape)} here."
                )
        same = {path: params[path] for path in held[IMPORTANCE]}
        found |= {IMPORTANCE: same, ANCHOR: same}
    if consolidate.orthogonal_to:
        for part, shapes in _shapes(consolidate.orthogonal_to, "orthogonal_to").items():
            found[part] = {}
            for path, shape in shapes.items():
                known = params.get(path)
                if not (part.startswith(EARLIER) and path.endswith(_DOWN)):
                    raise UserError(
                        f"{_KEY}.orthogonal_to: {consolidate.orthogonal_to} holds other things than updates."
                    )
                if known is None or shape[:-1] != known.shape[:-1]:
                    continue  # of a map that has no update now
                sharding = known.sharding
                found[part][path] = jax.ShapeDtypeStruct(shape, known.dtype, sharding=sharding)
    return found


def _shapes(value: str, name: str) -> dict[str, dict[str, tuple[int, ...]]]:
    path = files.expanded(value)
    if not path.is_file():
        raise UserError(f"{_KEY}.{name}: {path}: there is no such file.")
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    try:
        with safetensors.safe_open(path, "numpy") as file:
            for each in file.keys():  # noqa: SIM118  it has no iterator
                part, _, inside = each.partition(":")
                found.setdefault(part, {})[inside] = tuple(file.get_slice(each).get_shape())
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{_KEY}.{name}: {path} is no safetensors file ({error}).") from None
    return found


def notes(objective: Objective) -> tuple[str, ...]:
    """Returns lines for the log about what a session's objective is held to."""
    if not isinstance(objective, ConsolidatedObjective):
        return ()
    made, constants = [], objective.constants
    if IMPORTANCE in constants:
        count = sum(math.prod(shape.shape) for shape in constants[IMPORTANCE].values())
        weight = objective.consolidate.weight
        made.append(
            f"held to earlier weights by their importance: {count:,} parameters, weight {weight:g} "
            f"({8 * count / 2**20:,.0f} MiB over all devices)"
        )
    if earlier := [name for name in constants if name.startswith(EARLIER)]:
        weight = objective.consolidate.orthogonal_weight
        made.append(f"low-rank updates orthogonal to those of {len(earlier)} earlier stages, weight {weight:g}")
    return tuple(made)
