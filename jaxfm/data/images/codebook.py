"""A patch of an image as one of few codes: grey levels of a pixel, or the nearest entry of a table that k-means learns.

All of it is in whole numbers, so that the same images give the same codes on every machine.
"""

# N patches, K codes, V values of a patch

import dataclasses
import pathlib

import numpy as np
import safetensors
import safetensors.numpy

from jaxfm import files
from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError

FILE = "codebook.safetensors"
LEVELS, KMEANS = "levels", "kmeans"
KINDS = (KMEANS, LEVELS)
_ROUNDS = 50
_CHUNK = 4096  # patches whose distances to all entries are in memory at once
_NAME = "entries"


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook:
    """What each code looks like.

    Attributes:
      entries: uint8 [K, V], all different.
    """

    entries: np.ndarray

    def __len__(self) -> int:
        return len(self.entries)

    def encode(self, patches: np.ndarray) -> np.ndarray:
        """Returns the nearest code of each patch uint8 [N, V], int32 [N]; of equally near ones the first."""
        return _nearest(patches, self.entries)[0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Returns patches uint8 [..., V] of codes [...]."""
        return self.entries[codes]

    def error(self, patches: np.ndarray) -> float:
        """Returns the root of the mean squared difference of the values of patches and of their codes, 0 to 255."""
        _, squares = _nearest(patches, self.entries)
        return float(np.sqrt(squares.sum() / max(patches.size, 1)))

    def write(self, folder: pathlib.Path) -> None:
        """Writes the file FILE."""
        with files.atomic_write(folder / FILE, binary=True) as file:
            file.write(safetensors.numpy.save({_NAME: np.ascontiguousarray(self.entries)}))


def read_codebook(folder: pathlib.Path, codes: int, values: int) -> Codebook:
    """Reads the file FILE of a folder.

    Raises UserError where it is absent, damaged or of another shape than `codes` entries of `values` numbers.
    """
    path = folder / FILE
    try:
        entries = safetensors.numpy.load(path.read_bytes())[_NAME]
    except (OSError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). Take it from a backup of the run, or train again."
        ) from None
    if entries.shape != (codes, values) or entries.dtype != np.uint8:
        raise UserError(
            f"{path}: has {entries.dtype} of the shape {entries.shape}, but task.json says {codes} codes of {values} "
            "bytes. Take it from a backup of the run, or train again."
        )
    return Codebook(entries)


def grey_levels(count: int) -> Codebook:
    """Returns `count` (2 to 256) levels of a grey pixel at equal distances from 0 to 255."""
    return Codebook(np.rint(np.arange(count) * (255 / (count - 1))).astype(np.uint8)[:, None])


def learn_codebook(patches: np.ndarray, codes: int, seed: int) -> Codebook:
    """Returns the entries that k-means finds, at most `codes`: all patches where there are no more different ones.

    It starts from patches drawn by their squared distance to those drawn before (Arthur and Vassilvitskii 2007,
    k-means++). Middles are rounded to whole numbers after each round, and rounds end when nothing changes.

    Args:
      patches: uint8 [N, V].
      codes: K.
      seed: of what is drawn.
    """
    different = np.unique(patches, axis=0)
    if len(different) <= codes:
        return Codebook(different)
    entries = _spread(patches, codes, seed)
    for _ in range(_ROUNDS):
        nearest, squares = _nearest(patches, entries)
        moved = _middles(patches, nearest, squares, entries)
        if np.array_equal(moved, entries):
            break
        entries = moved
    return Codebook(np.unique(entries, axis=0))


def sample_patches(patches: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Returns at most `most` of the patches [N, V], chosen by the seed."""
    if len(patches) <= most:
        return patches
    return patches[np.sort(shuffled(len(patches), seed)[:most])]


def _nearest(patches: np.ndarray, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest entry of each patch int32 [N], and the squared distance int64 [N].

    Sums of whole numbers below 2^53 are exact in f64, in whatever order they are added.
    """
    table_KV = entries.astype(np.float64)
    length_K = (table_KV**2).sum(axis=1)
    codes, squares = np.zeros(len(patches), np.int32), np.zeros(len(patches), np.int64)
    for first in range(0, len(patches), _CHUNK):
        part_nV = patches[first : first + _CHUNK].astype(np.float64)
        apart_nK = length_K - 2 * part_nV @ table_KV.T
        nearest_n = apart_nK.argmin(axis=1)
        found_n = apart_nK[np.arange(len(part_nV)), nearest_n] + (part_nV**2).sum(axis=1)
        codes[first : first + _CHUNK], squares[first : first + _CHUNK] = nearest_n, found_n
    return codes, squares


def _spread(patches: np.ndarray, codes: int, seed: int) -> np.ndarray:
    """Returns patches drawn one after the other, each with a probability by its squared distance to the nearest."""
    draws = np.random.PCG64(np.random.SeedSequence((seed, codes))).random_raw(codes)
    chosen = [int(draws[0] % np.uint64(len(patches)))]
    _, squares = _nearest(patches, patches[chosen])
    for draw in draws[1:].tolist():
        ends = np.cumsum(squares)
        if ends[-1] == 0:
            break
        chosen.append(int(np.searchsorted(ends, draw % int(ends[-1]), side="right")))
        squares = np.minimum(squares, _nearest(patches, patches[chosen[-1:]])[1])
    return patches[chosen]


def _middles(patches: np.ndarray, nearest: np.ndarray, squares: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """Returns the rounded mean of the patches of each entry; an entry without any becomes the worst patch left."""
    counts_K = np.bincount(nearest, minlength=len(entries))
    columns = [np.bincount(nearest, weights=values, minlength=len(entries)) for values in patches.T]
    sums_KV = np.stack(columns, axis=1)
    found_KV = np.rint(sums_KV / np.maximum(counts_K, 1)[:, None]).astype(np.uint8)
    empty = np.flatnonzero(counts_K == 0)
    found_KV[empty] = patches[np.argsort(-squares, kind="stable")[: len(empty)]]
    return found_KV
