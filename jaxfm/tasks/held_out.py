"""The held-out examples of a split as rows of two kinds: with their targets, and with blank ones that are written."""

# B batch, N rows, S segments, E examples, M places of a target

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfm.core.batch import Batch, BatchSpec, Field, Volume
from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.text.packing import PackedRows
from jaxfm.tasks.written import NOTHING, Written

ROLE = "role"
SUMS = ("loss", "right", "weight", "count")
SCORED, WRITTEN = 1, 2  # of a row; 0: it only fills a batch


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """A split's rows (implements jaxfm.core.batch.Dataset): those with targets first.

    Attributes:
      scored: all examples, with their targets.
      blank: the chosen ones, whose targets are to be written.
      chosen: int64 [n] numbers of these examples.
    """

    scored: PackedRows
    blank: PackedRows
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.scored) + len(self.blank)

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch: those of packed text, and what a row is for."""
        return {**self.scored.spec, ROLE: Field(())}

    @property
    def volume(self) -> Volume:
        """Tokens of a row, those with targets."""
        return self.scored.volume

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for."""
        return self._joined.take(index)

    def fingerprint(self) -> str:
        """The sha256 over all arrays."""
        return self._joined.fingerprint()

    @functools.cached_property
    def _joined(self) -> ArrayDataset:
        parts = [(rows, role) for rows, role in ((self.scored, SCORED), (self.blank, WRITTEN)) if len(rows)]
        batches = [rows.take(np.arange(len(rows))) | {ROLE: np.full(len(rows), role, np.int32)} for rows, role in parts]
        return ArrayDataset(
            {name: np.concatenate([batch[name] for batch in batches]) for name in self.spec}, self.spec, self.volume
        )

    def sums(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns "loss", "right", "weight" and "count" of each example, float64 [E]."""
        row, segment, _ = self.scored.example_locations.T
        return {name: outputs[name][row, segment].astype(np.float64) for name in SUMS}

    def written(self, outputs: Mapping[str, np.ndarray]) -> list[list[int]]:
        """Returns the tokens that were written for each of `chosen`."""
        return written_tokens(self.blank, outputs["written"][len(self.scored) :])

    def scores(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the mean log-probability of the tokens written for each of `chosen`, float64 [n]."""
        row, segment, _ = self.blank.example_locations.T
        return outputs["score"][len(self.scored) + row, segment].astype(np.float64)


def outputs_by_role(
    batch: Mapping[str, jax.Array],
    segments: int,
    most: int,
    scored: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    write: Callable[[Mapping[str, jax.Array]], Written],
) -> dict[str, jax.Array]:
    """Returns of each segment what the rows of `HeldOut` are for; a batch without rows of one kind computes no such.

    Rows with targets: what `scored` gives, SUMS f32 [B, S]; rows of blank targets: what `write` gives, "written" int32
    [B, S, M] and "score" f32 [B, S]. `segments` is S, `most` is M.
    """
    role_B = batch[ROLE]
    rows = {name: value for name, value in batch.items() if name != ROLE}
    empty_BS = jnp.zeros((len(role_B), segments), jnp.float32)
    none = Written.none(len(role_B), segments, most)
    sums = lax.cond((role_B == SCORED).any(), lambda: scored(rows), lambda: dict.fromkeys(SUMS, empty_BS))
    written = lax.cond((role_B == WRITTEN).any(), lambda: write(rows), lambda: none)
    return {**sums, "written": written.tokens_BSM, "score": written.score_BS}


def spread(count: int, wanted: int) -> np.ndarray:
    """Returns the numbers of at most `wanted` of `count` examples, evenly spread over them."""
    if wanted >= count:
        return np.arange(count)
    return (np.arange(wanted) * count) // max(wanted, 1)


def written_tokens(rows: PackedRows, written_NSM: np.ndarray) -> list[list[int]]:
    """Returns the tokens written for each example of blank rows."""
    return [
        [token for token in written_NSM[row, segment].tolist() if token != NOTHING]
        for row, segment, _ in rows.example_locations.tolist()
    ]
