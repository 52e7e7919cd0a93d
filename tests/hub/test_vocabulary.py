"""Rows are added for what a tokenizer has learned, kept where it has fewer entries, and refused where it is another."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from jaxfm.config import ModelConfig
from jaxfm.core.encoder_config import has_padded_rows
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.initial import resolve
from jaxfm.hub.vocabulary import fit_vocabulary, new_rows, with_entries
from jaxfm.hub.weights import read_checkpoint, write_tensors
from tests import tiny

WORDS = "encoder/embeddings/word/embedding"
ROWS = tiny.ENCODER.vocab_size
NEW = [f"new{i}" for i in range(40)]  # past the padded rows, too


def grown(folder: pathlib.Path, own: pathlib.Path, count: int = len(NEW)) -> int:
    """Saves the tokenizer of `own` with so many entries that `count` lie beyond the rows; returns its entries."""
    tokenizer = load_tokenizer(own)
    tokenizer.add_tokens([f"fill{i}" for i in range(ROWS - len(tokenizer))] + NEW[:count])
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


@pytest.fixture
def weights(tmp_path: pathlib.Path) -> pathlib.Path:
    """Masked-LM weights with their tokenizer."""
    tiny.write_masked_lm_weights(tmp_path / "weights")
    tiny.write_tokenizer(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("place", ["beside the weights", "elsewhere"])
def test_rows_are_added_for_a_grown_tokenizer(place: str, weights: pathlib.Path, tmp_path: pathlib.Path) -> None:
    before = read_checkpoint(weights).arrays()
    folder = weights if place == "beside the weights" else tmp_path / "grown"
    entries = grown(folder, weights)
    assert entries == ROWS + 40 > tiny.ENCODER.padded_vocab_size
    initial = resolve(ModelConfig(init=f"dir:{weights}", tokenizer="" if folder == weights else f"dir:{folder}"))
    assert initial.encoder.vocab_size == entries and initial.encoder.padded_vocab_size == 256
    assert f"the tokenizer has {entries} entries, the weights {ROWS} rows: 40 rows are added" in initial.notes[-1]
    assert set(initial.params) == set(before)
    for name, value in before.items():
        after = np.asarray(initial.params[name])
        if not has_padded_rows(name):
            np.testing.assert_array_equal(after, value)
            continue
        assert len(after) == 256 and not after[entries:].any()
        np.testing.assert_array_equal(after[:ROWS], value[:ROWS])
        mean = np.broadcast_to(value[:ROWS].mean(axis=0), after[ROWS:entries].shape)
        np.testing.assert_allclose(after[ROWS:entries], mean, atol=1e-3 * value[:ROWS].std())
    rows = np.asarray(initial.params[WORDS])[ROWS:entries]
    assert len(np.unique(rows, axis=0)) == 40  # no two new words are the same to the optimizer
    again = resolve(ModelConfig(init=f"dir:{weights}", tokenizer="" if folder == weights else f"dir:{folder}"))
    np.testing.assert_array_equal(np.asarray(again.params[WORDS]), np.asarray(initial.params[WORDS]))

    write_tensors(tmp_path / "model.safetensors", initial.encoder, "vocabulary", initial.params)
    written = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert written["bert.embeddings.word_embeddings.weight"].shape == (entries, 32)
    assert written["cls.predictions.bias"].shape == (entries,)


def test_new_rows_have_the_mean_and_a_billionth_of_the_covariance_of_the_old() -> None:
    draw = np.random.default_rng(0)
    table = (draw.normal(size=(500, 3)) @ draw.normal(size=(3, 3)) + [1, -2, 30]).astype(np.float32)
    rows = new_rows(table, 100_000).astype(np.float64)
    wanted = 1e-9 * np.cov(table.astype(np.float64), rowvar=False, bias=True)
    noise = rows - table.mean(axis=0, dtype=np.float64)
    # f32 rounds to 2e-6 at 30: looked at where the numbers are near 1.
    np.testing.assert_allclose(np.cov(noise[:, :2], rowvar=False), wanted[:2, :2], rtol=0.03, atol=1e-11)
    np.testing.assert_allclose(rows.mean(axis=0), table.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_array_equal(new_rows(np.asarray([1, 2, 6], np.float32), 2), np.asarray([3, 3], np.float32))


def test_rows_are_added_to_rows_that_were_added(weights: pathlib.Path) -> None:
    grown(weights, weights)
    initial = resolve(ModelConfig(init=f"dir:{weights}"))
    entries = initial.encoder.vocab_size
    encoder, params = with_entries(initial.encoder, initial.params, entries + 3)
    before, after = np.asarray(initial.params[WORDS]), np.asarray(params[WORDS])
    assert encoder.vocab_size == entries + 3 and len(after) == encoder.padded_vocab_size
    np.testing.assert_array_equal(after[:entries], before[:entries])
    mean = np.broadcast_to(before[:entries].mean(axis=0), (3, before.shape[1]))
    np.testing.assert_allclose(after[entries : entries + 3], mean, atol=1e-3 * before[:entries].std())
    assert after[entries : entries + 3].any() and not after[entries + 3 :].any()


def test_rows_without_an_entry_are_kept_and_said(weights: pathlib.Path) -> None:
    entries = len(load_tokenizer(weights))
    assert entries < ROWS
    initial = resolve(ModelConfig(init=f"dir:{weights}"))
    assert initial.encoder.vocab_size == ROWS
    kept = f"vocabulary: the weights have {ROWS} rows, the tokenizer {entries} entries; all rows are kept"
    assert initial.notes[-1] == kept


def test_nothing_is_said_where_they_agree_or_there_is_no_tokenizer(
    weights: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    params = read_checkpoint(weights).arrays()
    assert grown(tmp_path / "even", weights, 0) == ROWS
    for folder in (tmp_path / "even", tmp_path):
        encoder, same, notes = fit_vocabulary(tiny.ENCODER, params, folder, weights)
        assert (encoder, same, notes) == (tiny.ENCODER, params, ())


def test_entries_that_moved_are_of_another_model(weights: pathlib.Path, tmp_path: pathlib.Path) -> None:
    grown(tmp_path / "grown", weights)
    path = tmp_path / "grown" / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    one, other = [piece for piece in vocabulary if piece.isalpha()][:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        resolve(ModelConfig(init=f"dir:{weights}", tokenizer=f"dir:{tmp_path / 'grown'}"))
    assert str(caught.value).startswith(
        f"{tmp_path / 'grown'}: the tokenizer has {ROWS + 40} entries, the word embedding {ROWS} rows, and 2 of the "
    )
    assert "they are not of the same model" in str(caught.value)


def test_a_larger_vocabulary_beside_the_weights_must_be_of_added_tokens(weights: pathlib.Path) -> None:
    load_tokenizer(weights).save_pretrained(weights)  # in one file
    path = weights / "tokenizer.json"
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary |= {f"x{number}": number for number in range(len(vocabulary), ROWS + 3)}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"3 entries beyond the rows are not added ones .*not of the same model"):
        resolve(ModelConfig(init=f"dir:{weights}"))
