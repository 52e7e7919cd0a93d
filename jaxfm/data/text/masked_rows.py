"""Held-out rows with fixed masks: drawn once, in batches, the same for every run whatever the batch or the cap."""

# B batch, T tokens, U units, N rows, n rows asked for

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Dataset, Field, Volume
from jaxfm.data.text import masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.spread_rows import spread_index

# The masks never change, so that runs with other seeds are scored on the same targets.
_SEED = 20181011
_TOKENS_AT_ONCE = 2**15
# (unit, numbers of the rows [B], tokens [B, T], segment_ids [B, T]) -> masked tokens and labels [B, T]
Masker = Callable[[str, np.ndarray, np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class MaskShares:
    """How much of some rows is masked.

    Attributes:
      targets: masked tokens.
      text: tokens of text: neither padding nor the two special tokens around each segment.
      rows: the rows.
      rows_without: of them, those in which nothing is masked.
    """

    targets: int
    text: int
    rows: int
    rows_without: int

    @property
    def share(self) -> float:
        """Masked tokens as a share of the text."""
        return self.targets / max(self.text, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedRows:
    """Rows of a split, once for each unit of masking, one after the other (implements jaxfm.core.batch.Dataset).

    Kept are two bytes a token and unit (four where the vocabulary has more than 2**16 entries) and one bit; the rest is
    read from `rows` when asked for.

    Attributes:
      rows: the split's rows as they are.
      index: [N] which of them are here.
      units: in which each of them is masked.
      tokens: [U, N, T] with the masks.
      chosen: [U, N, ceil(T / 8)] bits: whether a token is a target.
      numbered: whether a batch has "row" [n, 1], a number of row and unit that is the same in every run.
    """

    rows: Dataset
    index: np.ndarray
    units: tuple[str, ...]
    tokens: np.ndarray
    chosen: np.ndarray
    numbered: bool = False

    def __len__(self) -> int:
        return len(self.units) * len(self.index)

    @property
    def row_length(self) -> int:
        """Tokens a row, T."""
        return self.rows.spec["tokens"].shape[0]

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch: those of the rows, "labels" [B, T], and "row" [B, 1] where they are numbered."""
        labels = Field((self.row_length,), fill=-1, axes=("tokens",))
        return {**self.rows.spec, "labels": labels, **({"row": Field((1,))} if self.numbered else {})}

    @property
    def volume(self) -> Volume:
        """Tokens of a row, on average over all the rows of the split."""
        return self.rows.volume

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for as a batch, the tokens that were masked as labels."""
        unit, row = np.divmod(np.asarray(index, np.int64), len(self.index))
        batch = self.rows.take(self.index[row])
        batch["labels"] = np.where(self._bits(unit, row), batch["tokens"], np.int32(-1))
        batch["tokens"] = self.tokens[unit, row].astype(np.int32)
        if self.numbered:
            numbers = np.asarray([masking.UNITS.index(name) for name in self.units], np.int64)[unit]
            numbers = self.index[row] * len(masking.UNITS) + numbers
            batch["row"] = numbers.astype(np.int32)[:, None]
        return batch

    def fingerprint(self) -> str:
        """The sha256 over what the rows are and what is masked in them."""
        digest = hashlib.sha256(f"{self.rows.fingerprint()} {self.units}".encode())
        for array in (self.index, self.tokens, self.chosen):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def shares(self, unit: str) -> MaskShares:
        """Returns how much is masked by a unit."""
        number = self.units.index(unit)
        targets = text = without = 0
        for part in _chunks(len(self.index), self.row_length):
            segment_ids = self.rows.take(self.index[part])["segment_ids"]
            targets_B = self._bits(np.full(len(part), number), part).sum(axis=1)
            targets, without = targets + int(targets_B.sum()), without + int((targets_B == 0).sum())
            text += int((segment_ids > 0).sum() - 2 * segment_ids.max(axis=1).sum())
        return MaskShares(targets, text, len(self.index), without)

    def _bits(self, unit: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Bool [n, T]: which tokens are targets."""
        return np.unpackbits(self.chosen[unit, row], axis=-1, count=self.row_length).astype(bool)


@functools.lru_cache(maxsize=4)  # the splits of a run share the compiled programs
def make_masker(vocabulary: MaskVocabulary, how: Masking, ratio: float, row_length: int) -> Masker:
    """Returns what masks rows by any unit; each row's masks are a function of its number and tokens alone."""

    @functools.partial(jax.jit, static_argnames="unit")
    def mask(unit: str, number_B: jax.Array, tokens_BT: jax.Array, segment_ids_BT: jax.Array) -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(jax.random.key(_SEED), masking.UNITS.index(unit))
        limit = masking.max_predictions(unit, ratio, row_length)

        def one(number: jax.Array, tokens_T: jax.Array, segment_ids_T: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = dataclasses.replace(how, unit=unit)
            row_key = jax.random.fold_in(key, number)
            masked_1T, labels_1T = masking.mask_tokens(
                row_key, tokens_T[None], segment_ids_T[None], vocabulary, own, ratio=ratio, limit=limit
            )
            return masked_1T[0], labels_1T[0] >= 0

        return jax.vmap(one)(number_B, tokens_BT, segment_ids_BT)

    return lambda unit, *arrays: mask(unit, *map(jnp.asarray, arrays))


def mask_eval_rows(masker: Masker, rows: Dataset, units: Sequence[str], most: int) -> MaskedRows:
    """Masks the rows of a split by each unit, a batch at a time.

    Args:
      masker: see `make_masker`.
      rows: the split.
      units: of masking.
      most: at most this many rows, evenly spread over the split; 0: all of them. A row's masks are the same with any
        number.
    """
    index = spread_index(len(rows), most)
    count = len(index)
    length = rows.spec["tokens"].shape[0]
    chosen = np.zeros((len(units), count, -(-length // 8)), np.uint8)
    tokens = None
    for part in _chunks(count, length):
        batch = rows.take(index[part])
        missing = _rows_at_once(length) - len(part)  # one shape, one compiled program a unit
        padded = [
            np.pad(values, ((0, missing), *[(0, 0)] * (values.ndim - 1)))
            for values in (index[part].astype(np.uint32), batch["tokens"], batch["segment_ids"])
        ]
        for number, unit in enumerate(units):
            masked_BT, chosen_BT = (np.asarray(array)[: len(part)] for array in masker(unit, *padded))
            if tokens is None:
                tokens = np.zeros((len(units), count, length), np.uint16)
            if masked_BT.max(initial=0) > np.iinfo(tokens.dtype).max:
                tokens = tokens.astype(np.int32)
            tokens[number, part] = masked_BT
            chosen[number, part] = np.packbits(chosen_BT, axis=-1)
    tokens = np.zeros((len(units), 0, length), np.uint16) if tokens is None else tokens
    return MaskedRows(rows, index, tuple(units), tokens, chosen)


def _rows_at_once(row_length: int) -> int:
    return max(1, _TOKENS_AT_ONCE // row_length)


def _chunks(count: int, row_length: int) -> list[np.ndarray]:
    size = _rows_at_once(row_length)
    return [np.arange(first, min(first + size, count)) for first in range(0, count, size)]
