"""Which pieces go on with a word: for every kind of tokenizer, and for scripts without spaces."""

import functools
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.data.corpora.tokenizer_training import train_tokenizer
from jaxfm.data.text.mask_vocabulary import MaskVocabulary, vocabulary_of
from jaxfm.data.text.tokenization import load_tokenizer

TEXT = ["the foxes jumped over hounds, jumping\nfoxes 12 foxes; jumps don't jump"] * 30


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that learns a small tokenizer of a kind."""
    folder = tmp_path_factory.mktemp("vocabularies")

    @functools.cache
    def learn(kind: str) -> pathlib.Path:
        size = 300 if kind == "bpe" else 200
        return train_tokenizer(TEXT, kind=kind, vocab_size=size, lowercase=False, output=folder / kind)

    return learn


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wordpiece", ["the", "foxhounds", ",", "jumping", "12", "don", "'", "t"]),
        ("bpe", ["Ġthe", "Ġfoxhounds,", "Ġjumping", "Ċ12", "Ġdon't"]),
    ],
)
def test_vocabulary_of_both_kinds(learned: Any, kind: str, words: list[str]) -> None:
    tokenizer = load_tokenizer(learned(kind))
    vocabulary = vocabulary_of(tokenizer, len(tokenizer) + 7)
    special = set(tokenizer.all_special_ids)
    assert len(special) == 5 and vocabulary.mask_id == tokenizer.mask_token_id
    assert len(vocabulary.maskable) == len(vocabulary.continues) == len(tokenizer) + 7
    assert set(np.flatnonzero(vocabulary.maskable)) == set(range(len(tokenizer))) - special
    np.testing.assert_array_equal(vocabulary.ordinary, np.flatnonzero(vocabulary.maskable))
    assert not vocabulary.continues[~vocabulary.maskable].any()
    ids = tokenizer("the foxhounds, jumping\n12 don't", add_special_tokens=False)["input_ids"]
    found: list[str] = []
    for number in ids:
        piece = tokenizer.convert_ids_to_tokens(number)
        if vocabulary.continues[number]:
            found[-1] += piece.removeprefix("##")
        else:
            found.append(piece)
    assert found == words
    assert len(ids) > len(words)  # else no word has parts


UNSPACED = "the 中国人民、2024年 jumped ひらがな ภาษาไทย हिन्दी 한국어 foxes"


def words_by(vocabulary: MaskVocabulary, tokenizer: Any, text: str) -> list[str]:
    """The words that masking sees in a text."""
    words: list[list[int]] = []
    for number in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if vocabulary.continues[number] and words:
            words[-1].append(number)
        else:
            words.append([number])
    return [found for word in words if (found := tokenizer.decode(word).strip())]


def test_letters_of_scripts_without_spaces_start_words_in_bytes(learned: Any) -> None:
    # Learned from English: every other character is bytes, and a character's bytes stay together.
    tokenizer = load_tokenizer(learned("bpe"))
    vocabulary = vocabulary_of(tokenizer, len(tokenizer))
    assert vocabulary.marks_words
    found = words_by(vocabulary, tokenizer, UNSPACED)
    # A lone first byte may be of Thai or of Hindi, so it starts no word.
    cut = [*"中国人民", "、2024", "年", "jumped", *"ひらがな"]
    assert found == ["the", *cut, "ภาษาไทย", "हिन्दी", "한국어", "foxes"]


def sentencepiece(folder: pathlib.Path, pieces: list[str]) -> Any:
    """A tokenizer of the kind that XLM-R has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in [*specials, *pieces]], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    roles = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>", "cls": "<s>", "sep": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": sign for name, sign in roles.items()}
    )


def test_letters_of_scripts_without_spaces_start_words_in_sentencepiece(tmp_path: pathlib.Path) -> None:
    pieces = [
        "▁",
        "▁the",
        "fox",
        "es",
        "中国",
        "人",
        "▁人民",
        "、",
        "、中",
        "<0xE4>",
        "<0xB8>",
        "ー",
        "ア",
        "ั",
        "ท",
        "ह",
    ]
    tokenizer = sentencepiece(tmp_path, pieces)
    vocabulary = vocabulary_of(tokenizer, len(tokenizer))
    goes_on = {piece: bool(vocabulary.continues[tokenizer.convert_tokens_to_ids(piece)]) for piece in pieces}
    starts = {"▁", "▁the", "中国", "人", "▁人民", "<0xE4>", "ア", "ท"}
    assert {piece for piece, on in goes_on.items() if not on} == starts


def test_a_vocabulary_of_one_script_marks_words_all_the_same(tmp_path: pathlib.Path) -> None:
    """What a tokenizer is, not how many of its pieces have a space, says how it marks words."""
    text = ["中国人民中国人民" * 4 + "abcabcabc"] * 20
    folder = train_tokenizer(text, kind="bpe", vocab_size=290, lowercase=False, output=tmp_path / "zh")
    tokenizer = load_tokenizer(folder)
    vocabulary = vocabulary_of(tokenizer, len(tokenizer))
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "bc"]
    assert vocabulary.continues[letters].all()


def test_a_tokenizer_that_marks_the_ends_of_words(tmp_path: pathlib.Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[MASK]": 0, "a": 1, "b": 2, "b</w>": 3}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]"), 8)
    assert not found.marks_words and not found.continues.any()
