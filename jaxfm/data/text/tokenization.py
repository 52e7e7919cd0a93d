"""Words to pieces with a Hugging Face fast tokenizer, and raw text to the words of transformers' pipeline."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

# Any of these holds a vocabulary. Without one transformers builds an empty tokenizer from config.json and says nothing.
VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Of tokenizer_config.json: what decides which code of transformers reads the rest.
_SETTINGS: dict[str, type | tuple[type, ...]] = {
    "tokenizer_class": (str, type(None)),
    "auto_map": (dict, type(None)),
    "added_tokens_decoder": dict,
    "model_max_length": (int, float, type(None)),
    # As a text transformers takes it for the path of a file, anywhere.
    "vocab": (dict, list, type(None)),
    "merges": (list, type(None)),
}
# Also of tokenizer_config.json: files that versions of transformers opened wherever they lie.
_FILE_KEYS = ("vocab_file", "merges_file", "spm_file", "source_spm", "target_spm", "target_vocab_file")
_SENTENCES_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerFast":
    """Opens the fast tokenizer in a Hugging Face directory; nothing is downloaded, no remote code runs.

    Raises UserError when the directory has no tokenizer files, when they cannot be read, or when they give only a slow
    tokenizer (which cannot say to which word a piece belongs).
    """
    directory = Path(directory)
    if not directory.is_dir() or not any((directory / name).is_file() for name in VOCABULARY_FILES):
        raise UserError(
            f"{directory}: no tokenizer here. A tokenizer directory holds one of {', '.join(VOCABULARY_FILES)}; "
            "copy the tokenizer files of the pretrained model into it."
        )

    for name in (*VOCABULARY_FILES, *_SETTINGS_FILES):
        if (directory / name).is_file():
            _check_file(directory / name)

    def load(**options: bool) -> "PreTrainedTokenizerFast":
        try:
            return _open(directory, **options)
        except BaseException as error:
            if not _is_damage(error):
                raise
            raise UserError(f"{directory}: the tokenizer files cannot be read: {error}") from error

    tokenizer = load()
    try:
        tokenizer.unk_token_id  # noqa: B018  (a property)
    except RecursionError as error:  # transformers takes the unknown token for one that is not in the vocabulary
        raise UserError(f"{directory}: the unknown token {tokenizer.unk_token!r} is not in the vocabulary.") from error
    longest: Any = tokenizer.model_max_length
    if not isinstance(longest, int | float) or isinstance(longest, bool):
        raise UserError(f"{directory}: model_max_length is {longest!r:.80}, but must be a number of tokens.")
    if not tokenizer.is_fast:
        raise UserError(
            f"{directory}: it has only a slow tokenizer, and word alignment needs a fast one. "
            "Convert it once with transformers' convert_slow_tokenizer and save the resulting tokenizer.json here."
        )
    if _is_byte_level(tokenizer) and not getattr(tokenizer, "add_prefix_space", False):
        tokenizer = load(add_prefix_space=True)  # recorded in the saved tokenizer, so that others split words alike
    _name_ends(tokenizer)
    return tokenizer


def _check_file(path: Path) -> None:
    """Raises UserError for a file of a tokenizer that is larger than any, or JSON of another kind."""
    if path.name == "tokenizer.json" or path.suffix != ".json":
        files.check_size(path)
        return
    values = files.read_object(path)
    wrong = next((key for key in _SETTINGS if key in values and not isinstance(values[key], _SETTINGS[key])), None)
    if wrong is not None:
        raise UserError(f"{path}: {wrong} is {values[wrong]!r:.80}, which it cannot be.")
    for key in _FILE_KEYS:
        name = values.get(key)
        if isinstance(name, str) and Path(name).name != name:
            raise UserError(f"{path}: {key} is {name!r:.80}, but must be the name of a file beside it.")


def _is_damage(error: BaseException) -> bool:
    """Returns whether an error of transformers or tokenizers says that a file is not as they need it.

    tokenizers raises Exception itself, and panics, which are not even that; transformers raises whatever it meets where
    JSON has values of other kinds.
    """
    kinds = (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, IndexError, RecursionError)
    plain = type(error) is Exception or type(error).__name__ == "PanicException"
    return plain or isinstance(error, (*kinds, OverflowError, AssertionError))


def _open(directory: Path, **options: bool) -> "PreTrainedTokenizerFast":
    """Opens a tokenizer by the class that its files name, or by tokenizer.json alone where that class is a slow one.

    SigLIP has no fast class, but a tokenizer.json that says all of it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # seconds to import, and often not needed

    found: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, **options}
    whole = (directory / "tokenizer.json").is_file()
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=True, **found)
    except ImportError:  # a library that slow classes need
        if not whole:
            raise
    else:
        if tokenizer.is_fast or not whole:
            return tokenizer
    return PreTrainedTokenizerFast.from_pretrained(directory, **found)


def _name_ends(tokenizer: "PreTrainedTokenizerFast") -> None:
    """Calls the tokens that a text begins and ends with what BERT calls them, where the family has other names.

    EuroBERT and Gemma have "bos" and "eos", ESM "cls" and "eos". Those that add one token only are left alone: their
    models never saw the other.
    """
    if tokenizer.num_special_tokens_to_add() == 2:
        for name, other in (("cls_token", "bos_token"), ("sep_token", "eos_token")):
            if getattr(tokenizer, name) is None and getattr(tokenizer, other) is not None:
                setattr(tokenizer, name, getattr(tokenizer, other))


def check_tokenizer(
    tokenizer: "PreTrainedTokenizerFast",
    encoder: EncoderConfig,
    where: Path,
    *,
    needs_mask: bool = False,
    needs_ends: bool = True,
) -> None:
    """Raises UserError for a tokenizer whose ids the word embedding has no rows for, or without [CLS], [SEP], [PAD].

    Without `needs_ends` it may lack the first two. With `needs_mask` it must have [MASK] too, and where the encoder
    drops masked tokens it must be that one.
    """
    vocab_size = encoder.vocab_size
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"{where}: the tokenizer has {len(tokenizer)} entries, the word embedding {vocab_size} rows: "
            "they are not of the same model."
        )
    ends = ("cls_token", "sep_token") if needs_ends else ()
    for name in (*ends, "pad_token", *(("mask_token",) if needs_mask else ())):
        if getattr(tokenizer, name) is None:
            raise UserError(f"{where}: the tokenizer has no {name}, which an encoder's input needs.")
    if encoder.token_dropout_id >= 0 and tokenizer.mask_token_id != encoder.token_dropout_id:
        raise UserError(
            f"{where}: the tokenizer's mask token is number {tokenizer.mask_token_id}, but the {encoder.family} "
            f"encoder takes number {encoder.token_dropout_id} for it (mask_token_id): they are of two models."
        )


def _is_byte_level(tokenizer: "PreTrainedTokenizerFast") -> bool:
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    if pre_tokenizer is None:
        return False
    state = json.loads(pre_tokenizer.__getstate__())
    return "ByteLevel" in {state["type"], *(part["type"] for part in state.get("pretokenizers", ()))}


def _is_unicode(word: str) -> bool:
    return word.isascii() or not any("\ud800" <= character <= "\udfff" for character in word)


def _encodings(
    tokenizer: "PreTrainedTokenizerFast", texts: list[str] | list[list[str]], *, is_split_into_words: bool = False
) -> "Sequence[tokenizers.Encoding]":
    """Returns the pieces of each text, whole and without special tokens; a text may be given as its words."""
    try:
        batch = tokenizer(
            texts,
            is_split_into_words=is_split_into_words,
            add_special_tokens=False,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # long texts are cut into windows later: no warning
        )
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        # A vocabulary without its own unknown token, say: it is found at the first word that needs it.
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer cannot cut this text into pieces: {error}") from error
    return batch.encodings or ()


def encode_words(tokenizer: "PreTrainedTokenizerFast", sentences: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Returns the piece ids of every word: sentence -> word -> ids, without special tokens and never truncated.

    A word for which the tokenizer has no piece (a control character, a soft hyphen) becomes the unknown token, so every
    word keeps at least one piece. Raises UserError without an unknown token, or for a word that is not
    valid Unicode (half of a surrogate pair, which JSON can hold).
    """
    # Byte-level BPE has one piece for a word after a space and another without. Not every class obeys add_prefix_space
    # (the generic one of transformers 5 ignores it), and after a Split it would mark inner parts: so the space is ours.
    space = " " if _is_byte_level(tokenizer) else ""
    unknown = tokenizer.unk_token_id
    assert unknown is None or isinstance(unknown, int)
    encoded = []
    for first in range(0, len(sentences), _SENTENCES_PER_CALL):
        chunk = sentences[first : first + _SENTENCES_PER_CALL]
        for word in (word for sentence in chunk for word in sentence if not _is_unicode(word)):
            raise UserError(f"the word {word!a} holds half of a surrogate pair, which is not a character: repair it")
        words_of = [[space + word for word in sentence] for sentence in chunk]
        for sentence, encoding in zip(chunk, _encodings(tokenizer, words_of, is_split_into_words=True), strict=True):
            pieces: list[list[int]] = [[] for _ in sentence]
            for piece, word in zip(encoding.ids, encoding.word_ids, strict=True):
                assert word is not None, "only special tokens belong to no word"
                pieces[word].append(piece)
            for word, ids in zip(sentence, pieces, strict=True):
                if ids:
                    continue
                if unknown is None:
                    raise UserError(f"the tokenizer has no piece for the word {word!r} and no unknown token: remove it")
                ids.append(unknown)
            encoded.append(pieces)
    return encoded


def encode_texts(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """Returns the piece ids of whole texts, without special tokens and never truncated.

    Raises UserError for a text that is not valid Unicode.
    """
    encoded: list[list[int]] = []
    for first in range(0, len(texts), _SENTENCES_PER_CALL):
        chunk = list(texts[first : first + _SENTENCES_PER_CALL])
        for text in chunk:
            check_unicode(text)
        encoded += [list(encoding.ids) for encoding in _encodings(tokenizer, chunk)]
    return encoded


class TextPieces(NamedTuple):
    """Pieces of a text, without special tokens, and where each is in it: start and end in characters, [pieces, 2]."""

    ids: list[int]
    offsets: np.ndarray


def encode_with_offsets(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[TextPieces]:
    """Returns the pieces of whole texts and their offsets, without white space at the ends of any piece.

    A piece that is white space alone, or stands for nothing of the text, has an empty stretch. Raises UserError for a
    text that is not valid Unicode.
    """
    found: list[TextPieces] = []
    for first in range(0, len(texts), _SENTENCES_PER_CALL):
        chunk = list(texts[first : first + _SENTENCES_PER_CALL])
        for text in chunk:
            check_unicode(text)
        for text, encoding in zip(chunk, _encodings(tokenizer, chunk), strict=True):
            offsets = [_without_space(text, *offset) for offset in encoding.offsets]
            found.append(TextPieces(list(encoding.ids), np.asarray(offsets, np.int64).reshape(-1, 2)))
    return found


def _without_space(text: str, start: int, end: int) -> tuple[int, int]:
    # A byte-level or SentencePiece piece may take the space before its word.
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def check_unicode(text: str) -> None:
    """Raises UserError for a text with half of a surrogate pair, which JSON can hold and no tokenizer takes."""
    if not _is_unicode(text):
        at = next(index for index, character in enumerate(text) if "\ud800" <= character <= "\udfff")
        raise UserError(
            f"the text {text[:40]!a} holds half of a surrogate pair at character {at}: it is not valid text, repair it"
        )


def marks_continuing_pieces(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Returns whether a piece says that it continues a word ("##ing")."""
    return bool(getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None))


class PipelineWords(NamedTuple):
    """The words of a text as transformers' pipeline has them: their offsets in characters, and the pieces of each."""

    offsets: list[tuple[int, int]]
    pieces: list[list[int]]


def pipeline_words(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[PipelineWords]:
    """Splits raw texts into words as transformers' TokenClassificationPipeline does with an aggregation strategy.

    The text is tokenized as a whole. A piece goes on with the word before it where, for a tokenizer that marks
    continuing pieces ("##ing"), it is not as long as its characters in the text; for any other, where no space is
    before it. The unknown token always starts a word (gather_pre_entities and aggregate_words of transformers 4 and 5).

    Raises UserError for a text that is not valid Unicode.
    """
    marks_parts = marks_continuing_pieces(tokenizer)
    found = []
    for first in range(0, len(texts), _SENTENCES_PER_CALL):
        chunk = list(texts[first : first + _SENTENCES_PER_CALL])
        for text in chunk:
            check_unicode(text)
        for text, encoding in zip(chunk, _encodings(tokenizer, chunk), strict=True):
            words = PipelineWords([], [])
            for piece, token, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True):
                if piece == tokenizer.unk_token_id:
                    goes_on = False
                elif marks_parts:
                    goes_on = len(token) != end - start
                else:
                    goes_on = start > 0 and " " not in text[start - 1 : start + 1]
                if goes_on and words.pieces:
                    words.offsets[-1] = (words.offsets[-1][0], end)
                    words.pieces[-1].append(piece)
                else:
                    words.offsets.append((start, end))
                    words.pieces.append([piece])
            found.append(words)
    return found
