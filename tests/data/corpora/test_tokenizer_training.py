"""Learned tokenizers: what transformers opens is what was learned, and the same text gives the same files."""

import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from jaxfm.data.corpora import tokenizer_training
from jaxfm.data.corpora.tokenizer_training import (
    BPE_SPECIALS,
    WORDPIECE_SPECIALS,
    count_characters,
    count_pieces,
    train_tokenizer,
)
from jaxfm.data.text.tokenization import encode_words, load_tokenizer
from jaxfm.errors import UserError

FILES = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
TRICKY = (
    "The Café, naïve Ünits; it's 3.50",
    "two  spaces\nand\ta new line",
    "unknown: \u2603 \u6771\u4eac",
    "[SEP] </s> [MASK]",
    "",
)


def corpus(count: int = 400) -> list[str]:
    """Words of few letters, many of equal counts: there are ties wherever a trainer looks."""
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdeéT", k=draw.choice((1, 2, 3, 5)))) for _ in range(300)]
    return [" ".join(draw.choices(words, k=20)) + "." for _ in range(count)] + ["It's Café, 東 東", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that learns once for each kind and case."""
    folder = tmp_path_factory.mktemp("tokenizers")

    def make(kind: str, lowercase: bool) -> pathlib.Path:
        output = folder / f"{kind}-{lowercase}"
        if not output.exists():
            train_tokenizer(corpus(), kind=kind, vocab_size=400, lowercase=lowercase, output=output)
        return output

    return make


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_transformers_opens_what_was_learned(made, kind, lowercase, tmp_path):
    directory = made(kind, lowercase)
    assert sorted(path.name for path in directory.iterdir()) == FILES
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.is_fast and tokenizer.model_max_length == 512
    assert count_pieces(directory) == len(tokenizer) <= 400
    learned = Tokenizer.from_file(str(directory / "tokenizer.json"))
    ours = load_tokenizer(directory)  # and what a run writes again
    ours.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TRICKY, *corpus()[:50]):
        expected = learned.encode(text).ids
        assert tokenizer(text)["input_ids"] == expected
        assert ours(text)["input_ids"] == expected
        assert again(text)["input_ids"] == expected
    upper, lower = (tokenizer(text)["input_ids"] for text in ("CAFÉ Ted", "café ted"))
    assert (upper == lower) == lowercase


def test_wordpiece_is_berts(made):
    tokenizer = AutoTokenizer.from_pretrained(made("wordpiece", False))
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(WORDPIECE_SPECIALS)
    names = [tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token]
    assert tuple(names) == WORDPIECE_SPECIALS
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]  # and no continuing piece
    one, two = tokenizer("é"), tokenizer("é", "[MASK]c")
    assert tokenizer.convert_ids_to_tokens(one["input_ids"]) == ["[CLS]", "é", "[SEP]"]
    pieces = tokenizer.convert_ids_to_tokens(two["input_ids"])
    assert pieces == ["[CLS]", "é", "[SEP]", "[MASK]", "c", "[SEP]"]
    assert two["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    # The ideograph is a word by itself, the snowman is in no text.
    assert tokenizer.tokenize("a東a \u2603") == ["a", "東", "a", "[UNK]"]
    assert "##東" not in tokenizer.vocab and "##." not in tokenizer.vocab and "##é" in tokenizer.vocab
    # ASCII is all there, in the text or not.
    assert tokenizer.unk_token not in tokenizer.tokenize("".join(map(chr, range(33, 127))))


def test_byte_level_bpe_is_robertas(made):
    tokenizer = AutoTokenizer.from_pretrained(made("bpe", False))
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(BPE_SPECIALS)
    assert (tokenizer.bos_token_id, tokenizer.cls_token_id) == (0, 0)
    assert (tokenizer.eos_token_id, tokenizer.sep_token_id) == (2, 2)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (1, 3, 4)
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    both = tokenizer("a", "b")
    assert tokenizer.convert_ids_to_tokens(both["input_ids"]) == ["<s>", "Ġa", "</s>", "</s>", "Ġb", "</s>"]
    masked = tokenizer("a <mask> b", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(masked) == ["Ġa", "<mask>", "Ġb"]  # the mask takes the space before it
    for text in TRICKY[:3]:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == " " + text
    # A word among words has the pieces that it has in the text.
    words = corpus()[0][:-1].split()
    ours = load_tokenizer(made("bpe", False))
    pieces = [piece for word in encode_words(ours, [words])[0] for piece in word]
    assert pieces == ours(" ".join(words), add_special_tokens=False)["input_ids"]


def test_bpe_has_the_merges_of_the_library_itself(made):
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, min_frequency=2, special_tokens=list(BPE_SPECIALS), initial_alphabet=alphabet
    )
    plain.train_from_iterator(corpus(), trainer)
    assert AutoTokenizer.from_pretrained(made("bpe", False)).vocab == plain.get_vocab()


def test_a_piece_is_the_most_frequent_pair(tmp_path):
    texts = ["xyz xyz xyz xy"] * 3
    train_tokenizer(texts, kind="wordpiece", vocab_size=1000, lowercase=False, output=tmp_path / "w")
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "w").vocab
    merged = sorted((piece for piece in vocabulary if len(piece.removeprefix("##")) > 1), key=vocabulary.get)
    assert [piece for piece in merged if piece not in WORDPIECE_SPECIALS] == ["xy", "xyz"]
    assert max(vocabulary.values()) == len(vocabulary) - 1


LEARN = """
import json, pathlib, sys
from jaxfm.data.corpora.tokenizer_training import train_tokenizer
texts = json.load(sys.stdin)
for kind in ("wordpiece", "bpe"):
    train_tokenizer(texts, kind=kind, vocab_size=420, lowercase=False, output=pathlib.Path(sys.argv[1], kind))
"""


def test_the_same_text_gives_the_same_files_in_another_process(tmp_path):
    digests = set()
    for run in range(3):
        subprocess.run(
            [sys.executable, "-c", LEARN, str(tmp_path / str(run))],
            input=json.dumps(corpus()),
            text=True,
            check=True,
            cwd=pathlib.Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": str(run), "TOKENIZERS_PARALLELISM": "true" if run else "false"},
        )
        data = b"".join(path.read_bytes() for path in sorted((tmp_path / str(run)).rglob("*.json")))
        digests.add(hashlib.sha256(data).hexdigest())
    assert len(digests) == 1


def test_the_library_alone_is_not_that_reproducible():
    """If this fails, the work-around in `_learn_wordpiece` may go."""
    vocabularies = set()
    for _ in range(10):
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"], show_progress=False)
        tokenizer.train_from_iterator(corpus(), trainer)
        vocabularies.add(tuple(sorted(tokenizer.get_vocab().items())))
    assert len(vocabularies) > 1


def test_characters_are_counted_without_white_space():
    assert count_characters(["ab a\n", "", "\U0001f600b\u3000"]) == {"a": 2, "b": 2, "\U0001f600": 1}


def test_words_that_wordpiece_never_matches_teach_it_nothing(tmp_path):
    texts = ["q" * 101 + " " + "z" * 100] * 5
    train_tokenizer(texts, kind="wordpiece", vocab_size=1000, lowercase=False, output=tmp_path / "w")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "w")
    assert tokenizer.tokenize(texts[0]) == ["[UNK]", "z" * 100]
    assert not any("qq" in piece for piece in tokenizer.vocab)


def test_long_words_are_learned_from_in_parts(tmp_path, monkeypatch):
    # The trainer takes the square of a word's length: it sees parts of a long one, the tokenizer all of it.
    monkeypatch.setattr(tokenizer_training, "_LEARNED_CHARACTERS", 4)
    word = "abcdefghijkl"
    train_tokenizer([word] * 5, kind="bpe", vocab_size=900, lowercase=False, output=tmp_path / "w")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "w")
    assert tokenizer.tokenize(word) == ["Ġabc", "defg", "hijk", "l"]
    assert json.loads(tokenizer.backend_tokenizer.pre_tokenizer.__getstate__())["type"] == "ByteLevel"


def test_the_rarest_characters_are_left_out_of_a_wordpiece_alphabet(tmp_path):
    texts = ["é " * 50_000, "ø " * 100, "ł"]
    train_tokenizer(texts, kind="wordpiece", vocab_size=1000, lowercase=False, output=tmp_path / "w")
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "w").vocab
    assert "é" in vocabulary and "ø" in vocabulary and "ł" not in vocabulary


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a"], {"kind": "wordpeice"}, r"kind='wordpeice': .* Did you mean 'wordpiece'"),
        (["a"], {"kind": "wordpiece", "vocab_size": 100}, r"vocab_size=100 is too small: .*94 characters.* \d+ pieces"),
        (["a"], {"kind": "bpe", "vocab_size": 260}, r"vocab_size=260 is too small: .*256 bytes alone take 261 pieces"),
        ([], {"kind": "bpe"}, "no text to learn a tokenizer from"),
        (["", " \n"], {"kind": "wordpiece"}, "no text to learn a tokenizer from"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, texts, options, message):
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts, **{"vocab_size": 1000, "lowercase": False, "output": tmp_path / "t"} | options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    options = {"kind": "bpe", "vocab_size": 300, "lowercase": False}
    (tmp_path / "empty").mkdir()
    train_tokenizer(["a b"], **options, output=tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file"):
        with pytest.raises(UserError, match=f"{name}: is there already. Name a new directory"):
            train_tokenizer(["a b"], **options, output=tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
