"""Headers of safetensors files: what is said of files that are damaged, altered or of types not read here."""

import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxfm.errors import UserError
from jaxfm.hub import tensor_files
from jaxfm.hub.tensor_files import check_finite, check_floating, equal, open_tensors

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)


def write(path: pathlib.Path, header: Any, data: bytes, length: int | None = None) -> pathlib.Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(start: int, stop: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def message(directory: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        open_tensors(directory)
    return str(caught.value)


def test_names_types_shapes_and_numbers(tmp_path: pathlib.Path) -> None:
    half = VALUES.astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file(
        {"a": VALUES, "b": half, "c": np.asarray(3), "none": VALUES[:0]}, tmp_path / "model.safetensors"
    )
    tensors = open_tensors(tmp_path)
    assert {name: (str(t.dtype), t.shape, t.size) for name, t in tensors.items()} == {
        "a": ("float32", (6, 4), 24),
        "b": ("bfloat16", (6, 4), 24),
        "c": ("int64", (), 1),
        "none": ("float32", (0, 4), 0),
    }
    np.testing.assert_array_equal(tensors["b"].rows_f32(2, 5), VALUES[2:5])
    np.testing.assert_array_equal(tensors["a"].rows_f32(0, 6), VALUES)
    assert tensors["c"].read(0, 1).tolist() == [3] and tensors["none"].rows_f32(0, 0).shape == (0, 4)


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": entry(0, 8)}, bytes(8), 2**60),  # a header longer than any file
        ({"a": entry(0, 8)}, bytes(8), 400),  # longer than this one
        ({"a": entry(0, 8)}, bytes(7), None),  # a byte is missing
        ({"a": entry(0, 8)}, bytes(9), None),  # a byte too many
        ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12), None),  # they overlap
        ({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20), None),  # a gap
        ({"a": entry(8, 0)}, bytes(8), None),
        ({"a": entry(0, 8, shape=(3,))}, bytes(8), None),
        ({"a": entry(0, 8, shape=(2**62, 2**62))}, bytes(8), None),
        ({"a": entry(0, 8, dtype="F31")}, bytes(8), None),
        ({"a": {"dtype": "F32"}}, bytes(8), None),
        (b"{", b"", None),
        (b"\xff\xfe", b"", None),
        (b"[" * 100_000, b"", None),
    ],
)
def test_damage(header: Any, data: bytes, length: int | None, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "model.safetensors", header, data, length)
    text = message(tmp_path)
    assert text.startswith(f"{path}: is not a whole safetensors file (") and text.endswith("). Fetch it again.")
    assert "\n" not in text


def test_types_that_numpy_lacks(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "model.safetensors", {"a": entry(0, 2, "F8_E4M3")}, bytes(2))
    assert message(tmp_path) == f"{path}: 'a' holds a type of numbers that is not read here (F8_E4M3)."


@pytest.mark.parametrize("change", ["replaced", "written", "cut", "gone"])
def test_a_file_that_changes_after_its_header_was_read(change: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": VALUES}, path)
    tensor = open_tensors(tmp_path)["a"]
    content = path.read_bytes()
    if change == "replaced":
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").replace(path)
    elif change == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-4] + (b"" if change == "cut" else bytes(4)))
    with pytest.raises(UserError, match="cannot be read" if change == "gone" else "was changed or replaced after"):
        tensor.read(0, 24)


def test_chunks_and_equality(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = VALUES.copy()
    other[5, 3] += 1
    table = {"a": VALUES, "b": VALUES.copy(), "c": other, "d": VALUES.reshape(4, 6), "e": VALUES.astype(np.float16)}
    safetensors.numpy.save_file(table, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path)
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 40)
    assert [len(chunk) for chunk in tensors["a"].chunks()] == [10, 10, 4]
    np.testing.assert_array_equal(np.concatenate(list(tensors["a"].chunks())), VALUES.reshape(-1))
    assert [equal(tensors["a"], tensors[name]) for name in "bcde"] == [True, False, False, True]


def test_numbers_that_are_not_finite_are_counted_over_all_parts() -> None:
    fine, wrong = np.full(5, 3e38, np.float32), np.asarray([1, np.nan, np.inf, -np.inf], np.float32)
    check_finite("x", [fine, fine], "DIR")
    with pytest.raises(UserError, match=r"DIR: 4 of the 13 numbers of 'x' are NaN or infinite"):
        check_finite("x", [wrong, fine, wrong[1:2], fine[:3]], "DIR")
    with pytest.raises(UserError, match=r"1 of the 2 numbers"):
        check_finite("x", [np.asarray([1e300, 1.0])], "DIR")  # finite in f64 alone
    with pytest.raises(UserError, match=r"DIR: 'x' holds int8 numbers"):
        check_floating("x", np.dtype(np.int8), "DIR")
