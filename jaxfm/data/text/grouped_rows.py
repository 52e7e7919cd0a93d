"""Groups of texts that belong together (a query, its passages) packed into rows, each text a segment of its own."""

# N rows, T tokens, S = G K segments, G groups a row, K texts a group, M groups, P known positives

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Field, Volume
from jaxfm.data.text.packing import PackedRows, build_rows, ramps, text_fields

ABSENT = -1


def group_fields(
    row_length: int, groups: int, texts: int, *, pad_id: int = 0, scores: int = 0, positives: int = 0
) -> dict[str, Field]:
    """Returns the fields of packed groups.

    Beside packed text: "texts" [G, K], a number for each text, equal for equal texts, -1 where a group has fewer; with
    `scores` "scores" f32 [G, scores] of each group; with `positives` "positives" [G, P], the numbers of all texts that
    are known to fit the first one, -1 for none.
    """
    found = text_fields(row_length, pad_id) | {"texts": Field((groups, texts), fill=ABSENT)}
    if scores:
        found["scores"] = Field((groups, scores), np.dtype(np.float32))
    if positives:
        found["positives"] = Field((groups, positives), fill=ABSENT)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class GroupedRows:
    """Packed groups in memory (implements jaxfm.core.batch.Dataset).

    Text k of group g of a row is segment g K + k + 1; a group with fewer texts leaves the numbers of the others out.

    Attributes:
      tokens: int32 [N, T].
      segment_ids: int32 [N, T].
      positions: int32 [N, T] 0.. within each text.
      texts: int32 [N, G, K], see `group_fields`.
      scores: f32 [N, G, ...]; None without.
      positives: int32 [N, G, P]; None without.
      pad_id: the padding token.
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    texts: np.ndarray
    scores: np.ndarray | None
    positives: np.ndarray | None
    pad_id: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        _, groups, texts = self.texts.shape
        widths = [0 if found is None else found.shape[-1] for found in (self.scores, self.positives)]
        return group_fields(
            self.tokens.shape[1], groups, texts, pad_id=self.pad_id, scores=widths[0], positives=widths[1]
        )

    @property
    def volume(self) -> Volume:
        """Tokens of a row; an example is a group."""
        useful = np.count_nonzero(self.segment_ids) / max(1, len(self))
        groups = np.count_nonzero(self.texts[..., 0] != ABSENT) / max(1, len(self))
        longest = int(self.positions.max(initial=-1)) + 1
        return Volume("tokens", self.tokens.shape[1], useful, longest=longest, examples_per_row=groups)

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for as a batch."""
        return {name: getattr(self, name)[index] for name in self.spec}

    def fingerprint(self) -> str:
        """The sha256 over the names, shapes and bytes of all arrays."""
        digest = hashlib.sha256()
        for name in self.spec:
            array = getattr(self, name)
            value = np.ascontiguousarray(array, dtype="<f4" if array.dtype.kind == "f" else "<i4")
            digest.update(f"{name}{value.shape}".encode())
            digest.update(value.data)
        return digest.hexdigest()


def pack_groups(
    groups: Sequence[Sequence[np.ndarray]],
    ids: Sequence[Sequence[int]],
    *,
    row_length: int,
    texts: int,
    groups_per_row: int,
    pad_id: int,
    seed: int | None,
    scores: np.ndarray | None = None,
    positives: np.ndarray | None = None,
) -> GroupedRows:
    """Packs groups of texts; with a seed the groups are shuffled first.

    Args:
      groups: tokens of each text of each group, int32, together at most `row_length`.
      ids: number of each text, equal for equal texts.
      row_length: T.
      texts: K, the most texts of a group.
      groups_per_row: G, the most groups of a row.
      pad_id: the padding token.
      seed: of the order.
      scores: f32 [M, ...] of each group.
      positives: int32 [M, P], see `group_fields`.
    """
    counts = np.asarray([len(group) for group in groups], np.int64)
    lengths = np.asarray([len(text) for group in groups for text in group], np.int64)
    inner = np.split(ramps(lengths), np.cumsum(lengths)[:-1])  # positions of each text
    ends = np.cumsum(counts)
    joined = [np.concatenate(list(group)) for group in groups]
    within = [np.repeat(np.arange(count), lengths[end - count : end]) for count, end in zip(counts, ends, strict=True)]
    places = [np.concatenate(inner[end - count : end]) for count, end in zip(counts, ends, strict=True)]
    numbers = np.full((len(groups), texts), ABSENT, np.int32)
    for row, found in enumerate(ids):
        numbers[row, : len(found)] = found
    packed = build_rows(
        joined,
        numbers,
        row_length,
        pad_id,
        seed,
        max_segments=groups_per_row,
        token_fields={"text": within, "position": places},
    )
    used = packed.segment_ids > 0
    segment_ids = np.where(used, (packed.segment_ids - 1) * texts + packed.token_fields["text"] + 1, 0)
    return GroupedRows(
        tokens=packed.tokens,
        segment_ids=segment_ids.astype(np.int32),
        positions=np.where(used, packed.token_fields["position"], 0).astype(np.int32),
        texts=packed.labels,
        scores=None if scores is None else _of_groups(packed, scores, groups_per_row, 0.0),
        positives=None if positives is None else _of_groups(packed, positives, groups_per_row, ABSENT),
        pad_id=pad_id,
    )


def _of_groups(packed: PackedRows, values: np.ndarray, groups: int, fill: float) -> np.ndarray:
    """Returns values [M, ...] of groups where these lie, [N, G, ...]."""
    laid = np.full((len(packed), groups, *values.shape[1:]), fill, values.dtype)
    row, group, _ = packed.example_locations.T
    laid[row, group] = values
    return laid


def known_positives(anchors: Sequence[int], positives: Sequence[int], most: int) -> tuple[np.ndarray | None, int]:
    """Returns, for each group, the numbers of all texts that are the positive of its anchor anywhere, int32 [M, P].

    P is the most that an anchor has, and at most `most`; -1 fills up. None where no anchor has a second one: its own is
    known to the loss. Also returns how many anchors have more than `most`, of which the first are kept.
    """
    found: dict[int, dict[int, None]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        found.setdefault(anchor, {})[positive] = None
    width = max(map(len, found.values()), default=0)
    if width < 2:
        return None, 0
    table = np.full((len(anchors), min(width, most)), ABSENT, np.int32)
    for row, anchor in enumerate(anchors):
        known = list(found[anchor])[:most]
        table[row, : len(known)] = known
    return table, sum(len(each) > most for each in found.values())
