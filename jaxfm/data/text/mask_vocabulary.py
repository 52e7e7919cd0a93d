"""What masking knows of a tokenizer: which pieces can be masked, and where words start."""

# V vocabulary

import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# How pieces that start a word are marked: byte-level BPE (space, line end, tab), SentencePiece.
_BYTE_SPACES, _METASPACE = "ĠĊĉč", "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's piece of one byte
# Scripts written without spaces between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana and bopomofo, ideographs.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x0F00, 0x0FBC),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x31FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


@dataclasses.dataclass(frozen=True, eq=False)
class MaskVocabulary:
    """What masking knows of a tokenizer.

    Attributes:
      mask_id: id of the mask token.
      maskable: bool [V], False for special tokens and for rows of the embedding that no token uses.
      continues: bool [V], True for a piece that goes on with the word of the piece before.
      marks_words: whether the pieces say where words start; if not, each piece counts as a word.
      ordinary: int32 [N] ids with maskable, from which random replacements are drawn.
    """

    mask_id: int
    maskable: np.ndarray
    continues: np.ndarray
    marks_words: bool = True

    @property
    def ordinary(self) -> np.ndarray:
        """See the class."""
        return np.flatnonzero(self.maskable).astype(np.int32)


def vocabulary_of(tokenizer: "PreTrainedTokenizerFast", size: int) -> MaskVocabulary:
    """Reads special tokens and word pieces off a tokenizer, for an embedding of `size` rows.

    A piece continues a word where WordPiece writes its prefix ("##"). In byte-level BPE and SentencePiece it does where
    it does not start with white space; then punctuation counts to the word it touches, as in fairseq, and a piece that
    starts with a letter of a script without spaces (ideographs, kana, Thai and the like) starts a word: nearest to
    BERT, for which each ideograph is a word.
    """
    maskable, continues, marks_words = word_pieces(tokenizer, size)
    assert isinstance(tokenizer.mask_token_id, int), "a tokenizer without a mask token is refused before"
    return MaskVocabulary(tokenizer.mask_token_id, maskable, continues, marks_words)


def word_pieces(tokenizer: "PreTrainedTokenizerFast", size: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns `maskable`, `continues` and `marks_words` of `MaskVocabulary`, also of tokenizers without a mask."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    maskable, continues = np.zeros(size, bool), np.zeros(size, bool)
    maskable[: len(pieces)] = [index not in special for index in range(len(pieces))]
    prefix, spaces = _word_marks(tokenizer, pieces)
    for index, piece in enumerate(pieces):
        if spaces:
            continues[index] = not piece.startswith(tuple(spaces)) and not _starts_unspaced(piece, spaces)
        elif prefix:
            continues[index] = piece.startswith(prefix)
    return maskable, continues & maskable, bool(prefix or spaces)


def _word_marks(tokenizer: "PreTrainedTokenizerFast", pieces: Sequence[str]) -> tuple[str, str]:
    """Returns the prefix of pieces that continue a word, or else the characters that pieces which start one begin with.

    Both are empty where neither is used (BPE that marks the ends of words).
    """
    backend = tokenizer.backend_tokenizer
    if type(backend.model).__name__ == "WordPiece":
        return backend.model.continuing_subword_prefix, ""
    parts = (part for part in (backend.pre_tokenizer, backend.normalizer) if part is not None)
    states = [json.loads(part.__getstate__()) for part in parts]
    kinds = {
        part["type"]
        for state in states
        for part in (state, *state.get("pretokenizers", ()), *state.get("normalizers", ()))
    }
    if "ByteLevel" in kinds:
        return "", _BYTE_SPACES
    return "", _METASPACE if any(piece.startswith(_METASPACE) for piece in pieces) else ""


@functools.cache
def _bytes_by_character() -> dict[str, int]:
    """Returns the byte that each character of a byte-level vocabulary stands for (Radford et al. 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}


def _starts_unspaced(piece: str, spaces: str) -> bool:
    """Whether a piece starts with a letter of a script without spaces, or with enough of its bytes to tell."""
    one_byte = _BYTE_PIECE.fullmatch(piece)
    if one_byte:
        data = bytes([int(one_byte[1], 16)])
    elif spaces == _BYTE_SPACES and all(character in _bytes_by_character() for character in piece[:4]):
        data = bytes(_bytes_by_character()[character] for character in piece[:4])
    else:
        data = piece[:1].encode(errors="replace")
    size = {0xE0: 3, 0xF0: 4}.get(data[0] & 0xF0, 0) if data else 0  # of the first character, in UTF-8
    try:
        # What is missing of a cut character: the last of all that start so. It tells all but Thai from Hindi.
        first = data[:size].ljust(size, b"\xbf").decode()
    except UnicodeDecodeError:
        return False
    if not any(start <= ord(first or "\0") <= end for start, end in _UNSPACED):
        return False
    return len(data) < size or unicodedata.category(first) == "Lo"
