"""Parameters that are read when they are asked for index as numpy's arrays do, and read no more than asked."""

from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from jaxfm.core.initial import StoredArray
from jaxfm.families.tensors import Tensor
from jaxfm.hub import stored, tensor_files
from jaxfm.hub.stored import StoredParam, WithRows
from jaxfm.hub.tensor_files import StoredTensor, open_tensors

DRAW = np.random.default_rng(0)
LAYERS = [DRAW.normal(size=(12, 8)).astype(np.float32) for _ in range(5)]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredTensor]:
    directory = tmp_path_factory.mktemp("weights")
    table = {f"layer.{i}.weight": value for i, value in enumerate(LAYERS)}
    half = {"half": LAYERS[0].astype(np.float16), "brain": LAYERS[0].astype(ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(table | half, directory / "model.safetensors")
    return open_tensors(directory)


def param(tensors: dict[str, StoredTensor], layout: Tensor, shape: tuple[int, ...]) -> StoredParam:
    return StoredParam(tuple(tensors[name] for name in layout.names(len(LAYERS))), layout, shape)


LAYOUTS = {
    # name: layout, shape of ours, the same in numpy
    "stacked": (Tensor("layer.{}.weight"), (5, 12, 8), np.stack(LAYERS)),
    "transposed": (Tensor("layer.{}.weight", 1), (5, 8, 4, 3), np.stack([a.T.reshape(8, 4, 3) for a in LAYERS])),
    "part": (Tensor("layer.{}.weight", 1, 2, 3), (5, 8, 4), np.stack([a[8:].T for a in LAYERS])),
    "one": (Tensor("layer.0.weight"), (12, 8), LAYERS[0]),
    "one transposed": (Tensor("layer.0.weight", 1), (8, 12), LAYERS[0].T),
    "half": (Tensor("half"), (12, 8), LAYERS[0].astype(np.float16).astype(np.float32)),
    "brain": (Tensor("brain"), (12, 8), LAYERS[0].astype(ml_dtypes.bfloat16).astype(np.float32)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@hypothesis.given(data=st.data())
@hypothesis.settings(deadline=None, max_examples=30)
def test_any_part_is_that_of_numpy(name: str, tensors: dict[str, StoredTensor], data: st.DataObject) -> None:
    layout, shape, wanted = LAYOUTS[name]
    found = param(tensors, layout, shape)
    assert found.shape == wanted.shape and found.dtype == np.float32 and len(found) == len(wanted)
    assert isinstance(found, StoredArray)
    np.testing.assert_array_equal(np.asarray(found), wanted)

    def slices(size: int) -> Any:
        return st.slices(size).filter(lambda each: each.step in (None, 1)) | st.just(slice(None))

    index = data.draw(slices(len(wanted)) | st.integers(-len(wanted), len(wanted) - 1))
    others = tuple(data.draw(slices(size)) for size in wanted.shape[1 : data.draw(st.integers(1, wanted.ndim))])
    np.testing.assert_array_equal(found[(index, *others)], wanted[(index, *others)])
    np.testing.assert_array_equal(found[index], wanted[index])
    np.testing.assert_array_equal(found[[2, 0]], wanted[[2, 0]])  # anything else is of the whole


def test_only_the_rows_asked_for_are_read(tensors: dict[str, StoredTensor], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    fill = StoredTensor._fill

    def counted(self: StoredTensor, values: np.ndarray, start: int) -> None:
        read.append(values.size)
        fill(self, values, start)

    monkeypatch.setattr(StoredTensor, "_fill", counted)
    _ = param(tensors, *LAYOUTS["stacked"][:2])[1:3, :, :4]
    _ = param(tensors, *LAYOUTS["part"][:2])[4]
    _ = param(tensors, *LAYOUTS["one"][:2])[2:5]
    assert read == [96, 96, 4 * 8, 3 * 8]
    apart = {name: param(tensors, *LAYOUTS[name][:2]).rows_apart for name in LAYOUTS}
    assert [name for name in apart if not apart[name]] == ["one transposed"]


def test_half_precision_is_widened_in_chunks(tensors: dict[str, StoredTensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 26)  # neither a row nor a divisor of the tensor
    layout, shape, wanted = LAYOUTS["half"]
    np.testing.assert_array_equal(param(tensors, layout, shape)[1:11], wanted[1:11])


@pytest.mark.parametrize("base", ["file", "memory"])
def test_rows_added_and_rows_of_zeros(base: str, tensors: dict[str, StoredTensor]) -> None:
    own = param(tensors, *LAYOUTS["one"][:2]) if base == "file" else LAYERS[0]
    added = DRAW.normal(size=(3, 8)).astype(np.float32)
    found = WithRows(own, added, 20)
    wanted = np.concatenate([LAYERS[0], added, np.zeros((5, 8), np.float32)])
    assert found.shape == (20, 8) and isinstance(found, StoredArray) and found.rows_apart
    np.testing.assert_array_equal(np.asarray(found), wanted)
    for start in range(20):
        for stop in range(start, 21):
            np.testing.assert_array_equal(found[start:stop, 1:], wanted[start:stop, 1:])
    assert stored.WithRows(own, added[:0], 12)[11:].tolist() == LAYERS[0][11:].tolist()
