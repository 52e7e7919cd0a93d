"""Masks filled in and texts scored, against transformers on the same weights."""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.corpora.tokenizer_training import train_tokenizer
from jaxfm.data.text.masking import Masking, target_places
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.masked_lm.predictor import CANDIDATES, FillMask, MaskedPositions
from jaxfm.tasks.masked_lm.spec import MaskedLMSpec
from jaxfm.training.evaluation import Evaluator, whole_batches
from tests import tiny

# Twelve positions: longer texts are seen through a window of ten tokens.
ENCODER = dataclasses.replace(tiny.ENCODER, max_positions=12, initializer_range=0.3)
TEXTS = (
    "ada met [MASK] in the [MASK] town .",
    "the old town and gauss",
    "",
    "and",
    " \n ",
    "saw boole and left the town near the old arles [MASK] and went [MASK] in to the town near ghent . " * 2,
)


def spec_of(encoder: EncoderConfig) -> MaskedLMSpec:
    return MaskedLMSpec(encoder, Masking("token"), (0.15, 0.15), ("token",), row_length=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("filler")
    tiny.write_masked_lm_weights(folder, ENCODER, seed=3)
    return folder


@pytest.fixture(scope="module")
def filler(folder: pathlib.Path) -> FillMask:
    return FillMask(spec_of(ENCODER), load_tokenizer(folder))


@functools.cache
def evaluator(filler: FillMask, size: int) -> Evaluator:
    mesh = make_mesh(MeshConfig())
    graphdef, _ = build_abstract(lambda: filler.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), mesh)
    return Evaluator(filler.outputs, graphdef, mesh, size)


def results_of(filler: FillMask, texts: tuple[str, ...]) -> list[dict[str, Any]]:
    encoded = filler.encode([{"text": text} for text in texts])
    params = tiny.nested(tiny.random_masked_lm(filler.spec.encoder, seed=3))
    if not len(encoded.rows):
        return filler.decode(encoded, {})
    size = whole_batches(4, len(encoded.rows), make_mesh(MeshConfig()))
    return filler.decode(encoded, evaluator(filler, size)(params, encoded.rows))


@pytest.fixture(scope="module")
def results(filler: FillMask) -> list[dict[str, Any]]:
    return results_of(filler, TEXTS)


@pytest.fixture(scope="module")
def log_probabilities(folder: pathlib.Path) -> Any:
    """A function: token ids -> log-probabilities [T, V] over the tokenizer's entries, by transformers."""
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()

    def compute(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :, : len(tiny.VOCABULARY)]
            return torch.log_softmax(logits, -1).numpy()

    return compute


def windowed(filler: FillMask, ids: list[int], at: int) -> tuple[list[int], int]:
    """Ids framed by special tokens, ten of them around `at` if there are more; the place of `at` in it."""
    first = min(max(at - 5, 0), max(len(ids) - 10, 0))
    cls, sep = filler.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    window = [cls, *ids[first : first + 10], sep]
    return window, at - first + 1


def test_masks_are_filled_as_transformers_would(
    filler: FillMask, results: list[dict[str, Any]], log_probabilities: Any
) -> None:
    for text, result in zip(TEXTS, results, strict=True):
        assert result["text"] == text and ("masks" in result) == ("[MASK]" in text)
        ids = filler.tokenizer(text, add_special_tokens=False)["input_ids"]
        places = [at for at, number in enumerate(ids) if number == filler.tokenizer.mask_token_id]
        assert len(places) == len(result.get("masks", ())) == text.count("[MASK]")
        for at, mask in zip(places, result.get("masks", ()), strict=True):
            assert text[mask["start"] : mask["end"]] == "[MASK]"
            # The mask asked for; other masks of the text stay masks.
            window, place = windowed(filler, ids, at)
            wanted = log_probabilities(window)[place]
            best = np.argsort(-wanted)[:CANDIDATES]
            assert [candidate["token"] for candidate in mask["candidates"]] == [tiny.VOCABULARY[i] for i in best]
            np.testing.assert_allclose(
                [candidate["score"] for candidate in mask["candidates"]], np.exp(wanted[best]), atol=2e-6, rtol=1e-4
            )


def test_pseudo_perplexity_is_that_of_hiding_each_token_in_turn(
    filler: FillMask, results: list[dict[str, Any]], log_probabilities: Any
) -> None:
    for number in (1, 3):
        text, result = TEXTS[number], results[number]
        ids = filler.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [token["token"] for token in result["tokens"]] == filler.tokenizer.convert_ids_to_tokens(ids)
        scores = []
        for at, own in enumerate(ids):
            window, place = windowed(filler, ids, at)
            window[place] = filler.tokenizer.mask_token_id
            scores.append(log_probabilities(window)[place, own])
        np.testing.assert_allclose([token["log_probability"] for token in result["tokens"]], scores, atol=2e-4)
        assert result["pseudo_perplexity"] == pytest.approx(math.exp(-np.mean(scores)), rel=1e-3)
        for token in result["tokens"]:
            assert text[token["start"] : token["end"]] == token["token"].removeprefix("##")
    assert len(results[1]["tokens"]) > 5


def test_texts_without_tokens_have_no_perplexity(filler: FillMask, results: list[dict[str, Any]]) -> None:
    for number in (2, 4):
        assert results[number] == {"text": TEXTS[number], "tokens": [], "pseudo_perplexity": None}
        assert filler.lines(results[number])[1:] == ["  (no tokens)"]
    assert results_of(filler, ()) == []
    json.dumps(results, allow_nan=False)


def test_each_text_is_answered_whatever_comes_with_it(filler: FillMask, results: list[dict[str, Any]]) -> None:
    for text, wanted in zip(TEXTS[:2], results[:2], strict=True):
        (alone,) = results_of(filler, (text,))
        assert alone.keys() == wanted.keys()
        for key in ("masks", "tokens"):
            for own, other in zip(alone.get(key, ()), wanted.get(key, ()), strict=True):
                assert (own["start"], own["end"]) == (other["start"], other["end"])
                if key == "tokens":
                    assert own["log_probability"] == pytest.approx(other["log_probability"], abs=2e-4)
                else:
                    assert own["candidates"][0]["token"] == other["candidates"][0]["token"]


def test_lines_for_a_person(filler: FillMask, results: list[dict[str, Any]]) -> None:
    first = filler.lines(results[0])
    assert first[0] == TEXTS[0] and len(first) == 3
    best = results[0]["masks"][0]["candidates"][0]
    assert f"{best['token']} {best['score']:.3f}" in first[1]
    scored = filler.lines(results[1])
    assert f"{results[1]['pseudo_perplexity']:,.2f} over {len(results[1]['tokens'])} tokens" in scored[1]
    rarest = min(results[1]["tokens"], key=lambda token: token["log_probability"])
    assert scored[2].startswith(f"  least likely: {rarest['token']} ")


def test_the_mask_may_be_written_as_bert_does(tmp_path: pathlib.Path) -> None:
    text = " ".join(" ".join(words) for words, _ in tiny.sentences(40, 0))
    train_tokenizer([text, text], kind="bpe", vocab_size=300, lowercase=False, output=tmp_path / "bpe")
    tokenizer = load_tokenizer(tmp_path / "bpe")
    assert tokenizer.mask_token == "<mask>"
    filler = FillMask(spec_of(dataclasses.replace(ENCODER, vocab_size=len(tokenizer))), tokenizer)
    (ours, theirs) = filler.encode([{"text": "ada met [MASK] ."}, {"text": "ada met <mask> ."}]).positions
    assert dataclasses.replace(theirs, text=0) == ours and ours.target is None
    for result in results_of(filler, ("ada met [MASK] .",)):
        (mask,) = result["masks"]
        assert result["text"][mask["start"] : mask["end"]] == "<mask>"


def test_what_is_written_is_what_transformers_reads(filler: FillMask, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="transformers' models need it")
    transformers = pytest.importorskip("transformers")
    params = tiny.random_masked_lm(ENCODER, seed=3)
    filler.write_hf(tmp_path, params)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(model).__name__ == "BertForMaskedLM" and model.config.max_position_embeddings == 12
    head, size = model.cls.predictions, ENCODER.vocab_size
    np.testing.assert_array_equal(head.bias.detach().numpy(), params["decoder/bias"][:size])
    table = params["encoder/embeddings/word/embedding"]
    np.testing.assert_array_equal(head.decoder.weight.detach().numpy(), table[:size])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXTS[0])["input_ids"] == filler.tokenizer(TEXTS[0])["input_ids"]


def test_candidates_are_entries_of_the_tokenizer(filler: FillMask) -> None:
    # Rows of the embedding that no token uses (27 of 96) score best of all here, and are never offered.
    params = tiny.random_masked_lm(ENCODER, seed=3)
    params["decoder/bias"][len(tiny.VOCABULARY) :] += 100.0
    encoded = filler.encode([{"text": TEXTS[0]}])
    outputs = evaluator(filler, 4)(tiny.nested(params), encoded.rows)
    assert int(jax.numpy.max(outputs["tokens"])) < len(tiny.VOCABULARY)
    assert 0.1 < float(np.exp(outputs["best"][0, 0]).sum()) <= 1


def made_up(encoded: MaskedPositions) -> dict[str, np.ndarray]:
    """Outputs of no model: the place of each question is that of its label."""
    places, targets = target_places(jax.numpy.asarray(encoded.rows.labels), 16)
    values = np.asarray(targets)[..., None] * np.ones(CANDIDATES, np.int32)
    return {"place": np.asarray(places), "log_probability": -np.ones(places.shape), "best": -values, "tokens": values}


ODD = (
    "",
    "\n",
    "\u3000",
    "[MASK]",
    "[MASK]" * 40,
    "[MASK] " + "met " * 40 + "[MASK]",
    "met\0in",
    "\u0301",
    "\U0001f469\u200d\U0001f680",
    "中国",
    "[CLS] [SEP] [PAD]",
    "x" * 500,
)


@pytest.mark.parametrize("texts", [(text,) for text in ODD] + [ODD, ("", " ", "\n") * 10])
def test_odd_texts_have_their_result(filler: FillMask, texts: tuple[str, ...]) -> None:
    encoded = filler.encode([{"text": text} for text in texts])
    results = filler.decode(encoded, made_up(encoded) if len(encoded.rows) else {})
    assert [result["text"] for result in results] == list(texts)
    for text, result in zip(texts, results, strict=True):
        assert len(result.get("masks", ())) == text.count("[MASK]")
        for found in result.get("masks", result.get("tokens")):
            assert 0 <= found["start"] < found["end"] <= len(text)
        assert filler.lines(result)[0] == text
    json.dumps(results, allow_nan=False)


def test_a_text_longer_than_what_the_model_sees_says_so(filler: FillMask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxfm.tasks.masked_lm.predictor.MAX_SCORED_TOKENS", 12)
    texts = ("met " * 10, "met " * 11, "met " * 12, "met " * 13, "met " * 20 + "[MASK]")
    encoded = filler.encode([{"text": text} for text in texts])
    results = filler.decode(encoded, made_up(encoded))
    assert [result.get("window") for result in results] == [None, 10, 10, 10, 10]
    assert [result.get("cut") for result in results] == [None, None, None, True, None]
    assert [len(result.get("tokens", ())) for result in results] == [10, 11, 12, 12, 0]
    assert "its first 12 tokens are scored" in "\n".join(filler.lines(results[3]))
    assert "sees 10 tokens at once" in filler.lines(results[4])[-1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.text(max_size=30), st.lists(st.sampled_from(["[MASK]", "met", " ", "中"])).map("".join)),
        max_size=5,
    )
)
def test_any_texts(filler: FillMask, texts: list[str]) -> None:
    encoded = filler.encode([{"text": text} for text in texts])
    results = filler.decode(encoded, made_up(encoded) if len(encoded.rows) else {})
    assert [result["text"] for result in results] == texts
    assert all(len(result.get("masks", ())) == result["text"].count("[MASK]") for result in results)
    json.dumps(results, allow_nan=False)
