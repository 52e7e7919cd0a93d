import pathlib
import random

import numpy as np
import pytest

from jaxfm import files
from jaxfm.data.corpora import portions, shards
from jaxfm.data.corpora.portions import (
    Portion,
    ShardMaker,
    Vocabulary,
    cut_windows,
    encode,
    open_backend,
    vocabulary_of,
)
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from tests import tiny

CLS, SEP = 901, 902
VOCABULARY = Vocabulary(1000, CLS, SEP, 0, 903, 904, "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory as preparation begins it: with a tokenizer."""
    folder = tmp_path_factory.mktemp("portions")
    tiny.write_tokenizer(folder / "source")
    load_tokenizer(folder / "source").save_pretrained(folder / shards.TOKENIZER_DIR)
    (folder / portions.RECORDS_DIR).mkdir()
    return folder


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = [*tiny.FILLERS, *tiny.NAMES["PER"], *tiny.NAMES["LOC"]]
    return [" ".join(draw.choices(words, k=draw.choice((1, 3, 10, 40, 200)))) for _ in range(count)]


@pytest.mark.parametrize("row_length", [3, 8, 64])
def test_windows_hold_every_piece_once_and_in_order(row_length: int) -> None:
    draw = np.random.default_rng(row_length)
    width = row_length - 2
    lengths = np.concatenate([[0, 1, width, width + 1, 3 * width, 0, 0], draw.integers(0, 200, 50), [0]])
    documents = [draw.integers(0, 900, length).astype("<u2") for length in lengths]
    tokens, sizes = cut_windows(np.concatenate(documents), lengths, row_length, VOCABULARY)
    assert tokens.dtype == np.dtype("<u2")
    got = np.split(tokens, np.cumsum(sizes)[:-1])
    want = [
        [CLS, *document[first : first + width].tolist(), SEP]
        for document in documents
        for first in range(0, len(document), width)
    ]
    assert [window.tolist() for window in got] == want


def test_documents_without_a_piece_make_no_window() -> None:
    tokens, sizes = cut_windows(np.zeros(0, "<u2"), np.zeros(3, np.int64), 8, VOCABULARY)
    assert len(tokens) == len(sizes) == 0


def test_pieces_are_those_of_transformers(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "_CALL_CHARACTERS", 300)  # several calls, and texts longer than one
    monkeypatch.setattr(portions, "_CALL_DOCUMENTS", 7)
    content = [*texts(60), "\u0001", *texts(3, seed=1)]
    pieces, lengths = encode(open_backend(folder / shards.TOKENIZER_DIR), content, np.dtype("<u2"))
    oracle = load_tokenizer(folder / "source")
    want = oracle(content, add_special_tokens=False, verbose=False)["input_ids"]
    assert lengths.tolist() == [len(ids) for ids in want]
    assert lengths[60] == 0  # a control character alone
    assert pieces.tolist() == [piece for ids in want for piece in ids]


def test_special_tokens_in_a_text_are_text(folder: pathlib.Path) -> None:
    pieces, _ = encode(open_backend(folder / shards.TOKENIZER_DIR), ["met [MASK] [SEP] ada"], np.dtype("<u2"))
    special = {tiny.VOCABULARY.index(sign) for sign in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")}
    assert not special & set(pieces.tolist())
    assert len(pieces) > 2


def test_characters_in_unknown_tokens(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = open_backend(folder / shards.TOKENIZER_DIR)
    unknown = tiny.VOCABULARY.index("[UNK]")
    content = ["met in", "x" * 150 + " met", "met \u00c6\u00d8 met", ""]
    assert portions.unknown_characters(tokenizer, content, unknown) == (152, sum(map(len, content)))
    assert portions.unknown_characters(tokenizer, content, None) == (0, 0)
    assert portions.unknown_characters(tokenizer, [], unknown) == (0, 0)
    # A sample of many: every so many texts, so that a part of the corpus alone does not decide.
    monkeypatch.setattr(portions, "_SAMPLE_CHARACTERS", 1000)
    part, whole = portions.unknown_characters(tokenizer, ["met", "\u00c6\u00d8\u00c6"] * 1001, unknown)
    assert 800 < whole < 1100 and 0.3 < part / whole < 0.7


def test_a_shard_holds_the_text_of_its_portion(folder: pathlib.Path) -> None:
    vocabulary = vocabulary_of(load_tokenizer(folder / "source"), "here")
    assert vocabulary.size == len(tiny.VOCABULARY)
    content = [*texts(80), "\u0001", "met ÆØ met"]
    record = ShardMaker(folder, vocabulary, row_length=24, seed=0)(Portion(3, content, "ab" * 32))
    name = shards.shard_name(3)
    assert record == files.read_json(portions.record_path(folder, name))
    assert (record["index"], record["shard"]["name"], record["source_sha256"]) == (3, name, "ab" * 32)
    assert record["text_bytes"] == sum(len(text.encode()) for text in content)

    pieces, lengths = encode(open_backend(folder / shards.TOKENIZER_DIR), content, np.dtype("<u2"))
    counts = np.load(portions.counts_path(folder, name), allow_pickle=False)
    np.testing.assert_array_equal(counts, np.bincount(pieces, minlength=vocabulary.size))
    assert record["pieces"] == len(pieces)
    assert record["unknown_characters"] == [2, sum(map(len, content))]
    assert record["unknown"] == 1 == counts[tiny.VOCABULARY.index("[UNK]")]
    histogram = np.asarray(record["histogram"])
    assert histogram.sum() == len(content) and histogram[0] == 1
    for bin_, count in enumerate(histogram[1:], 1):
        assert count == np.count_nonzero((lengths >= 2 ** (bin_ - 1)) & (lengths < 2**bin_))

    rows = read_rows(folder, vocabulary, record)
    segments = [
        row["tokens"][row["segment_ids"] == segment].tolist()
        for row in rows
        for segment in range(1, row["segment_ids"].max() + 1)
    ]
    tokens, sizes = cut_windows(pieces, lengths, 24, vocabulary)
    want = [window.tolist() for window in np.split(tokens, np.cumsum(sizes)[:-1])]
    assert sorted(segments) == sorted(want)
    assert segments != want  # a row mixes neighbours


def read_rows(folder: pathlib.Path, vocabulary: Vocabulary, record: dict) -> list[dict[str, np.ndarray]]:
    counts = shards.write_token_counts(folder / shards.TOKEN_COUNTS, np.zeros(vocabulary.size))
    content = {"row_length": 24, "vocab_size": vocabulary.size, "pad_id": vocabulary.pad_id, "useful_share": 1.0}
    shards.write_manifest(folder, content | {"token_counts_sha256": counts, "shards": [record["shard"]]})
    rows = shards.ShardedRows(folder)
    return [{name: values[0] for name, values in rows.take(np.asarray([row])).items()} for row in range(len(rows))]


def test_a_portion_is_the_same_bytes_whoever_makes_it_and_another_with_another_seed(folder: pathlib.Path) -> None:
    vocabulary = vocabulary_of(load_tokenizer(folder / "source"), "here")
    portion = Portion(7, texts(50), "")
    first, second, other = (ShardMaker(folder, vocabulary, 24, seed)(portion)["shard"] for seed in (1, 1, 2))
    assert first["sha256"] == second["sha256"] != other["sha256"]
    assert first["tokens"] == other["tokens"]


def test_the_vocabulary_is_known_by_all_that_decides_on_pieces(tmp_path: pathlib.Path) -> None:
    def digest(name: str, lines: tuple[str, ...], lower: str = "true") -> str:
        tiny.write_tokenizer(tmp_path / name)
        (tmp_path / name / "vocab.txt").write_text("\n".join(lines) + "\n")
        config = f'{{"tokenizer_class": "BertTokenizer", "do_lower_case": {lower}, "model_max_length": 77}}'
        (tmp_path / name / "tokenizer_config.json").write_text(config)
        return vocabulary_of(load_tokenizer(tmp_path / name), name).sha256

    swapped = (*tiny.VOCABULARY[:-2], tiny.VOCABULARY[-1], tiny.VOCABULARY[-2])
    tiny.write_tokenizer(tmp_path / "plain")
    plain = vocabulary_of(load_tokenizer(tmp_path / "plain"), "plain").sha256
    assert digest("a", tiny.VOCABULARY) == plain  # a longest length changes no piece
    assert len({plain, digest("b", swapped), digest("c", tiny.VOCABULARY, "false")}) == 3


def test_a_tokenizer_without_the_special_tokens_is_refused(tmp_path: pathlib.Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"met": 0, "[PAD]": 1, "[UNK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    with pytest.raises(
        UserError, match=r"^gpt: .* no \[CLS\] \(cls_token\), \[SEP\] \(sep_token\), \[MASK\] \(mask_token\);"
    ):
        vocabulary_of(tokenizer, "gpt")


def test_packing_of_a_portion_leaves_little_padding(folder: pathlib.Path) -> None:
    vocabulary = vocabulary_of(load_tokenizer(folder / "source"), "here")
    record = ShardMaker(folder, vocabulary, 64, 0)(Portion(8, texts(300), ""))["shard"]
    least = -(-record["tokens"] // 64)
    assert least <= record["rows"] <= 1.1 * least
