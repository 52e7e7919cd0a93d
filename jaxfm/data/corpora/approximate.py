"""Approximate search among many vectors: a graph of neighbours (HNSW, Malkov and Yashunin 2018) by the library usearch.

The one module that knows it. It proposes candidates; their scores are computed exactly from the vectors.
"""

# Q queries, N texts, D numbers a vector, K ranks

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfm.errors import UserError, install_hint

FILE = "approximate.usearch"
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 32, 128, 128
_PORTION = 16384


class Graph:
    """A graph over vectors, opened from its file; the vectors lie beside it."""

    def __init__(self, path: pathlib.Path, vectors_ND: np.ndarray):
        """Maps the file into memory. Raises UserError where it is not a graph over as many vectors."""
        library = _library()
        self._vectors_ND = vectors_ND
        try:
            self._index = library.Index.restore(str(path), view=True)
        except Exception as error:  # the library has no error of its own
            raise UserError(
                f"{path}: is not an index that can be read ({error}). Remove it to have it made anew."
            ) from error
        if self._index is None or (len(self._index), self._index.ndim) != vectors_ND.shape:
            raise UserError(
                f"{path}: is not an index over {len(vectors_ND):,} vectors. Remove it to have it made anew."
            )

    def rank(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns numbers, int32 [Q, K], and exact scores, f32 [Q, K]; -1 and -inf where fewer were found."""
        self._index.expansion_search = max(EXPANSION_SEARCH, 2 * k)
        numbers = np.full((len(query_QD), k), -1, np.int32)
        scores = np.full((len(query_QD), k), -np.inf, np.float32)
        for row, query_D in enumerate(np.asarray(query_QD, np.float32)):
            found = np.asarray(self._index.search(query_D, k).keys).astype(np.int32)
            exact = np.asarray(self._vectors_ND[found], np.float32) @ query_D
            order = np.lexsort((found, -exact))
            numbers[row, : len(found)], scores[row, : len(found)] = found[order], exact[order]
        return numbers, scores


def build(vectors_ND: np.ndarray, path: pathlib.Path, advance: Callable[[int], None] = lambda done: None) -> None:
    """Writes the graph over vectors, whole or not at all; `advance` is told of each portion added.

    Vectors are compared by their product, which for vectors of length 1 is the cosine. Raises UserError without the
    package usearch.
    """
    index = _library().Index(
        ndim=vectors_ND.shape[1],
        metric="ip",
        dtype="f32",
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )
    for first in range(0, len(vectors_ND), _PORTION):
        part_ND = np.ascontiguousarray(vectors_ND[first : first + _PORTION], np.float32)
        index.add(np.arange(first, first + len(part_ND), dtype=np.uint64), part_ND)
        advance(len(part_ND))
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        index.save(name)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def _library() -> Any:
    try:
        from usearch import index
    except ImportError:
        raise UserError(f"--approximate needs the package usearch: {install_hint('retrieval')}.") from None
    return index
