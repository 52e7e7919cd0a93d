"""Histories as packed rows: those that are learned from, and those of which the next item is asked for."""

# N rows, T items of a row, S users of a row, H items that are never recommended in a row, E histories

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Field, Volume
from jaxfm.data.text.packing import PackedRows, build_rows, text_fields
from jaxfm.tasks.recommendation.spec import CAUSAL_METHOD, FIRST_ITEM, MASK, PAD, RecommendationSpec

_LEAST_SEEN = 64  # items of `AskedRows.seen`, so that few programs are compiled


@dataclasses.dataclass(frozen=True, eq=False)
class HistoryRows:
    """Packed histories to learn from (implements jaxfm.core.batch.Dataset).

    Positions count from the end: the last item from which another one is predicted has the last position, however long
    the history is, as where histories are filled up on the left (Kang and McAuley 2018, section 3.1).

    Attributes:
      packed: the rows; their positions count from the start.
      history: most items of a history that are read.
      target_last: whether the last item of each is a target alone, from which nothing is predicted and which no other
        item sees: it has a position of its own after the last one.
    """

    packed: PackedRows
    history: int
    target_last: bool = False

    def __len__(self) -> int:
        return len(self.packed)

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        return text_fields(self.packed.row_length, PAD)

    @property
    def volume(self) -> Volume:
        """Items of a row."""
        found = self.packed.volume
        return dataclasses.replace(found, unit="items", singular="item")

    @functools.cached_property
    def positions(self) -> np.ndarray:
        """Position of each item, int32 [N, T]; 0 on padding."""
        found = self.packed.positions.copy()
        segments = self.packed.segment_ids
        for row in range(len(found)):
            lengths = np.bincount(segments[row])
            found[row] += (self.history + self.target_last - lengths[segments[row]]).astype(np.int32)
        return np.where(segments > 0, found, 0)

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for."""
        index = np.asarray(index, np.int64)
        batch = self.packed.take(index)
        return {name: self.positions[index] if name == "positions" else batch[name] for name in self.spec}

    def fingerprint(self) -> str:
        """Identifies the rows' content."""
        return self.packed.fingerprint()


@dataclasses.dataclass(frozen=True, eq=False)
class AskedRows(HistoryRows):
    """Packed histories whose next items are asked for (implements jaxfm.core.batch.Dataset).

    Where an item is predicted, "labels" [N, T] have its number, or `PAD` for an item that the catalogue does not have;
    they are -1 elsewhere. "seen" [N, H] are items that are never recommended, and "seen_by" [N, H] whose, counted from
    0 in the row, -1 where there is none.

    Attributes:
      seen: of each history the numbers of such items.
    """

    seen: tuple[np.ndarray, ...] = ()

    @functools.cached_property
    def _members(self) -> list[list[int]]:
        """Numbers of the histories of each row, in their order there."""
        found: list[list[int]] = [[] for _ in range(len(self.packed))]
        locations = self.packed.example_locations
        for number in np.lexsort((locations[:, 1], locations[:, 0])).tolist():
            found[locations[number, 0]].append(number)
        return found

    @functools.cached_property
    def width(self) -> int:
        """H, a power of two."""
        most = max((sum(len(self.seen[number]) for number in row) for row in self._members), default=0)
        return max(_LEAST_SEEN, 1 << max(most - 1, 0).bit_length())

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        labels = {"labels": Field((self.packed.row_length,), fill=-1, axes=("tokens",))}
        return {**super().spec, **labels, **{name: Field((self.width,), fill=-1) for name in ("seen", "seen_by")}}

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for."""
        index = np.asarray(index, np.int64)
        seen = np.full((2, len(index), self.width), -1, np.int32)
        for place, row in enumerate(index.tolist()):
            own = [self.seen[number] for number in self._members[row]]
            count = sum(map(len, own))
            seen[0, place, :count] = np.concatenate([*own, np.zeros(0, np.int32)])
            seen[1, place, :count] = np.repeat(np.arange(len(own)), [len(each) for each in own])
        batch = self.packed.take(index)
        more = {"positions": self.positions[index], "seen": seen[0], "seen_by": seen[1]}
        return {name: more[name] if name in more else batch[name] for name in self.spec}

    def fingerprint(self) -> str:
        """Identifies the rows' content."""
        digest = hashlib.sha256(self.packed.fingerprint().encode())
        for each in self.seen:
            digest.update(np.ascontiguousarray(each, "<i4").data)
        return digest.hexdigest()


def training_rows(spec: RecommendationSpec, histories: Sequence[np.ndarray], seed: int) -> HistoryRows:
    """Packs histories (numbers of items) to learn from.

    A long one is cut from its end into parts of `spec.history` items. Those of the causal method have a target more and
    share an item, so that each step from one item to the next is in one of them. Parts of one item say nothing and are
    left out.
    """
    causal = spec.method == CAUSAL_METHOD
    parts = [part for taken in histories for part in _parts(taken, spec.history + causal, shared=causal)]
    tokens = [part.astype(np.int32) + FIRST_ITEM for part in parts]
    labels = [np.full(len(part), -1, np.int32) for part in parts]
    most = None if spec.packed else 1
    return HistoryRows(build_rows(tokens, labels, spec.row_length, PAD, seed, most), spec.history, causal)


def _parts(taken: np.ndarray, length: int, *, shared: bool) -> list[np.ndarray]:
    found, end = [], len(taken)
    while end > 1:
        start = max(end - length, 0)
        found.append(taken[start:end])
        end = start + 1 if shared and start else start
    return found


def asked_rows(
    spec: RecommendationSpec, histories: Sequence[np.ndarray], targets: Sequence[int], seen: Sequence[np.ndarray]
) -> AskedRows:
    """Packs histories (numbers of items, one at least) whose next item is asked for.

    Args:
      spec: of the model.
      histories: what came before, the whole of it; the last items of it are read.
      targets: number of the item that came then; below 0: none of the catalogue.
      seen: numbers of items that are not to be recommended.
    """
    causal = spec.method == CAUSAL_METHOD
    tokens, labels = [], []
    for taken, target in zip(histories, targets, strict=True):
        read = taken[-(spec.history if causal else spec.history - 1) :].astype(np.int32) + FIRST_ITEM
        read = read if causal else np.append(read, np.int32(MASK))
        label = np.full(len(read), -1, np.int32)
        label[-1] = target + FIRST_ITEM if target >= 0 else PAD
        tokens.append(read)
        labels.append(label)
    packed = build_rows(tokens, labels, spec.row_length, PAD, None, spec.users_per_row)
    return AskedRows(packed, spec.history, seen=tuple(np.asarray(each, np.int32) + FIRST_ITEM for each in seen))
