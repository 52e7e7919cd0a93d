"""What is written is what safetensors and transformers write: bytes of a file, shards and their index."""

import json
import pathlib
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy

from jaxfm.errors import UserError
from jaxfm.hub.tensor_files import open_tensors
from jaxfm.hub.tensor_writing import SHARD_SIZE, parse_size, split, write_f32

DRAW = np.random.default_rng(0)
TENSORS = {
    "b": DRAW.normal(size=(6, 4)).astype(np.float32),
    "a.ü": DRAW.normal(size=5).astype(np.float32),
    "big": DRAW.normal(size=(40, 3)).astype(np.float32),
    "one": np.asarray(2.5, np.float32),
    "none": np.zeros((0, 3), np.float32),
}


def write(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "model.safetensors"
    shapes = {name: value.shape for name, value in TENSORS.items()}
    write_f32(path, shapes, lambda name: [TENSORS[name]] if name != "b" else [TENSORS[name][:2], TENSORS[name][2:]])
    return path


def test_the_bytes_are_those_of_safetensors(tmp_path: pathlib.Path) -> None:
    assert write(tmp_path).read_bytes() == safetensors.numpy.save(TENSORS, metadata={"format": "pt"})


def test_a_part_that_is_missing_leaves_no_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AssertionError, match=r"x: 3 scalars for the shape \(2, 2\)"):
        write_f32(tmp_path / "x.safetensors", {"x": (2, 2)}, lambda _: [np.zeros(3, np.float32)])
    assert not list(tmp_path.iterdir())


def test_shards_are_those_of_transformers(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    from huggingface_hub import split_torch_state_dict_into_shards

    write(tmp_path)
    state = {name: torch.from_numpy(TENSORS[name].copy()) for name in sorted(TENSORS) if TENSORS[name].size}
    theirs = split_torch_state_dict_into_shards(state, max_shard_size=130, filename_pattern="model{suffix}.safetensors")
    split(tmp_path, 130)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == theirs.metadata and len(set(index["weight_map"].values())) == 2
    found = {name: file for name, file in index["weight_map"].items() if name != "none"}
    assert found == theirs.tensor_to_filename
    assert {path.name for path in tmp_path.iterdir()} == {*theirs.filename_to_tensors, "model.safetensors.index.json"}


def test_shards_hold_all_of_it(tmp_path: pathlib.Path) -> None:
    write(tmp_path)
    split(tmp_path, 130)
    tensors = open_tensors(tmp_path)
    assert set(tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(tensors[name].read(0, value.size).reshape(value.shape), value)
    for path in tmp_path.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="numpy") as file:
            assert file.metadata() == {"format": "pt"}
            sizes = [file.get_tensor(name).nbytes for name in file.keys()]  # noqa: SIM118
        assert sum(sizes) <= 130 or len([size for size in sizes if size]) == 1


def test_what_fits_stays_one_file(tmp_path: pathlib.Path) -> None:
    before = write(tmp_path).read_bytes()
    split(tmp_path, sum(value.nbytes for value in TENSORS.values()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_no_second_copy_is_in_memory(tmp_path: pathlib.Path) -> None:
    rows = np.ones((1000, 1000), np.float32)
    shapes = {f"t{i}": (1000, 1000) for i in range(10)}
    tracemalloc.start()
    try:
        write_f32(
            tmp_path / "model.safetensors",
            shapes,
            lambda _: (rows[first : first + 100].T for first in range(0, 1000, 100)),
        )
        split(tmp_path, 10**7)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(list(tmp_path.iterdir())) == 6 and peak < 12 * 2**20  # of 40 MB: a chunk of 8 MiB, and what is read next


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), (SHARD_SIZE, 50 * 10**9)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size("--shard_size", text) == size


@pytest.mark.parametrize("text", ["", "5", "5GiB", "GB", "-1GB", "0KB", "nanGB", "infGB", "5 000MB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UserError, match=f"^--shard_size={text}: must be "):
        parse_size("--shard_size", text)
