"""One portion of a corpus to one shard: text to pieces, to windows, to packed rows on disk. Runs in any process."""

# D documents, P pieces, W windows, V vocabulary

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.data.corpora import shards
from jaxfm.data.text import packing
from jaxfm.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

RECORDS_DIR = "parts"
"""Holds what is known of each finished shard until the manifest is written."""
HISTOGRAM_BINS = 40
"""Documents by number of pieces: none in bin 0, 2^(b-1) .. 2^b - 1 in bin b."""
_RECORD_KINDS: dict[str, type] = {
    **dict.fromkeys(("index", "text_bytes", "pieces", "unknown"), int),
    **dict.fromkeys(("source_sha256", "counts_sha256"), str),
    "shard": dict,
    "histogram": list,
}
SPECIAL_TOKENS = {"[CLS]": "cls_token", "[SEP]": "sep_token", "[PAD]": "pad_token", "[MASK]": "mask_token"}
# Encodings take a hundred times the memory of the text: a call gets this many characters or documents at most.
_CALL_CHARACTERS, _CALL_DOCUMENTS = 2**19, 1024
# Characters of a portion of which it is looked up whether they are in an unknown token: one may hold a long word.
_SAMPLE_CHARACTERS = 2**18


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a portion needs to know of the tokenizer; small enough to send to any process.

    Attributes:
        size: V, the largest id + 1.
        cls_id: opens a window.
        sep_id: closes it.
        pad_id: fills a row.
        mask_id: not written here, but an objective needs it.
        unk_id: the unknown token; None where every text has pieces (byte-level).
        sha256: of all that decides which pieces a text gets.
    """

    size: int
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    unk_id: int | None
    sha256: str


@dataclasses.dataclass(frozen=True)
class Portion:
    """Neighbouring documents that become one shard; `source_sha256` covers the input from its start to their end."""

    index: int
    texts: list[str]
    source_sha256: str


def vocabulary_of(tokenizer: "PreTrainedTokenizerFast", source: str) -> Vocabulary:
    """Reads the vocabulary off a tokenizer. Raises UserError naming `source` when a special token is absent."""
    ids = [getattr(tokenizer, f"{name}_id") for name in SPECIAL_TOKENS.values()]
    missing = [
        f"{sign} ({SPECIAL_TOKENS[sign]})" for sign, number in zip(SPECIAL_TOKENS, ids, strict=True) if number is None
    ]
    if missing:
        raise UserError(
            f"{source}: this tokenizer has no {', '.join(missing)}; masked-LM rows are [CLS] text [SEP], with [PAD] "
            "and [MASK]. Take the tokenizer of an encoder, or train one: python -m jaxfm.tokenizer."
        )
    unknown = tokenizer.unk_token_id
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": None}  # none of them is used here
    return Vocabulary(
        max(tokenizer.get_vocab().values()) + 1,
        *ids,
        unk_id=unknown if isinstance(unknown, int) else None,
        sha256=files.json_digest([state, ids, unknown]),
    )


class ShardMaker:
    """Turns portions into shards in `folder`; makes the same bytes of the same portion in any process."""

    def __init__(
        self, folder: pathlib.Path, vocabulary: Vocabulary, row_length: int, seed: int, *, packed: bool = True
    ) -> None:
        """Opens the tokenizer that lies in `folder`; a row holds several windows only where they are `packed`."""
        self._folder = folder
        self._vocabulary = vocabulary
        self._row_length = row_length
        self._seed = seed
        self._max_segments = None if packed else 1
        self._tokenizer = open_backend(folder / shards.TOKENIZER_DIR)

    def __call__(self, portion: Portion) -> dict[str, Any]:
        """Writes the shard, its token counts and, last, its record; returns the record (JSON)."""
        vocabulary = self._vocabulary
        pieces, lengths = encode(self._tokenizer, portion.texts, shards.token_dtype(vocabulary.size))
        counts = np.bincount(pieces, minlength=vocabulary.size)
        tokens, sizes = cut_windows(pieces, lengths, self._row_length, vocabulary)
        # Shuffled, so that a row mixes what the corpus is sorted by.
        order = packing.shuffled(len(sizes), self._seed, portion.index)
        rows = [order[row] for row in packing.pack(sizes[order], self._row_length, self._max_segments)]
        name = shards.shard_name(portion.index)
        shard = shards.write_shard(self._folder / name, tokens, sizes, rows)
        bins = np.minimum(
            np.frexp(lengths)[1], HISTOGRAM_BINS - 1
        )  # frexp: the exponent is the number of binary digits
        record = {
            "index": portion.index,
            "shard": shard,
            "text_bytes": sum(len(text.encode()) for text in portion.texts),
            "pieces": len(pieces),
            "unknown": 0 if vocabulary.unk_id is None else int(counts[vocabulary.unk_id]),
            "unknown_characters": list(unknown_characters(self._tokenizer, portion.texts, vocabulary.unk_id)),
            "histogram": np.bincount(bins, minlength=HISTOGRAM_BINS).tolist(),
            "source_sha256": portion.source_sha256,
            "counts_sha256": shards.write_token_counts(counts_path(self._folder, name), counts),
        }
        files.write_json(record_path(self._folder, name), record)
        return record


def record_path(folder: pathlib.Path, shard: str) -> pathlib.Path:
    """Where the record of a finished shard lies."""
    return folder / RECORDS_DIR / f"{shard}.json"


def counts_path(folder: pathlib.Path, shard: str) -> pathlib.Path:
    """Where the token counts of a finished shard lie."""
    return folder / RECORDS_DIR / f"{shard}.npy"


def read_record(path: pathlib.Path) -> dict[str, Any]:
    """Returns what `ShardMaker` wrote of a shard. Raises UserError for what it did not write."""
    record = files.read_object(path)
    files.check_values(record, _RECORD_KINDS, str(path))
    shards.check_shard(record["shard"], f"{path}: shard")
    if record["shard"]["name"] != path.name.removesuffix(".json"):
        raise UserError(f"{path}: is of {record['shard']['name']}, by its name of another shard.")
    characters = record.get("unknown_characters", [0, 0])  # absent in older records
    numbers = [*record["histogram"], *(characters if isinstance(characters, list) else [None])]
    whole = all(type(each) is int and 0 <= each < 2**53 for each in numbers)
    if not whole or len(numbers) != HISTOGRAM_BINS + 2 or max(record["pieces"], record["unknown"]) >= 2**53:
        raise UserError(f"{path}: its counts of pieces, lengths or characters are not those of a shard.")
    return record


def has_counts(folder: pathlib.Path, record: dict[str, Any]) -> bool:
    """Whether the token counts of a finished shard are present and unchanged."""
    return shards.has_content(counts_path(folder, record["shard"]["name"]), record["counts_sha256"])


def open_backend(directory: pathlib.Path) -> "Tokenizer":
    """Opens tokenizer.json for whole texts: no cutting, no padding, and no special token but those we put in.

    Text may hold the letters "[MASK]"; they are text, not a mask. Raises UserError for a file that is damaged.
    """
    import tokenizers

    path = directory / "tokenizer.json"
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:
        if type(error) is not Exception:  # that is how tokenizers says that a file is damaged
            raise
        raise UserError(f"{path}: the tokenizer cannot be read: {error}.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: "Tokenizer", texts: Sequence[str], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pieces of all texts one after another [P] and how many each has [D] (0 for one without a piece)."""
    found = [np.zeros(0, dtype)]
    for call in _calls(texts):
        # "fast": without offsets, which nobody here needs
        encodings = tokenizer.encode_batch_fast(call, add_special_tokens=False)
        found.extend(np.asarray(encoding.ids, dtype) for encoding in encodings)
    return np.concatenate(found), np.asarray([len(pieces) for pieces in found[1:]], np.int64)


def unknown_characters(tokenizer: "Tokenizer", texts: Sequence[str], unk_id: int | None) -> tuple[int, int]:
    """Returns the characters that are in unknown tokens, and all, of a sample of the texts evenly spread over them.

    An unknown token may hold a whole sentence: WordPiece takes any word of more than 100 letters for one.
    """
    if unk_id is None:
        return 0, 0
    size = sum(map(len, texts))
    step = -(-size // _SAMPLE_CHARACTERS) | 1  # odd: whatever alternates in a corpus is met
    unknown = seen = 0
    for call in _calls([text[:_SAMPLE_CHARACTERS] for text in texts[::step]]):
        for text, encoding in zip(call, tokenizer.encode_batch(call, add_special_tokens=False), strict=True):
            seen += len(text)
            pieces = zip(encoding.ids, encoding.offsets, strict=True)
            unknown += sum(end - start for piece, (start, end) in pieces if piece == unk_id)
    return unknown, seen


def _calls(texts: Sequence[str]) -> Iterator[list[str]]:
    call: list[str] = []
    room = _CALL_CHARACTERS
    for text in texts:
        if call and (len(text) > room or len(call) == _CALL_DOCUMENTS):
            yield call
            call, room = [], _CALL_CHARACTERS
        call.append(text)
        room -= len(text)
    if call:
        yield call


def cut_windows(
    pieces: np.ndarray, lengths: np.ndarray, row_length: int, vocabulary: Vocabulary
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts each document into windows of row_length - 2 pieces, the last one shorter, between [CLS] and [SEP].

    Args:
      pieces: [P] of all documents one after another.
      lengths: [D] pieces of each.
      row_length: T.
      vocabulary: has the special tokens.

    Returns:
      tokens: [P + 2 W] of all windows one after another, in the type of `pieces`.
      sizes: [W] tokens of each window.
    """
    width = row_length - 2
    per_document = -(-lengths // width)
    sizes = np.full(int(per_document.sum()), width, np.int64)
    some = lengths > 0
    last = np.cumsum(per_document)[some] - 1
    sizes[last] = lengths[some] - (per_document[some] - 1) * width
    ends = np.cumsum(sizes + 2)
    tokens = np.empty(len(pieces) + 2 * len(sizes), pieces.dtype)
    inside = np.ones(len(tokens), bool)
    inside[ends - 1] = inside[ends - sizes - 2] = False
    tokens[inside] = pieces
    tokens[ends - sizes - 2] = vocabulary.cls_id
    tokens[ends - 1] = vocabulary.sep_id
    return tokens, sizes + 2
