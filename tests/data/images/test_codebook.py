"""Codes of patches: grey levels, k-means in whole numbers, the file."""

import pathlib

import numpy as np
import pytest

from jaxfm.data.images import codebook as codebooks
from jaxfm.data.images.codebook import Codebook, grey_levels, learn_codebook, read_codebook, sample_patches
from jaxfm.errors import UserError


def patches(seed: int, count: int, values: int = 4) -> np.ndarray:
    """Three clouds about 40, 120 and 220."""
    draw = np.random.default_rng(seed)
    middles = np.asarray([40, 120, 220])[draw.integers(0, 3, count)]
    return np.clip(middles[:, None] + draw.normal(0, 5, (count, values)), 0, 255).astype(np.uint8)


def test_codes_are_the_nearest_entries() -> None:
    given, book = patches(0, 300), Codebook(np.random.default_rng(1).integers(0, 256, (7, 4)).astype(np.uint8))
    apart = np.square(given[:, None].astype(int) - book.entries.astype(int)).sum(axis=-1)
    np.testing.assert_array_equal(book.encode(given), apart.argmin(axis=1))
    assert book.error(given) == pytest.approx(np.sqrt(apart.min(axis=1).sum() / given.size))
    np.testing.assert_array_equal(book.decode(np.asarray([[3, 0]])), book.entries[[[3, 0]]])
    tied = Codebook(np.asarray([[10], [20]], np.uint8))
    assert tied.encode(np.asarray([[15]], np.uint8)).tolist() == [0]  # of equally near ones the first


def test_grey_levels_are_evenly_spread() -> None:
    levels = grey_levels(17)
    assert levels.entries[:, 0].tolist() == [round(number * 255 / 16) for number in range(17)]
    assert grey_levels(256).error(np.arange(256, dtype=np.uint8)[:, None]) == 0


def test_k_means_finds_clouds_and_ends_where_nothing_moves() -> None:
    given = patches(0, 500)
    book = learn_codebook(given, 3, seed=0)
    assert np.abs(np.sort(book.entries.mean(axis=1)) - [40, 120, 220]).max() < 2
    codes = book.encode(given)
    for number, entry in enumerate(book.entries):  # Lloyd's fixed point: each entry is the rounded mean of its patches
        np.testing.assert_array_equal(entry, np.rint(given[codes == number].mean(axis=0)))
    np.testing.assert_array_equal(book.entries, learn_codebook(given, 3, seed=0).entries)
    errors = [learn_codebook(given, count, seed=0).error(given) for count in (2, 3, 16, 64)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[1]


def test_few_different_patches_are_all_entries() -> None:
    given = np.repeat(np.asarray([[1, 2], [3, 4], [5, 6]], np.uint8), 4, axis=0)
    book = learn_codebook(given, 8, seed=0)
    np.testing.assert_array_equal(book.entries, [[1, 2], [3, 4], [5, 6]])
    assert book.error(given) == 0
    assert len(sample_patches(given, 5, 0)) == 5 and sample_patches(given, 50, 0) is given


def test_an_entry_without_patches_becomes_the_worst_one() -> None:
    given = np.asarray([[0], [0], [100], [9]], np.uint8)
    nearest, squares = np.zeros(4, np.int32), np.asarray([0, 0, 10_000, 81])
    moved = codebooks._middles(given, nearest, squares, np.asarray([[0], [200]], np.uint8))
    assert moved.tolist() == [[27], [100]]


def test_the_file_is_read_back_and_checked(tmp_path: pathlib.Path) -> None:
    book = learn_codebook(patches(0, 100), 5, seed=0)
    with pytest.raises(UserError, match=r"codebook\.safetensors: cannot be read"):
        read_codebook(tmp_path, 5, 4)
    book.write(tmp_path)
    np.testing.assert_array_equal(read_codebook(tmp_path, 5, 4).entries, book.entries)
    with pytest.raises(UserError, match="5 codes of 3 bytes"):
        read_codebook(tmp_path, 5, 3)
    path = tmp_path / codebooks.FILE
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read"):
        read_codebook(tmp_path, 5, 4)
