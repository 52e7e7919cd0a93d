"""Vectors in files: the numbers of sentence-transformers, whole or not at all, any number of them."""

import itertools
import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.formats.vector_files import check_output, ranges_file, to_binary, to_int8, write_vectors

VECTORS = np.random.default_rng(3).standard_normal((13, 16)).astype(np.float32)
VECTORS[:, 5] = 0.25  # a number that never changes
SIZES = (1, 4, 8)


def portions():
    at = 0
    for size in SIZES:
        fields = [{"id": f"n{number}", "text": f"text {number}"} for number in range(at, at + size)]
        yield VECTORS[at : at + size], fields
        at += size


@pytest.mark.parametrize("form", ["int8", "binary"])
def test_the_numbers_are_those_of_sentence_transformers(form):
    oracle = pytest.importorskip("sentence_transformers.util", reason="the oracle needs torch")
    ranges = np.stack([VECTORS.min(axis=0), VECTORS.max(axis=0)])
    theirs = oracle.quantize_embeddings(VECTORS, precision=form)
    ours = to_int8(VECTORS, ranges) if form == "int8" else to_binary(VECTORS)
    assert ours.dtype == theirs.dtype == np.int8
    np.testing.assert_array_equal(ours, theirs)


def test_int8_keeps_the_value_to_a_step_and_bits_the_sign():
    ranges = np.stack([VECTORS.min(axis=0), VECTORS.max(axis=0)])
    steps = (ranges[1] - ranges[0]) / 255
    back = ranges[0] + (to_int8(VECTORS, ranges).astype(np.float32) + 128) * steps
    assert np.all(np.abs(back - VECTORS) <= steps * 1.001 + 1e-6)
    bits = np.unpackbits((to_binary(VECTORS).astype(np.int16) + 128).astype(np.uint8), axis=-1)
    np.testing.assert_array_equal(bits, VECTORS > 0)


@pytest.mark.parametrize(("form", "width"), [("float32", 16), ("int8", 16), ("binary", 2)])
def test_npy_and_parquet_hold_the_same(tmp_path, form, width):
    pq = pytest.importorskip("pyarrow.parquet")
    for ending in ("npy", "parquet"):
        assert write_vectors(tmp_path / f"v.{ending}", portions(), 16, form) == 13
    found = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert found.shape == (13, width) and found.dtype == (np.float32 if form == "float32" else np.int8)
    expected = {"float32": VECTORS, "binary": to_binary(VECTORS)}.get(form)
    if expected is None:
        ranges = np.load(ranges_file(tmp_path / "v.npy"))
        np.testing.assert_array_equal(ranges, [VECTORS.min(axis=0), VECTORS.max(axis=0)])
        expected = to_int8(VECTORS, ranges)
    np.testing.assert_array_equal(found, expected)
    table = pq.read_table(tmp_path / "v.parquet")
    np.testing.assert_array_equal(np.asarray(table["vector"].to_pylist()), expected)
    assert table["id"].to_pylist()[12] == "n12" and table["text"].to_pylist()[0] == "text 0"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"v.npy", "v.parquet"} | (
        {f"v.{ending}.ranges.npy" for ending in ("npy", "parquet")} if form == "int8" else set()
    )


def test_no_vectors_is_an_empty_array(tmp_path):
    assert write_vectors(tmp_path / "v.npy", iter(()), 8, "int8") == 0
    assert np.load(tmp_path / "v.npy").shape == (0, 8)


def test_the_header_has_room_for_any_number(tmp_path):
    """A million vectors of one number, in portions: the header is written again once their number is known."""
    many = itertools.repeat((np.ones((10_000, 1), np.float32), [{}] * 10_000), 100)
    assert write_vectors(tmp_path / "v.npy", many, 1, "float32") == 1_000_000
    assert np.load(tmp_path / "v.npy").sum() == 1_000_000


@pytest.mark.parametrize("form", ["float32", "int8"])
def test_whole_or_not_at_all(tmp_path, form):
    (tmp_path / "v.npy").write_text("before")

    def broken():
        yield next(portions())
        raise UserError("in.txt:2: no text")

    with pytest.raises(UserError, match="in.txt:2"):
        write_vectors(tmp_path / "v.npy", broken(), 16, form)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"] and (tmp_path / "v.npy").read_text() == "before"


def test_what_cannot_be_written():
    with pytest.raises(UserError, match="needs a multiple of 8 numbers a vector, but there are 12: take int8"):
        check_output(pathlib.Path("v.npy"), "binary", 12)
