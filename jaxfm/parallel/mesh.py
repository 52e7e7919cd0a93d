"""Device mesh, logical-axis rules and shardings. The only file that touches Flax's sharding metadata.

Parameters and activations have logical axes ("embed", "heads", "ffn", "batch", ...); RULES maps each of them to the
mesh axes that it is sharded over. The rows of a batch are sharded over "data" and "fsdp", their tokens over "sequence".
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxfm.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")
BATCH_AXES = ("data", "fsdp")

# Logical axis -> mesh axes it is sharded over (None: whole on every device).
RULES: dict[str, str | tuple[str, ...] | None] = {
    # of parameters
    "layers": None,
    "embed": "fsdp",
    "head_dim": None,
    "positions": None,
    "types": None,
    "norm": None,
    "classes": None,
    "rank": None,
    "bottleneck": None,
    "prefix": None,
    "patch": None,
    "channels": None,
    # of both
    "vocab": "tensor",
    "heads": "tensor",
    "ffn": "tensor",
    # of activations
    "batch": BATCH_AXES,
    "tokens": "sequence",
    "chunks": "sequence",
    "places": "sequence",
    "segments": None,
    "keys": None,  # every part of a row attends to the keys and values of the whole row
    "features": None,
    "compared": None,  # the rows of all devices, which each device compares its own with
}


class AxisSizes(Protocol):
    """Sizes of the mesh's axes (`jaxfm.config.MeshConfig`); one of them may be -1: all devices left over."""

    @property
    def data(self) -> int:
        """Copies of the model, each with its share of the batch."""
        ...

    @property
    def fsdp(self) -> int:
        """Parts into which each parameter is cut; the batch is cut too."""
        ...

    @property
    def tensor(self) -> int:
        """Parts into which heads, ffn and vocabulary are cut."""
        ...

    @property
    def sequence(self) -> int:
        """Parts into which rows are cut along their tokens."""
        ...


def make_mesh(config: AxisSizes, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh over all devices (or those given).

    Raises:
      UserError: the axes do not multiply to the number of devices, two of them are -1, or the slices divide neither
        data nor fsdp.
    """
    devices = jax.devices() if devices is None else devices
    grid = device_grid(mesh_shape(config, len(devices)), devices)
    # Since jax 0.10 axes are explicit by default; jaxfm leaves propagation to GSPMD.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def device_grid(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Arranges devices as an array of `shape` in which neighbours have fast links.

    Over several slices (groups of chips that have fast links only among themselves) the data axis spans the slices, or
    else fsdp: gradients cross the slow network, activations never do.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # An axis that matches no axis of the torus of chips may be laid over a part of one.
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    outer = _over_slices(shape, slices)
    inner = [size // across for size, across in zip(shape, outer, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)


def mesh_shape(config: AxisSizes, devices: int) -> tuple[int, ...]:
    """Returns the sizes of AXES over `devices` devices, with -1 replaced. Raises UserError where none fit."""
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


def _over_slices(shape: Sequence[int], slices: int) -> tuple[int, ...]:
    """Returns for each axis the number of slices that it spans."""
    data, fsdp, *_ = shape
    across = math.gcd(data, slices)
    if fsdp % (slices // across):
        fitting = [size for size in range(slices, math.prod(shape) + 1, slices) if math.prod(shape) % size == 0]
        raise UserError(
            f"config.parallel.mesh: data={data} and fsdp={fsdp} cannot be laid over {slices} slices, and no other axis "
            f"may reach over several. Make data (or fsdp) one of {fitting}."
        )
    return across, slices // across, 1, 1


def _nearest_shapes(sizes: Sequence[int], devices: int) -> list[str]:
    """Returns up to three meshes of `devices` devices that are nearest to `sizes`, where -1 matches any size."""

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
    """Returns the number of shards of the batch axis."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_shardings(axes: Mapping[str, tuple[str, ...]], mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of each field of a batch: over its rows, and over the named axes of a row."""
    return {name: NamedSharding(mesh, spec("batch", *more)) for name, more in axes.items()}


def host_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns which rows of a batch of `batch_size` this process's devices hold, ascending."""
    return rows_of_process(mesh.devices, jax.process_index(), batch_size)


def rows_of_process(devices: np.ndarray, process: int, batch_size: int) -> np.ndarray:
    """Returns which rows the devices of one process hold; `devices` is the array of a mesh (axes AXES).

    Processes share rows where a tensor or sequence axis spans several of them. The rows of a process need not be
    contiguous, as the mesh follows the links between chips.
    """
    here = np.vectorize(lambda device: device.process_index == process, otypes=[bool])(devices)
    parts = np.flatnonzero(here.reshape(-1, *here.shape[len(BATCH_AXES) :]).any(axis=(1, 2)))
    shards = math.prod(here.shape[: len(BATCH_AXES)])
    assert batch_size % shards == 0, "see check_batch_size"
    return np.arange(batch_size).reshape(shards, -1)[parts].reshape(-1)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(key: str, batch_size: int, mesh: Mesh, *, accumulate: int = 1) -> None:
    """Raises UserError when `batch_size` rows cannot be cut evenly over micro-batches and devices."""
    unit = batch_shards(mesh) * accumulate
    if batch_size % unit:
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        over = f"{batch_shards(mesh)} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise UserError(f"{key}: {batch_size} rows cannot be divided over {over}. Nearest that can: {nearest}.")


def check_row_length(key: str, length: int, mesh: Mesh) -> None:
    """Raises UserError when rows of `length` tokens cannot be cut evenly along the sequence axis."""
    parts = mesh.shape["sequence"]
    if length % parts:
        below, above = length // parts * parts, -(-length // parts) * parts
        raise UserError(
            f"{key}: rows of {length} tokens cannot be cut into {parts} equal parts (config.parallel.mesh.sequence). "
            f"Nearest that can: {f'{below} or {above}' if below else above} tokens."
        )


def shard_batch(
    batch: Mapping[str, np.ndarray], axes: Mapping[str, tuple[str, ...]], mesh: Mesh
) -> dict[str, jax.Array]:
    """Puts this host's rows, as `host_rows` names them, on its devices as parts of the global batch.

    Args:
      batch: arrays [rows, ...].
      axes: the names of the axes of a row that may be cut, for each field (`core.batch.axes_of`).
      mesh: of the run.
    """
    shards = batch_shards(mesh)
    parts = host_rows(mesh, shards)
    each = len(next(iter(batch.values()))) // len(parts)
    first_here = dict(zip((parts * each).tolist(), range(0, len(parts) * each, each), strict=True))

    def put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None, "a part of the batch"
            first = first_here[index[0].start or 0]
            return value[(slice(first, first + each), *index[1:])]

        return jax.make_array_from_callback((shards * each, *value.shape[1:]), sharding, part)

    shardings = batch_shardings(axes, mesh)
    return {name: put(value, shardings[name]) for name, value in batch.items()}


def spec(*axes: str) -> PartitionSpec:
    """Returns the PartitionSpec of an array with these logical axes by RULES."""
    return PartitionSpec(*(RULES[axis] for axis in axes))


def constrain(x: jax.Array, *axes: str) -> jax.Array:
    """Constrains the sharding of an activation and its gradient, by one logical axis a dimension.

    Does nothing without a mesh (`jax.set_mesh`) or on a mesh of one device. A dimension that its mesh axes do not
    divide stays whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    assert x.ndim == len(axes), f"{x.ndim} dimensions, but axes {axes}"
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, drop_indivisible_axes(x.shape, spec(*axes), mesh))


def constrain_like(tree: Any, like: Any) -> Any:
    """Constrains arrays, and so their gradients, to the shardings of the abstract arrays `like`.

    Without the constraint a gradient may be whole on every device.
    """
    return jax.lax.with_sharding_constraint(tree, jax.tree.map(lambda leaf: leaf.sharding, like))


def with_axes(init: Callable[..., Any], *axes: str) -> Callable[..., Any]:
    """Wraps a parameter initialiser so that the parameter carries its logical axes."""
    unknown = [axis for axis in axes if axis not in RULES]
    assert not unknown, f"logical axes without a rule: {unknown}"
    return nnx.with_partitioning(init, axes)


def stack_metadata() -> dict[str, str]:
    """Returns `transform_metadata` of nnx.vmap for parameters stacked over layers."""
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
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, drop_indivisible_axes(leaf.shape, sharding.spec, mesh))
        ),
        shapes,
        shardings,
    )
    return graphdef, abstract


def initialise(make: Callable[[], nnx.Module]) -> dict[str, Any]:
    """Builds the model and returns its parameters as nested plain dicts; to be called inside jax.jit."""
    with nnx.use_eager_sharding(False):
        return nnx.to_pure_dict(nnx.split(make(), nnx.Param)[1])


def drop_indivisible_axes(shape: Sequence[int], axes: PartitionSpec, mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Returns `axes` without mesh axes that do not divide their dimension (3 heads over 2 devices)."""

    def parts(entry: Any) -> int:
        return math.prod(mesh.shape[axis] for axis in ((entry,) if isinstance(entry, str) else entry or ()))

    entries = tuple(axes) + (None,) * (len(shape) - len(axes))
    return PartitionSpec(*(e if size % parts(e) == 0 else None for size, e in zip(shape, entries, strict=True)))
