"""Examples of any length to fixed rows, several to a row, so that little of a batch is padding."""

# N rows, T tokens, S segments (examples in a row), E examples

import dataclasses
import hashlib
import types
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Field, Volume
from jaxfm.models.inputs.text import fields


def text_fields(row_length: int, pad_id: int = 0, *, types: bool = False) -> dict[str, Field]:
    """Returns the fields of packed text: tokens, segment_ids, positions and, where token types differ, type_ids."""
    found = fields(row_length, type_ids=types)
    return {**found, "tokens": dataclasses.replace(found["tokens"], fill=pad_id)}


def more_fields(row_length: int, names: Iterable[str]) -> dict[str, Field]:
    """Returns the fields of `PackedRows.token_fields`."""
    return {name: Field((row_length,), fill=-1, axes=("tokens",)) for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class PackedRows:
    """Packed rows in memory (implements jaxfm.core.batch.Dataset), all int32 but for labels that are real numbers.

    Attributes:
        tokens: [N, T] piece ids, `pad_id` where nothing lies.
        segment_ids: [N, T] 1..n over the examples of a row, 0 on padding.
        positions: [N, T] 0.. within each segment, 0 on padding.
        type_ids: [N, T] token type: 1 on the second text of a pair, else 0; None where all are 0.
        labels: [N, T, ...] targets of tokens, or [N, S, ...] of whole examples (int32 or f32); -1 = ignored.
        token_labels: whether labels are of tokens.
        example_locations: [E, 3] where each example lies: row, segment counted from 0, index of its first token.
        pad_id: the padding token.
        token_fields: more arrays [N, T] of tokens by the name of their field, -1 on padding.
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    type_ids: np.ndarray | None
    labels: np.ndarray
    token_labels: bool
    example_locations: np.ndarray
    pad_id: int
    token_fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def row_length(self) -> int:
        """Tokens a row, T."""
        return self.tokens.shape[1]

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        labels = Field(self.labels.shape[1:], self.labels.dtype, -1, ("tokens",) if self.token_labels else ())
        text = text_fields(self.row_length, self.pad_id, types=self.type_ids is not None)
        return text | {"labels": labels} | more_fields(self.row_length, self.token_fields)

    @property
    def volume(self) -> Volume:
        """Tokens of a row."""
        useful = np.count_nonzero(self.segment_ids) / max(1, len(self))
        longest = int(self.positions.max(initial=-1)) + 1
        examples = len(self.example_locations) / max(1, len(self))
        return Volume("tokens", self.row_length, useful, longest=longest, examples_per_row=examples)

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for as a batch: a field of `spec` each."""
        more = self.token_fields
        return {name: (more[name] if name in more else getattr(self, name))[index] for name in self.spec}

    def fingerprint(self) -> str:
        """The sha256 over the names, shapes and bytes of all arrays: what a checkpoint remembers of its data.

        Hashed are the arrays that rows had when runs were first made, so that their checkpoints still fit.
        """
        row, segment, start = self.example_locations.T
        segments = np.bincount(row, minlength=len(self))
        starts = np.zeros((len(self), int(segments.max(initial=0))), np.int32)
        starts[row, segment] = start
        return _fingerprint(
            {
                "tokens": self.tokens,
                "segment_ids": self.segment_ids,
                "positions": self.positions,
                "type_ids": np.zeros_like(self.tokens) if self.type_ids is None else self.type_ids,
                "labels": self.labels,
                "starts": starts,
                "segments": segments,
                "slots": self.example_locations,
                "pad_id": self.pad_id,
                **self.token_fields,
            }
        )


def pack(lengths: Sequence[int] | np.ndarray, row_length: int, max_segments: int | None = None) -> list[np.ndarray]:
    """Assigns examples, in the order given, each to the fullest open row that still has room (best fit).

    Returns one array of example indices per row. Open rows are kept in a bucket per free space, with a bit mask of the
    buckets in use, so the cost of an example does not grow with their number. Every length lies in 1..row_length.
    """
    sizes = np.asarray(lengths, np.int64)
    assert sizes.size == 0 or (sizes.min() > 0 and sizes.max() <= row_length), "windows keep examples within the row"
    limit = row_length if max_segments is None else max_segments
    assert limit > 0
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]  # by free space
    in_use = 0  # bit f: open_rows[f] is not empty
    for example, size in enumerate(sizes.tolist()):
        roomy = in_use >> size
        if roomy:
            free = size + (roomy & -roomy).bit_length() - 1
            row = open_rows[free].pop()
            if not open_rows[free]:
                in_use ^= 1 << free
        else:
            free, row = row_length, len(rows)
            rows.append([])
        rows[row].append(example)
        free -= size
        if free and len(rows[row]) < limit:
            open_rows[free].append(row)
            in_use |= 1 << free
    return [np.asarray(row, np.int64) for row in rows]


def most_together(lengths: Sequence[int] | np.ndarray, row_length: int) -> int:
    """Returns how many of the examples a row can hold at most, and 1 at least."""
    return max(int(np.searchsorted(np.cumsum(np.sort(lengths)), row_length, side="right")), 1)


def build_rows(
    tokens: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | np.ndarray,
    row_length: int,
    pad_id: int,
    seed: int | None,
    max_segments: int | None = None,
    type_ids: Sequence[np.ndarray] | None = None,
    token_fields: Mapping[str, Sequence[np.ndarray]] = types.MappingProxyType({}),
) -> PackedRows:
    """Packs examples (token ids and labels of equal lengths) into rows of `row_length`.

    With a seed (training) examples are shuffled first, so that a row mixes whatever the data is sorted by; without one
    (evaluation) the longest go first, which wastes least. The same arguments give the same rows. Where labels are one
    array [E, ...], they are targets of whole examples and the rows have [N, S, ...] of them, S = `max_segments`.
    `token_fields` are further int32 arrays of the length of each example.
    """
    lengths = np.asarray([len(example) for example in tokens], np.int64)
    of_examples = isinstance(labels, np.ndarray)
    assert len(labels) == len(tokens)
    assert of_examples or all(len(a) == len(b) for a, b in zip(tokens, labels, strict=True))
    order = np.argsort(-lengths, kind="stable") if seed is None else shuffled(len(lengths), seed)
    packed = pack(lengths[order], row_length, max_segments)

    # Examples in the order in which they lie: row by row, segment by segment.
    members = order[np.concatenate(packed)] if packed else np.zeros(0, np.int64)
    counts = np.asarray([len(row) for row in packed], np.int64)
    row = np.repeat(np.arange(len(packed)), counts)
    segment = ramps(counts)
    ends = np.cumsum(lengths[members])
    row_begins = np.concatenate([[0], ends])[np.cumsum(counts) - counts]  # pieces before each row
    start = ends - lengths[members] - np.repeat(row_begins, counts)

    shape = (len(packed), row_length)
    inside = ramps(lengths[members])
    place = np.repeat(row * row_length + start, lengths[members]) + inside

    def lay(values: np.ndarray, empty: int) -> np.ndarray:
        laid = np.full((*shape, *values.shape[1:]), empty, np.int32)
        laid.reshape(-1, *values.shape[1:])[place] = values
        return laid

    def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
        inner = arrays[0].shape[1:] if arrays else ()
        return np.concatenate([np.zeros((0, *inner), np.int32), *(arrays[example] for example in members.tolist())])

    def of_segments(targets: np.ndarray) -> np.ndarray:
        assert max_segments is not None, "rows of one shape, whatever the split"
        laid = np.full((len(packed), max_segments, *targets.shape[1:]), -1, targets.dtype)
        laid[row, segment] = targets[members]
        return laid

    example_locations = np.zeros((len(lengths), 3), np.int32)
    example_locations[members] = np.stack([row, segment, start], axis=1)
    return PackedRows(
        tokens=lay(joined(tokens), pad_id),
        segment_ids=lay(np.repeat(segment + 1, lengths[members]), 0),
        positions=lay(inside, 0),
        type_ids=None if type_ids is None else lay(joined(type_ids), 0),
        labels=of_segments(labels) if isinstance(labels, np.ndarray) else lay(joined(labels), -1),
        token_labels=not of_examples,
        example_locations=example_locations,
        pad_id=pad_id,
        token_fields={name: lay(joined(values), -1) for name, values in token_fields.items()},
    )


def ramps(counts: np.ndarray) -> np.ndarray:
    """0..counts[0]-1, 0..counts[1]-1, ... in one array."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)


def shuffled(count: int, *seed: int) -> np.ndarray:
    """A permutation of 0..count-1 [count] that depends on the seed numbers alone.

    NumPy promises the raw bits of its bit generators for ever (NEP 19) but not what `Generator.permutation` makes of
    them, and a run must be resumable under another NumPy.
    """
    bits = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count)
    return np.argsort(bits, kind="stable")


def _fingerprint(arrays: Mapping[str, np.ndarray | int]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        value = np.ascontiguousarray(array, dtype="<f4" if np.asarray(array).dtype.kind == "f" else "<i4")
        digest.update(f"{name}{value.shape}".encode())
        digest.update(value.data)
    return digest.hexdigest()
