"""Device mesh, logical-axis rules and shardings. The one file that touches Flax's sharding metadata.

Parameters name their axes in the model's own words ("embed", "heads", "ffn", "vocab", ...); RULES says which mesh axis
each of them is cut along. Batches are cut over "data" and "fsdp" alike.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfm.config import MeshConfig
from jaxfm.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")

# Logical axis of a parameter -> mesh axis it is cut along (None: whole on every device).
RULES: dict[str, str | None] = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "head_dim": None,
    "ffn": "tensor",
    "positions": None,
    "types": None,
    "norm": None,
    "classes": None,
}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over all devices (or those given).

    Raises:
      UserError: the axes do not multiply to the number of devices, or two of them are -1.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    # Since jax 0.10 axes are explicit unless said otherwise; jaxfm leaves propagation to GSPMD.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Returns the sizes of AXES over so many devices, the one that is -1 filled in; UserError where there are none."""
    sizes = [config.data, config.fsdp, config.tensor, config.sequence]
    asked = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1:
        raise UserError(f"config.parallel.mesh: {asked}: only one axis may be -1 (what is left over).")
    shape = sizes
    if -1 in sizes and min(size for size in sizes if size != -1) > 0:
        left = devices // math.prod(size for size in sizes if size != -1)
        shape = [left if size == -1 else size for size in sizes]
    if min(shape) < 1 or math.prod(shape) != devices:
        raise UserError(
            f"config.parallel.mesh: {asked} does not multiply to the number of devices, {devices}. Nearest that do: "
            f"{'; '.join(_nearest_shapes(sizes, devices))}."
        )
    return tuple(shape)


def _nearest_shapes(sizes: Sequence[int], devices: int) -> list[str]:
    """Returns up to three meshes of so many devices that are least far from `sizes`; what is -1 may be anything."""

    def shapes(count: int, axes: int) -> Iterator[tuple[int, ...]]:
        if axes == 1:
            yield (count,)
            return
        for size in (size for size in range(1, count + 1) if count % size == 0):
            yield from ((size, *rest) for rest in shapes(count // size, axes - 1))

    def distance(shape: tuple[int, ...]) -> float:
        pairs = zip(shape, sizes, strict=True)
        return sum(abs(math.log(size / max(asked, 1))) for size, asked in pairs if asked != -1)

    nearest = sorted(shapes(devices, len(AXES)), key=lambda shape: (round(distance(shape), 9), shape))[:3]
    return [" ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True)) for shape in nearest]


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts the batch axis is cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(key: str, batch_size: int, mesh: Mesh, *, accumulate: int = 1) -> None:
    """Raises UserError when `batch_size` rows cannot be cut evenly over micro-batches and devices."""
    unit = batch_shards(mesh) * accumulate
    if batch_size % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        over = f"{batch_shards(mesh)} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise UserError(f"{key}: {batch_size} rows cannot be divided over {over}. Nearest that can: {nearest}.")


def place_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this host's rows on its devices as parts of the global batch."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def with_axes(init: Callable[..., Any], *axes: str) -> Callable[..., Any]:
    """Wraps a parameter initialiser so that the parameter carries its logical axes."""
    unknown = [axis for axis in axes if axis not in RULES]
    assert not unknown, f"logical axes without a rule: {unknown}"
    return nnx.with_partitioning(init, axes)


def stack_metadata() -> dict[str, str]:
    """`transform_metadata` of nnx.vmap for parameters stacked over layers."""
    return {nnx.PARTITION_NAME: "layers"}


def build_abstract(make: Callable[[], nnx.Module], mesh: Mesh) -> tuple[nnx.GraphDef[Any], dict[str, Any]]:
    """Returns a model's graph definition and its parameters as shapes with shardings; no array is made.

    The parameters are nested plain dicts of jax.ShapeDtypeStruct with a NamedSharding each.
    """
    with jax.set_mesh(mesh), nnx.logical_axis_rules(tuple(RULES.items())):
        graphdef, state = nnx.split(nnx.eval_shape(make), nnx.Param)
        shardings = nnx.to_pure_dict(nnx.get_named_sharding(state, mesh))
    shapes = nnx.to_pure_dict(state)
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=_fitting(shape, sharding)),
        shapes,
        shardings,
    )
    return graphdef, abstract


def initialise(make: Callable[[], nnx.Module]) -> dict[str, Any]:
    """Builds the model and returns its parameters as nested plain dicts; to be called inside jax.jit."""
    with nnx.use_eager_sharding(False):
        return nnx.to_pure_dict(nnx.split(make(), nnx.Param)[1])


def _fitting(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> NamedSharding:
    """Drops mesh axes that do not divide their dimension (a vocabulary of 30,522 over 4 devices): kept whole there."""
    mesh = sharding.mesh
    spec = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for size, axis in zip(shape.shape, tuple(sharding.spec) + (None,) * len(shape.shape), strict=False)
    ]
    return NamedSharding(mesh, PartitionSpec(*spec))
