"""Cut tokenizers of every kind: the same pieces of the texts whose entries are kept, and pieces of any other text."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxfm.data.corpora.tokenizer_training import train_tokenizer
from jaxfm.data.text.tokenization import encode_words, load_tokenizer
from jaxfm.data.text.vocabulary_cut import cut_tokenizer
from jaxfm.errors import UserError

LEARNED = [
    "the quick foxes jumped over seventeen lazy hounds, jumping; don't jump!",
    "a transformer encoder attends to every token of its sentence at once",
    "pruned vocabularies are smaller than those that nobody has pruned yet",
    "Zürich and São Paulo are cities, naïve readers read naïvely",
] * 20
SEEN = ["the foxes don't attend to hounds", "Zürich, pruned at once!", "every sentence of readers", "☃ the ☃☃ token"]
OTHER = ["transformer vocabularies jumping over São Paulo", "seventeen encoders", "qqq zzz xyz"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write(folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, **settings: Any) -> pathlib.Path:
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"]
    values = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(names, SPECIAL, strict=True)), **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def unigram(folder: pathlib.Path) -> pathlib.Path:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=[*SPECIAL[:-1], "[extra]"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(LEARNED, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return write(folder, tokenizer)


def suffixed_bpe(folder: pathlib.Path) -> pathlib.Path:
    """Pieces at the end of a word have a mark, as those of the text towers of pairs."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(LEARNED, trainer)
    tokenizer.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 0))
    return write(folder, tokenizer)


def roberta(folder: pathlib.Path) -> pathlib.Path:
    """A class of transformers that builds its tokenizer anew from the vocabulary and the merges."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LEARNED, trainer)
    return write(folder, tokenizer, tokenizer_class="RobertaTokenizer", cls_token="<s>", sep_token="</s>")


def words(folder: pathlib.Path) -> pathlib.Path:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(LEARNED, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return write(folder, tokenizer)


def learned(kind: str) -> Any:
    size = 420 if kind == "bpe" else 260
    return lambda folder: train_tokenizer(LEARNED, kind=kind, vocab_size=size, lowercase=False, output=folder)


def vocab_txt(folder: pathlib.Path) -> pathlib.Path:
    """The oldest form: a list of pieces in a text file, for a class of transformers."""
    whole = load_tokenizer(learned("wordpiece")(folder.with_name("learned"))).get_vocab()
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(sorted(whole, key=lambda piece: whole[piece])) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return folder


KINDS: dict[str, Any] = {
    "wordpiece": learned("wordpiece"),
    "vocab.txt": vocab_txt,
    "bpe": learned("bpe"),
    "bpe of a class": roberta,
    "bpe with suffixes": suffixed_bpe,
    "unigram": unigram,
    "words": words,
}


def text_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text)["input_ids"] for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_were_seen_have_the_same_pieces(kind: str, tmp_path: pathlib.Path) -> None:
    source = KINDS[kind](tmp_path / "whole")
    whole = load_tokenizer(source)
    as_words = [text.split() for text in SEEN]
    used = {number for ids in text_ids(whole, SEEN) for number in ids}
    used |= {number for ids in encode_words(whole, as_words) for word in ids for number in word}
    kept = cut_tokenizer(source, used, tmp_path / "cut")
    cut = load_tokenizer(tmp_path / "cut")
    assert used <= set(kept.tolist()) and len(used) < len(cut) == len(kept) < 0.9 * len(whole)
    for before, after in zip(text_ids(whole, SEEN), text_ids(cut, SEEN), strict=True):
        assert kept[after].tolist() == before
        assert cut.convert_ids_to_tokens(after) == whole.convert_ids_to_tokens(before)
    found = [[kept[word].tolist() for word in ids] for ids in encode_words(cut, as_words)]
    assert found == encode_words(whole, as_words)
    assert cut.pad_token == whole.pad_token and kept[cut.mask_token_id] == whole.mask_token_id
    assert cut.decode(cut(SEEN[0])["input_ids"]) == whole.decode(whole(SEEN[0])["input_ids"])
    if kind != "words":  # which knows whole words alone
        for text in OTHER:
            pieces = cut(text, add_special_tokens=False)["input_ids"]
            plain = whole(text, add_special_tokens=False)["input_ids"]
            unknown = whole.unk_token_id
            assert (cut.unk_token_id in pieces) == (unknown in plain)
            assert len(pieces) >= len(plain)
        longer = [len(cut(text)["input_ids"]) - len(whole(text)["input_ids"]) for text in OTHER]
        assert max(longer) > 0  # an entry that these texts need is gone


def test_a_cut_tokenizer_can_be_cut_again(tmp_path: pathlib.Path) -> None:
    source = unigram(tmp_path / "whole")
    first = cut_tokenizer(source, [10, 11], tmp_path / "one")
    second = cut_tokenizer(tmp_path / "one", range(len(first)), tmp_path / "two")
    np.testing.assert_array_equal(second, np.arange(len(first)))


def test_the_cost_of_what_is_unknown_stays(tmp_path: pathlib.Path) -> None:
    """Of a Unigram model it goes by the smallest score of all entries."""
    source = unigram(tmp_path / "whole")
    pieces = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    kept = cut_tokenizer(source, [0], tmp_path / "cut")
    assert int(np.argmin([score for _, score in pieces])) in kept


def test_other_kinds_are_refused(tmp_path: pathlib.Path) -> None:
    source = words(tmp_path / "whole")
    state = json.loads((source / "tokenizer.json").read_text())
    from jaxfm.data.text.vocabulary_cut import kept_entries

    with pytest.raises(UserError, match="a tokenizer of the kind 'Other' cannot be cut; .*WordPiece, BPE"):
        kept_entries({**state, "model": {"type": "Other"}}, [], "here")
