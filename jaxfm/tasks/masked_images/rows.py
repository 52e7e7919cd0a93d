"""Held-out images whose hidden patches are the same in every evaluation."""

# N rows, T tokens

import numpy as np

from jaxfm.core.batch import Field
from jaxfm.data.images.rows import ImageRows
from jaxfm.tasks.masked_images.objective import NOISE

_SEED = 20211111
_BITS = 24  # that f32 holds exactly


def with_noise(rows: ImageRows) -> ImageRows:
    """Returns rows with the field "noise", which says what is hidden: a function of the row's number in the split."""
    noise_NT = np.zeros((len(rows), rows.row_length), np.float32)
    for row in range(len(rows)):
        bits = np.random.PCG64(np.random.SeedSequence((_SEED, row))).random_raw(rows.row_length)
        noise_NT[row] = (bits >> np.uint64(64 - _BITS)).astype(np.float32) / 2.0**_BITS
    field = Field((rows.row_length,), np.dtype(np.float32), axes=("tokens",))
    return rows.with_fields({NOISE: noise_NT}, {NOISE: field})
