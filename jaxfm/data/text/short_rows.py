"""One short text in a row as long as it needs: half the padding is half the time."""

# N rows, T tokens

import dataclasses

import numpy as np

from jaxfm.core.batch import Dataset, Volume
from jaxfm.data.arrays import ArrayDataset

_LEAST = 16  # tokens: below that a row costs what its overheads cost


def short_row(rows: Dataset) -> Dataset:
    """Returns a single row of text cut to the least power of two that holds its tokens; other rows as they are.

    Where several rows are needed they are full, but the last one: packing has seen to that. A token keeps its place,
    so outputs of tokens are read where they were. Rows of other lengths are other programs: a power of two has few.
    """
    spec = rows.spec
    if len(rows) != 1 or "tokens" not in spec or "segment_ids" not in spec:
        return rows
    batch = rows.take(np.zeros(1, np.int64))
    used = int(np.flatnonzero(batch["segment_ids"][0]).max(initial=0)) + 1
    length = max(_LEAST, 1 << (used - 1).bit_length())
    if length >= spec["tokens"].shape[0]:
        return rows
    of_tokens = {name for name, field in spec.items() if field.axes[:1] == ("tokens",)}
    fields = {
        name: dataclasses.replace(field, shape=(length, *field.shape[1:])) if name in of_tokens else field
        for name, field in spec.items()
    }
    arrays = {name: values[:, :length] if name in of_tokens else values for name, values in batch.items()}
    useful = float(np.count_nonzero(batch["segment_ids"]))
    return ArrayDataset(arrays, fields, Volume(rows.volume.unit, length, useful))
