"""Arrays in files reach the devices bit for bit, and never more than a block of them is on the host."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxfm.config import MeshConfig
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training import loading

VALUES = np.random.default_rng(0).normal(size=(37, 4, 2)).astype(np.float32)  # 37: the last block overlaps
VALUES[3] = -0.0
VALUES[5] = 1e-40  # a denormal


@dataclasses.dataclass
class Recorded:
    """VALUES as a file would give them; remembers how many scalars each read returned."""

    rows_apart: bool = True
    reads: list[int] = dataclasses.field(default_factory=list)
    shape: tuple[int, ...] = VALUES.shape
    dtype: np.dtype[Any] = VALUES.dtype

    def __len__(self) -> int:
        return len(VALUES)

    def __getitem__(self, index: Any) -> np.ndarray:
        found = VALUES[index]
        self.reads.append(found.size)
        return found.copy()

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> np.ndarray:
        return self[:]


def put(value: Any, sizes: tuple[int, int, int], *axes: Any) -> jax.Array:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: np.prod(sizes)])
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    array = loading.put(value, jax.ShapeDtypeStruct(VALUES.shape, np.float32, sharding=sharding))
    assert array.sharding == sharding
    np.testing.assert_array_equal(np.asarray(array).view(np.uint32), VALUES.view(np.uint32))
    return array


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of five rows."""
    monkeypatch.setattr(loading, "_BLOCK_BYTES", 5 * VALUES[0].nbytes)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (4, 1, 1), (2, 2, 1), (1, 2, 2)])
def test_a_block_at_a_time(sizes: tuple[int, int, int]) -> None:
    value = Recorded()
    put(value, sizes, None, "fsdp", "tensor")
    assert set(value.reads) == {5 * 8} and len(value.reads) == 8


def test_each_part_is_read_once_where_the_first_axis_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_in_blocks", None)
    value = Recorded()
    mesh = make_mesh(MeshConfig(2, 1, 2), jax.devices()[:4])
    part = NamedSharding(mesh, PartitionSpec("tensor"))
    array = loading._part(VALUES[:36], jax.ShapeDtypeStruct((36, 4, 2), np.float32, sharding=part))
    np.testing.assert_array_equal(array, VALUES[:36])
    value.shape = (36, 4, 2)
    monkeypatch.setattr(Recorded, "__len__", lambda self: 36)
    loading.put(value, jax.ShapeDtypeStruct((36, 4, 2), np.float32, sharding=part))
    assert value.reads == [18 * 8, 18 * 8]  # two parts, each on two devices


def test_rows_that_cannot_be_read_apart_are_read_at_once() -> None:
    value = Recorded(rows_apart=False)
    put(value, (1, 2, 2), None, "fsdp", "tensor")
    assert value.reads == [VALUES.size]


def test_an_array_in_memory() -> None:
    put(VALUES, (1, 2, 2), None, "fsdp", "tensor")


def test_a_small_one_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_BLOCK_BYTES", VALUES.nbytes)
    value = Recorded()
    put(value, (2, 2, 1), None, "fsdp")
    assert value.reads == [VALUES.size]
