"""Which documents to leave out: exact copies, near copies (MinHash), and those that share long runs with test data.

All hashes are fixed functions of the text, so that any process, at any time, on any machine decides alike. A document
is examined by itself (`examine`, in any process); what it repeats is decided in document order (`Judge`, in one).
"""

# N documents, W words, S shingles, B bands, R values a band

import dataclasses
import functools
import hashlib
import re
import unicodedata
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.errors import UserError, did_you_mean, install_hint

if TYPE_CHECKING:
    from datasketch import MinHash

KINDS = ("none", "exact", "near")
EXACT, NEAR, CONTAMINATED = "exact duplicate", "near duplicate", "contaminated"

# Word 5-grams, 112 hashes in 14 bands of 8: Penedo et al. 2024 (FineWeb, section 3.4). Documents whose shingles have
# the Jaccard similarity s share a band with probability 1 - (1 - s^8)^14: 5 % at 0.5, 56 % at 0.7, 92 % at 0.8.
SHINGLE_WORDS, BANDS, BAND_ROWS = 5, 14, 8
CONTAMINATION_WORDS = 13  # Brown et al. 2020 (GPT-3, appendix C)
EXACT_BYTES, NEAR_BYTES = 8, 8 + 8 * BANDS
"""Memory for each document kept, in bytes (twice that for moments, when sorted runs are merged)."""

_SHINGLES_AT_A_TIME = 4096  # 112 hashes of each stay in the processor's cache
_WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class Contamination:
    """The word n-grams of evaluation texts.

    Attributes:
        keys: [G] sorted distinct uint64 hashes of `CONTAMINATION_WORDS` words in a row.
        owners: [G] which of `names` a key was first seen in.
        names: what the report calls each source. Of texts with fewer words nothing can be found.
    """

    keys: np.ndarray
    owners: np.ndarray
    names: tuple[str, ...]

    def checksums(self) -> dict[str, str]:
        """Returns, for each source, the sha256 of the n-grams that no source before it has."""
        return {
            name: hashlib.sha256(self.keys[self.owners == owner].astype("<u8").tobytes()).hexdigest()
            for owner, name in enumerate(self.names)
        }

    def find(self, words: np.ndarray) -> int:
        """Returns the index in `names` of the first n-gram of a text's words [W] that is known, or -1."""
        grams = ngrams(words, CONTAMINATION_WORDS)
        if not (self.keys.size and grams.size):
            return -1
        nearest = np.minimum(np.searchsorted(self.keys, grams), len(self.keys) - 1)
        hits = np.flatnonzero(self.keys[nearest] == grams)
        return int(self.owners[nearest[hits[0]]]) if hits.size else -1


def read_contamination(sources: Iterable[tuple[str, Iterable[str]]]) -> Contamination:
    """Collects the n-grams of (name, texts); 8 bytes a word, and as much again for its owner."""
    names, keys, owners = [], [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
    for owner, (name, texts) in enumerate(sources):
        names.append(name)
        for text in texts:
            grams = ngrams(word_hashes(normalised(text)), CONTAMINATION_WORDS)
            keys.append(grams)
            owners.append(np.full(len(grams), owner, np.int32))
    unique, first = np.unique(np.concatenate(keys), return_index=True)
    return Contamination(unique, np.concatenate(owners)[first], tuple(names))


@dataclasses.dataclass(frozen=True)
class Examined:
    """What is known of N documents by themselves.

    Attributes:
        exact: [N] uint64 hash of the normalised text; absent where nothing asks for it.
        bands: [N, B] uint64 hash of each band of the MinHash signature; absent unless "near".
        contaminated: [N] int32 index of the evaluation source that the document overlaps with, or -1.
    """

    exact: np.ndarray | None
    bands: np.ndarray | None
    contaminated: np.ndarray


def examine(texts: Sequence[str], kind: str, contamination: Contamination | None) -> Examined:
    """Examines documents one by one. `kind` is one of KINDS.

    Raises UserError if "near" is asked for and the package datasketch is not installed.
    """
    exact = np.zeros(len(texts), np.uint64)
    bands = np.zeros((len(texts), BANDS), np.uint64)
    contaminated = np.full(len(texts), -1, np.int32)
    for index, text in enumerate(texts):
        plain = normalised(text)
        exact[index] = _hash_bytes(plain.encode("utf-8", "surrogatepass"))
        if kind != "near" and contamination is None:
            continue
        words = word_hashes(plain)
        if kind == "near":
            # Texts without a word (only signs) would all be copies of one another.
            bands[index] = band_keys(words if len(words) else exact[index : index + 1])
        if contamination is not None:
            contaminated[index] = contamination.find(words)
    return Examined(exact if kind != "none" else None, bands if kind == "near" else None, contaminated)


class Judge:
    """Decides, in document order, which documents repeat one that was kept before."""

    def __init__(self) -> None:
        self._exact = HashSet()
        self._bands = [HashSet() for _ in range(BANDS)]

    def decide(self, examined: Examined) -> list[str | None]:
        """Returns for each document why it is dropped (EXACT, NEAR or CONTAMINATED), or None; remembers those kept."""
        verdicts: list[str | None] = [CONTAMINATED if owner >= 0 else None for owner in examined.contaminated.tolist()]
        if examined.exact is None:
            return verdicts
        seen_exact = self._exact.contains(examined.exact)
        bands = np.zeros((len(verdicts), 0), np.uint64) if examined.bands is None else examined.bands
        seen_near = np.zeros(len(verdicts), bool)
        for band, known in zip(bands.T, self._bands, strict=False):
            seen_near |= known.contains(band)
        # Among themselves one by one: only a document that is kept counts against later ones.
        here: set[int] = set()
        near_here: list[set[int]] = [set() for _ in range(bands.shape[1])]
        kept = []
        for index, (exact, keys) in enumerate(zip(examined.exact.tolist(), bands.tolist(), strict=True)):
            if verdicts[index] is not None:
                continue
            if seen_exact[index] or exact in here:
                verdicts[index] = EXACT
            elif seen_near[index] or any(key in known for key, known in zip(keys, near_here, strict=True)):
                verdicts[index] = NEAR
            else:
                kept.append(index)
                here.add(exact)
                for key, known in zip(keys, near_here, strict=True):
                    known.add(key)
        self._exact.add(examined.exact[kept])
        for band, known in zip(bands.T, self._bands, strict=False):
            known.add(band[kept])
        return verdicts


class HashSet:
    """A growing set of uint64 hashes at 8 bytes each: sorted runs, of which neighbours of like size are merged."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Returns [N] bool: which of `keys` [N] were added before."""
        found = np.zeros(len(keys), bool)
        for run in self._runs:
            found |= run[np.minimum(np.searchsorted(run, keys), len(run) - 1)] == keys
        return found

    def add(self, keys: np.ndarray) -> None:
        """Adds `keys` [N], none of which it holds yet."""
        if not len(keys):
            return
        self._runs.append(np.sort(keys))
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")


def normalised(text: str) -> str:
    """Returns the text as duplicates are compared: compatible characters made one (NFKC), no case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def word_hashes(plain: str) -> np.ndarray:
    """Returns the hash of each word [W] of a normalised text, uint64; punctuation is not a word."""
    words = _WORD.findall(plain)
    return np.fromiter((zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words))


def ngrams(words: np.ndarray, size: int) -> np.ndarray:
    """Returns the hash of each `size` words in a row [W - size + 1]; none for a shorter text."""
    count = len(words) - size + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    grams = np.zeros(count, np.uint64)
    for offset in range(size):
        grams = _mix(grams + words[offset : offset + count])
    return grams


def band_keys(words: np.ndarray) -> np.ndarray:
    """Returns a hash of each band [B] of the MinHash signature over the shingles of a text's words [W]."""
    shingles = np.unique(ngrams(words, min(SHINGLE_WORDS, max(len(words), 1))) >> np.uint64(32))
    signature = _prototype().copy()
    for first in range(0, len(shingles), _SHINGLES_AT_A_TIME):
        signature.update_batch(shingles[first : first + _SHINGLES_AT_A_TIME].tolist())
    values = np.asarray(signature.hashvalues, np.uint64).reshape(BANDS, BAND_ROWS)
    keys = np.zeros(BANDS, np.uint64)
    for column in values.T:
        keys = _mix(keys + column)
    return keys


def check_kind(kind: str) -> None:
    """Raises UserError unless `kind` is one of KINDS, and for "near" without the package datasketch."""
    if kind not in KINDS:
        raise UserError(f"deduplicate: {kind!r} is not a kind of duplicate removal. {did_you_mean(kind, KINDS)}")
    if kind == "near":
        _prototype()


@functools.cache
def _prototype() -> "MinHash":
    try:
        from datasketch import MinHash
    except ImportError:
        raise UserError(
            f"deduplicate: 'near' needs the package datasketch: {install_hint('prepare')}; or take 'exact'."
        ) from None
    # The scheme is named so that a new default of the package cannot change what counts as a copy.
    return MinHash(num_perm=BANDS * BAND_ROWS, seed=1, hashfunc=_itself, scheme="affine32")


def _itself(value: int) -> int:
    return value


def _hash_bytes(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014) on [N] uint64: a bijection that scatters every bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
