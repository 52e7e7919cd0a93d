"""Learns a tokenizer from text, with the library `tokenizers`, in files that `AutoTokenizer` opens."""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import StreamProgress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KINDS = ("wordpiece", "bpe")
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BPE_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # RoBERTa's order
MODEL_MAX_LENGTH = 512  # BERT's; what a model of other positions is exported with is its exporter's to say
_PREFIX = "##"
_WORD_CHARACTERS = 100  # BERT's: WordPiece takes a longer word as [UNK]
# The trainer's time grows with the square of a word's length, a minute for 100,000 letters: it sees long ones cut.
_LEARNED_CHARACTERS = 1000
_MIN_COUNT = 2  # of a pair that becomes a piece
# A rare sign costs a piece or two of the vocabulary, so WordPiece leaves the rarest ones out: they are [UNK]. ASCII is
# taken in any case: other text than this has all of it.
_COVERAGE = 0.9999
_ASCII = [chr(code) for code in range(0x21, 0x7F)]


def train_tokenizer(
    documents: Iterable[str],
    *,
    kind: str,
    vocab_size: int,
    lowercase: bool,
    output: str | pathlib.Path,
    progress: StreamProgress | None = None,
) -> pathlib.Path:
    """Learns a vocabulary and writes tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    The same documents give the same files, byte for byte. Memory grows with the number of different words, not of
    documents. The vocabulary is smaller than asked for where the text is too small for it.

    Args:
      documents: gone through twice, so no iterator (`jaxfm.data.corpora.documents.Texts` reads a
        split of a corpus anew).
      kind: "wordpiece", as BERT's (merges chosen by count, Wordpiece's file and its greedy matching), or "bpe",
        byte-level as RoBERTa's, which has no unknown characters.
      vocab_size: pieces, special tokens included.
      lowercase: without case, and for WordPiece without accents.
      output: the directory, which must not exist or be empty.
      progress: where to show how far it is.

    Returns:
      `output`.

    Raises:
      UserError: unknown kind, a vocabulary too small for the alphabet, no text, something in `output`.
    """
    check_request(kind, output)
    assert iter(documents) is not documents, "documents are read twice"
    progress = StreamProgress(quiet=True) if progress is None else progress
    counts = count_characters(_watched(documents, "now the alphabet is known, reading again", progress))
    if not counts:
        raise UserError("no text to learn a tokenizer from: the input is empty.")
    learn = _learn_wordpiece if kind == "wordpiece" else _learn_bpe
    trained = learn(_watched(documents, "choosing the pieces", progress), counts, vocab_size, lowercase)
    output = pathlib.Path(output)
    with files.atomic_directory(output) as folder:
        files.write_text(folder / "tokenizer.json", trained.tokenizer.to_str(pretty=True) + "\n")
        files.write_json(folder / "tokenizer_config.json", trained.config)
        files.write_json(folder / "special_tokens_map.json", trained.roles)
    return output


def check_request(kind: str, output: str | pathlib.Path) -> None:
    """Raises UserError for an unknown kind, and for an output where something is: nothing is overwritten."""
    if kind not in KINDS:
        raise UserError(f"kind={kind!r}: a tokenizer is wordpiece or bpe. {did_you_mean(kind, KINDS)}")
    output = pathlib.Path(output)
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise UserError(f"{output}: is there already. Name a new directory, or remove it first.")


def count_pieces(directory: str | pathlib.Path) -> int:
    """Returns the size of the vocabulary that `train_tokenizer` wrote, special tokens included."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(pathlib.Path(directory, "tokenizer.json"))).get_vocab_size()


def count_characters(documents: Iterable[str]) -> dict[str, int]:
    """Returns how often each character occurs, in code point order; white space is left out."""
    counts = np.zeros(0x110000, np.int64)
    for text in documents:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        found = np.bincount(codes)  # as long as the largest code point: short for most texts
        counts[: len(found)] += found
    return {chr(code): int(counts[code]) for code in np.flatnonzero(counts) if not chr(code).isspace()}


@dataclasses.dataclass(frozen=True)
class _Trained:
    tokenizer: "Tokenizer"
    config: dict[str, Any]
    roles: dict[str, Any]


def _learn_wordpiece(documents: Iterable[str], counts: dict[str, int], vocab_size: int, lowercase: bool) -> _Trained:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    def empty(vocabulary: dict[str, int]) -> "Tokenizer":
        tokenizer = Tokenizer(
            models.WordPiece(
                vocabulary,
                unk_token="[UNK]",
                continuing_subword_prefix=_PREFIX,
                max_input_chars_per_word=_WORD_CHARACTERS,
            )
        )
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    learner = empty({})
    alphabet = _alphabet(counts, learner.normalizer.normalize_str)
    # Signs that the pre-tokenizer sets apart (punctuation, ideographs) never continue a word.
    inner = [
        f"{_PREFIX}{sign}"
        for sign in alphabet
        if len(learner.pre_tokenizer.pre_tokenize_str(learner.normalizer.normalize_str(f"a{sign}"))) == 1
    ]
    _check_size(vocab_size, [*WORDPIECE_SPECIALS, *alphabet, *inner], f"an alphabet of {len(alphabet):,} characters")
    # The library numbers continuing pieces in the order of a hash map, another one in each run, and breaks ties by
    # these numbers. Given as special tokens, they are numbered here (github.com/huggingface/tokenizers/issues/1794).
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_COUNT,
        special_tokens=[*WORDPIECE_SPECIALS, *inner],
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    # Such words are [UNK] whatever is learned, and the trainer takes minutes over one of a million letters.
    too_long = pre_tokenizers.Split(Regex(f".{{{_WORD_CHARACTERS + 1},}}"), "removed")
    learner.pre_tokenizer = pre_tokenizers.Sequence([learner.pre_tokenizer, too_long])
    learner.train_from_iterator(documents, trainer)
    # In a separate tokenizer they are ordinary pieces again.
    tokenizer = empty(learner.get_vocab())
    tokenizer.add_special_tokens(list(WORDPIECE_SPECIALS))
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(name, WORDPIECE_SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    roles = {f"{name[1:-1].lower()}_token": name for name in WORDPIECE_SPECIALS}
    config = {"do_lower_case": lowercase, "strip_accents": None, "tokenize_chinese_chars": True}
    return _Trained(tokenizer, _config("BertTokenizer", roles, **config), roles)


def _learn_bpe(documents: Iterable[str], counts: dict[str, int], vocab_size: int, lowercase: bool) -> _Trained:
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size(vocab_size, [*BPE_SPECIALS, *alphabet], "the 256 bytes")
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    words = pre_tokenizers.ByteLevel(add_prefix_space=True)
    cut = pre_tokenizers.Split(Regex(f".{{1,{_LEARNED_CHARACTERS}}}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, cut])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_COUNT,
        # As RoBERTa's: the mask takes the space before it, as the word it stands for would.
        special_tokens=[*BPE_SPECIALS[:-1], AddedToken(BPE_SPECIALS[-1], lstrip=True, special=True)],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    roles |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    # Not RobertaTokenizer: transformers 5 builds that class anew from vocabulary and merges, without the lower-casing.
    config = {"add_prefix_space": True, "model_input_names": ["input_ids", "attention_mask"]}
    return _Trained(tokenizer, _config("PreTrainedTokenizerFast", roles, **config), roles)


def _alphabet(counts: dict[str, int], normalise: Callable[[str], str]) -> list[str]:
    """ASCII and all but the rarest characters, as they are after normalising, in code point order."""
    left: collections.Counter[str] = collections.Counter()
    for character, count in counts.items():
        for sign in normalise(character):
            if not sign.isspace():
                left[sign] += count
    alphabet = {sign for character in _ASCII for sign in normalise(character)}
    covered, wanted = 0, _COVERAGE * left.total()
    for sign, count in sorted(left.items(), key=lambda item: (-item[1], item[0])):
        if covered >= wanted:
            break
        alphabet.add(sign)
        covered += count
    return sorted(alphabet)


def _check_size(vocab_size: int, needed: Sequence[str], what: str) -> None:
    if vocab_size < len(needed):
        raise UserError(
            f"vocab_size={vocab_size:,} is too small: the special tokens and {what} alone take {len(needed):,} pieces."
        )


def _config(tokenizer_class: str, roles: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        "tokenizer_class": tokenizer_class,
        "model_max_length": MODEL_MAX_LENGTH,
        "clean_up_tokenization_spaces": False,
        **roles,
        **more,
    }


def _watched(documents: Iterable[str], then: str, progress: StreamProgress) -> Iterator[str]:
    count = size = 0
    for text in documents:
        yield text
        count, size = count + 1, size + len(text.encode())
        progress.update(documents=count, size=size)
    progress.say(f"read {count:,} documents, {size / 1e6:,.1f} MB: {then}")
