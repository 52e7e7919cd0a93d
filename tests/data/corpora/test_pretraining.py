"""Text to rows for pretraining: on the fly and prepared before, learned tokenizers, and what does not fit together."""

import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from jaxfm.config import DataConfig
from jaxfm.data.corpora import pretraining
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.pretraining import PretrainingData, open_pretraining, open_split
from jaxfm.data.corpora.shards import MANIFEST, ShardedRows
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.programs.prepare import prepare
from tests import tiny

ROW = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A corpus of text, one tokenizer and another."""
    folder = tmp_path_factory.mktemp("pretraining")
    tiny.write_text(folder / "text")
    tiny.write_tokenizer(folder / "tokenizer")
    tiny.write_tokenizer(folder / "other")
    (folder / "other" / "vocab.txt").write_text("\n".join([*tiny.PIECES[:5], *tiny.VOCABULARY[:4:-1]]) + "\n")
    return folder


def data(folder: pathlib.Path, **changes: Any) -> DataConfig:
    values = {"source": f"text:{folder / 'text'}", "row_length": ROW, "cache": str(folder / "cache")}
    return DataConfig(**{**values, **changes})


def opened(folder: pathlib.Path, **changes: Any) -> PretrainingData:
    return open_pretraining(data(folder, **changes), "", folder / "tokenizer")


def texts(rows: ShardedRows, tokenizer: Any) -> list[str]:
    """The pieces of every segment without special tokens, in one string each."""
    batch = rows.take(np.arange(len(rows)))
    found = []
    for tokens, segments in zip(batch["tokens"], batch["segment_ids"], strict=True):
        for segment in range(1, segments.max() + 1):
            pieces = tokenizer.convert_ids_to_tokens(tokens[segments == segment].tolist())
            assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"
            found.append(" ".join(pieces[1:-1]))
    return found


def files_of(place: pathlib.Path) -> dict[pathlib.Path, int]:
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}


# Plain text.


def test_rows_hold_the_text_of_their_split(folder: pathlib.Path) -> None:
    found = opened(folder)
    assert tuple(found.rows) == ("train", "valid", "test") and found.tokenizer == folder / "tokenizer"
    tokenizer = load_tokenizer(folder / "tokenizer")
    corpus = open_corpus(f"text:{folder / 'text'}")
    for split, rows in found.rows.items():
        assert rows.row_length == ROW and rows.pad_id == tokenizer.pad_token_id
        documents = [" ".join(tokenizer.tokenize(document.text)) for document in corpus.splits[split]()]
        if split == "train":
            documents = list(dict.fromkeys(documents))  # equal ones are left out
        assert sorted(" ".join(texts(rows, tokenizer)).split()) == sorted(" ".join(documents).split())
        assert any(note.startswith(f"{split}: {len(rows):,} rows of {ROW} tokens") for note in found.notes)
    counts = found.token_counts(tiny.ENCODER.vocab_size)
    batch = found.rows["train"].take(np.arange(len(found.rows["train"])))
    real = batch["tokens"][(batch["segment_ids"] > 0) & (batch["tokens"] > 4)]
    np.testing.assert_array_equal(counts, np.bincount(real, minlength=tiny.ENCODER.vocab_size))


def test_what_is_prepared_is_found_again_by_its_content(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first = opened(folder)
    before = files_of(folder / "cache")
    again = opened(folder)
    assert files_of(folder / "cache") == before
    assert {split: rows.fingerprint() for split, rows in again.rows.items()} == {
        split: rows.fingerprint() for split, rows in first.rows.items()
    }
    # The same text elsewhere is the same content; another row length or another text is not.
    shutil.copytree(folder / "text", tmp_path / "text")
    opened(folder, source=f"text:{tmp_path / 'text'}")
    assert files_of(folder / "cache") == before
    opened(folder, row_length=32)
    longer = files_of(folder / "cache")
    assert set(longer) > set(before)
    path = tmp_path / "text" / "train.txt"
    path.write_text(path.read_text() + "\n\nemmy saw the town\n")
    changed = opened(folder, source=f"text:{tmp_path / 'text'}")
    assert changed.rows["train"].fingerprint() != first.rows["train"].fingerprint()
    assert changed.rows["valid"].fingerprint() == first.rows["valid"].fingerprint()


def test_a_share_is_held_out_where_there_is_no_validation_split(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tiny.write_text(tmp_path / "text", {"train": 60})
    source = f"text:{tmp_path / 'text'}"
    found = opened(folder, source=source, holdout=0.3)
    assert tuple(found.rows) == ("train", "valid")
    tokenizer = load_tokenizer(folder / "tokenizer")
    train, valid = (set(texts(found.rows[split], tokenizer)) for split in ("train", "valid"))
    assert train and valid and not train & valid
    assert set(opened(folder, source=source, holdout=0.0).rows) == {"train"}
    few = opened(folder, source=source, holdout=0.0001).rows["valid"]
    assert len(texts(few, tokenizer)) == 1 and any(
        "at least one" in note for note in opened(folder, source=source).notes
    )
    (tmp_path / "text" / "train.txt").write_text("ada met boole\n")
    with pytest.raises(UserError, match="it has one document, so none can be held out"):
        opened(folder, source=source)


def test_text_that_the_tokenizer_does_not_know_is_said(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tiny.write_text(tmp_path / "text", {"train": 60})
    known = opened(folder, source=f"text:{tmp_path / 'text'}", holdout=0.0)
    assert not any("unknown" in note for note in known.notes)
    path = tmp_path / "text" / "train.txt"
    # One long word is one unknown token: few tokens, much text.
    path.write_text(path.read_text() + "\n\n" + "met in\n" * 300 + "x" * 4000)
    notes = opened(folder, source=f"text:{tmp_path / 'text'}", holdout=0.0).notes
    (warning,) = (note for note in notes if "WARNING" in note)
    assert "of the pieces are the unknown token, which holds" in warning and "more than 100 letters" in warning
    share = float(warning.split("which holds ")[1].split("%")[0])
    assert 30 < share < 70 and float(warning.split("train: ")[1].split("%")[0]) < 1
    path.write_text("".join(f"\u4e2d\u56fd {number}\n\n" for number in range(30)))
    notes = opened(folder, source=f"text:{tmp_path / 'text'}", holdout=0.0).notes
    assert any("100.0% of the pieces are the unknown token, which holds" in note for note in notes)


def test_one_split_for_evaluation(folder: pathlib.Path) -> None:
    rows = open_split(data(folder), "valid", folder / "tokenizer")
    assert rows.fingerprint() == opened(folder).rows["valid"].fingerprint()
    with pytest.raises(UserError, match="Did you mean 'test'"):
        open_split(data(folder), "tset", folder / "tokenizer")
    with pytest.raises(UserError, match="has no split 'test'; it has: train"):
        open_split(data(folder, source=f"text:{folder / 'text' / 'train.txt'}", holdout=0.0), "test", folder)


def test_the_cache_has_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert pretraining.cache_folder(DataConfig()) == tmp_path / "jaxfm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretraining.cache_folder(DataConfig()) == tmp_path / ".cache" / "jaxfm"
    assert pretraining.cache_folder(DataConfig(cache="~/rows")) == tmp_path / "rows"


# Learned tokenizers.


def test_a_tokenizer_is_learned_once_for_each_text(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    own = data(folder, cache=str(tmp_path))
    first = open_pretraining(own, "train:wordpiece/220", None)
    assert first.tokenizer.parent == tmp_path / "tokenizers" and len(load_tokenizer(first.tokenizer)) <= 220
    assert any("learned from the training text (train:wordpiece/220)" in note for note in first.notes)
    before = files_of(tmp_path)
    assert open_pretraining(own, "train:wordpiece/220", None).tokenizer == first.tokenizer
    assert files_of(tmp_path) == before
    other = open_pretraining(own, "train:bpe/300", None)
    assert other.tokenizer != first.tokenizer
    assert load_tokenizer(other.tokenizer).convert_tokens_to_ids("<mask>") == 4


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "an encoder from scratch needs dir:PATH"),
        ("train:wordpiece", "an encoder from scratch needs dir:PATH"),
        ("train:wordpiece/many", "train:wordpiece/SIZE or train:bpe/SIZE"),
        ("train:wordpeice/300", "Did you mean 'wordpiece'?"),
        ("train:wordpiece/20", "is too small"),
    ],
)
def test_a_tokenizer_that_cannot_be_learned(folder: pathlib.Path, tmp_path: pathlib.Path, uri: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_pretraining(data(folder, cache=str(tmp_path)), uri, None)
    assert words in str(caught.value)
    assert not files_of(tmp_path)


def test_weights_have_their_tokenizer(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match="'train:bpe/300' learns a vocabulary, but the weights have theirs already"):
        open_pretraining(data(folder), "train:bpe/300", folder / "tokenizer")


def test_windows_have_rows_of_their_own_where_nothing_is_packed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    packed = opened(folder).rows["train"]
    alone = opened(folder, packed=False).rows["train"]
    assert alone.take(np.arange(len(alone)))["segment_ids"].max() == 1 and len(alone) > len(packed)
    tokenizer = load_tokenizer(folder / "tokenizer")
    assert sorted(texts(alone, tokenizer)) == sorted(texts(packed, tokenizer))
    # Prepared before: rows must be such as the config promises.
    of, known = f"text:{folder / 'text'}", f"dir:{folder / 'tokenizer'}"
    for name, one in (("alone", False), ("packed", True)):
        prepare(of, tmp_path / name, known, row_length=ROW, deduplicate="exact", packed=one)
    found = opened(folder, source=f"array_record:{tmp_path / 'alone'}", packed=False).rows["train"]
    assert found.fingerprint() == alone.fingerprint()
    assert (
        opened(folder, source=f"array_record:{tmp_path / 'alone'}").rows["train"].fingerprint() == alone.fingerprint()
    )
    with pytest.raises(UserError, match="config.data.packed: is False, but .*/packed was prepared .*--nopacked"):
        opened(folder, source=f"array_record:{tmp_path / 'packed'}", packed=False)


# Text prepared before.


@pytest.fixture(scope="module")
def prepared(folder: pathlib.Path) -> pathlib.Path:
    """A folder of the prepared splits train and valid."""
    for split in ("train", "valid"):
        prepare(
            f"text:{folder / 'text'}",
            folder / "prepared" / split,
            f"dir:{folder / 'tokenizer'}",
            split=split,
            row_length=ROW,
        )
    return folder / "prepared"


def test_every_form_of_prepared_text(folder: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    both = opened(folder, source=f"array_record:{prepared}")
    assert set(both.rows) == {"train", "valid"} and both.tokenizer == folder / "tokenizer"
    named = opened(folder, source=f"array_record:train={prepared / 'train'},valid={prepared / 'valid'}")
    alone = opened(folder, source=f"array_record:{prepared / 'train'}")
    assert set(alone.rows) == {"train"}
    for found in (named, alone):
        for split, rows in found.rows.items():
            assert rows.fingerprint() == both.rows[split].fingerprint()
    assert not (folder / "prepared" / "cache").exists()
    # Without weights the tokenizer is the one the text was prepared with.
    scratch = open_pretraining(data(folder, source=f"array_record:{prepared}"), "train:wordpiece/8192", None)
    assert scratch.tokenizer == prepared / "train" / "tokenizer"
    assert any("the one that the text was prepared with" in note for note in scratch.notes)
    # A folder may be called like a choice.
    odd = tmp_path / "lang=en"
    shutil.copytree(prepared, odd)
    assert set(opened(folder, source=f"array_record:{odd}").rows) == {"train", "valid"}
    rows = open_split(data(folder, source=f"array_record:{prepared}"), "valid", folder / "tokenizer")
    assert rows.fingerprint() == both.rows["valid"].fingerprint()
    with pytest.raises(UserError, match="has no split 'test'"):
        open_split(data(folder, source=f"array_record:{prepared}"), "test", folder / "tokenizer")


def test_prepared_text_that_does_not_fit_is_refused(
    folder: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def message(source: str, tokenizer: pathlib.Path = folder / "tokenizer", **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            open_pretraining(data(folder, source=source, **changes), "", tokenizer)
        return str(caught.value)

    said = message(f"array_record:{prepared}", row_length=32)
    assert said.startswith("config.data.row_length: is 32") and f"--config.data.row_length={ROW}" in said
    said = message(f"array_record:{prepared}", folder / "other")
    assert said.startswith(f"{prepared / 'train'}: was prepared with another tokenizer than {folder / 'other'}")
    for source in (tmp_path, prepared / "valid" / "nothing", f"valid={prepared / 'valid'}"):
        assert "no prepared training text" in message(f"array_record:{source}")
    assert "Did you mean 'train'" in message(f"array_record:trian={prepared / 'train'}")
    # Stopped before its end: there is no manifest.
    shutil.copytree(prepared / "train", tmp_path / "half")
    (tmp_path / "half" / MANIFEST).unlink()
    assert "no prepared training text" in message(f"array_record:{tmp_path / 'half'}")
    assert f"{tmp_path / 'half' / MANIFEST}: absent" in message(f"array_record:train={tmp_path / 'half'}")


def test_flipped_bytes_are_named(folder: pathlib.Path, prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(prepared / "train", tmp_path / "train")
    (shard,) = (tmp_path / "train").glob("*.array_record")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    os.utime(shard)
    with pytest.raises(UserError) as caught:
        opened(folder, source=f"array_record:{tmp_path / 'train'}")
    assert str(caught.value).startswith(f"{shard}: its bytes have changed since it was written")
