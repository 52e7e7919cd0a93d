"""Where devices of several slices and processes come to lie in a mesh, and which rows a process has to make."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Device:
    """What the arrangement looks at."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "stand-in"
    device_kind: str = "stand-in"


def devices(slices: int, each: int, processes: int = 1) -> list[Any]:
    count = slices * each
    return [Device(number, number // each, number * processes // count) for number in range(count)]


@pytest.mark.parametrize(
    ("shape", "slices", "crossing"),
    [
        ((8, 1, 1, 1), 2, (2, 1)),
        ((4, 2, 1, 1), 2, (2, 1)),
        ((4, 2, 2, 2), 4, (4, 1)),
        ((1, 8, 1, 1), 2, (1, 2)),  # where data cannot, fsdp crosses
        ((2, 8, 2, 1), 4, (2, 2)),  # data first
        ((6, 1, 1, 2), 3, (3, 1)),
        ((4, 2, 1, 1), 1, (1, 1)),
    ],
)
def test_only_data_and_then_fsdp_cross_slices(shape: tuple[int, ...], slices: int, crossing: tuple[int, int]) -> None:
    given = devices(slices, int(np.prod(shape)) // slices)
    grid = meshes.device_grid(shape, given[::-1] if slices > 1 else given)
    assert grid.shape == shape and {device.id for device in grid.flat} == set(range(len(given)))
    index = np.vectorize(lambda device: device.slice_index)(grid)
    data, fsdp = crossing
    # As many slices as an axis crosses, each a block of neighbours along it; the other axes stay inside of one.
    blocks = index.reshape(data, shape[0] // data, fsdp, shape[1] // fsdp, -1)
    assert (blocks == blocks[:, :1, :, :1, :1]).all()
    assert blocks[:, 0, :, 0, 0].reshape(-1).tolist() == list(range(slices))


@pytest.mark.parametrize(
    ("shape", "slices", "words"),
    [
        ((1, 1, 8, 1), 2, "data=1 and fsdp=1 cannot be laid over 2 slices"),
        ((3, 1, 1, 4), 2, "data=3 and fsdp=1 cannot be laid over 2 slices"),
        ((2, 3, 1, 2), 4, "data=2 and fsdp=3 cannot be laid over 4 slices"),
    ],
)
def test_a_mesh_that_slices_do_not_divide_is_refused(shape: tuple[int, ...], slices: int, words: str) -> None:
    with pytest.raises(UserError, match=f"config.parallel.mesh: {words}") as caught:
        meshes.device_grid(shape, devices(slices, int(np.prod(shape)) // slices))
    offered = [int(size) for size in re.findall(r"\d+", str(caught.value).rpartition("one of ")[2])]
    assert offered
    for size in offered:
        rest = int(np.prod(shape)) // size
        meshes.device_grid((size, 1, rest, 1), devices(slices, size * rest // slices))


def rows(shape: tuple[int, ...], processes: int, batch_size: int) -> list[list[int]]:
    grid = np.asarray(devices(1, int(np.prod(shape)), processes), dtype=object).reshape(shape)
    return [meshes.rows_of_process(grid, process, batch_size).tolist() for process in range(processes)]


def test_rows_of_processes() -> None:
    assert rows((4, 2, 1, 1), 4, 16) == [list(range(first, first + 4)) for first in (0, 4, 8, 12)]
    # The axes that do not cut rows reach over several processes: they make the same rows.
    assert rows((2, 1, 4, 1), 4, 4) == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert rows((1, 2, 1, 4), 2, 4) == [[0, 1], [2, 3]]
    assert rows((1, 1, 8, 1), 4, 2) == [[0, 1]] * 4
    # Two processes side by side, as 2 x 2 chips of a torus of 2 x 4: each has every other part of the rows.
    grid = np.asarray([Device(number, 0, number // 2 % 2) for number in range(8)], dtype=object).reshape(4, 2, 1, 1)
    assert meshes.rows_of_process(grid, 0, 8).tolist() == [0, 1, 4, 5]
    assert meshes.rows_of_process(grid, 1, 8).tolist() == [2, 3, 6, 7]


def test_shard_batch_takes_the_rows_of_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the devices belong to another process, every other pair of a mesh's rows."""
    mesh = meshes.make_mesh(MeshConfig(data=4))
    asked: dict[tuple[int, ...], list[Any]] = {}

    def make(shape: tuple[int, ...], sharding: Any, part: Any) -> Any:
        here = list(mesh.devices.flat)[1::2]
        asked[shape] = [part(index) for device, index in sharding.devices_indices_map(shape).items() if device in here]

    monkeypatch.setattr(jax, "make_array_from_callback", make)
    monkeypatch.setattr(meshes, "host_rows", lambda mesh, size: np.arange(size).reshape(4, -1)[1::2].reshape(-1))
    whole = np.arange(8 * 3, dtype=np.int32).reshape(8, 3)
    own = meshes.host_rows(mesh, 8)
    assert own.tolist() == [2, 3, 6, 7]
    meshes.shard_batch({"tokens": whole[own]}, {"tokens": ("tokens",)}, mesh)
    ((shape, parts),) = asked.items()
    assert shape == (8, 3)
    np.testing.assert_array_equal(np.stack(parts), [whole[2:4], whole[6:8]])
