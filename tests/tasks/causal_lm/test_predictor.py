"""Texts scored token by token, against transformers; windows of long texts; odd texts."""

import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.families.registry import preset
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.causal_lm.predictor import CausalLMPredictor, ScoredTexts
from jaxfm.tasks.causal_lm.spec import CausalLMSpec
from jaxfm.training.evaluation import Evaluator, whole_batches
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, sight=CAUSAL, initializer_range=0.3)
WINDOW = 11  # tokens of a text beside the opening one, in rows of 12
LONG = "saw boole and left the town near the old arles and went in to the town near ghent . " * 2
TEXTS = ("ada met gauss in the old town .", "", "and", " \n ", LONG, "the old town and gauss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("scored")
    tiny.write_masked_lm_weights(folder, ENCODER, seed=3)
    return folder


@pytest.fixture(scope="module")
def predictor(folder: pathlib.Path) -> CausalLMPredictor:
    return CausalLMPredictor(CausalLMSpec(ENCODER, row_length=WINDOW + 1), load_tokenizer(folder))


@functools.cache
def evaluator(predictor: CausalLMPredictor, size: int) -> Evaluator:
    mesh = make_mesh(MeshConfig())
    graphdef, _ = build_abstract(lambda: predictor.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), mesh)
    return Evaluator(predictor.outputs, graphdef, mesh, size)


def results_of(predictor: CausalLMPredictor, texts: tuple[str, ...]) -> list[dict[str, Any]]:
    encoded = predictor.encode([{"text": text} for text in texts])
    if not len(encoded.rows):
        return predictor.decode(encoded, {})
    params = tiny.nested(tiny.random_masked_lm(ENCODER, seed=3))
    size = whole_batches(4, len(encoded.rows), make_mesh(MeshConfig()))
    return predictor.decode(encoded, evaluator(predictor, size)(params, encoded.rows))


@pytest.fixture(scope="module")
def results(predictor: CausalLMPredictor) -> list[dict[str, Any]]:
    return results_of(predictor, TEXTS)


@pytest.fixture(scope="module")
def log_probability(folder: pathlib.Path) -> Any:
    """A function: token ids -> log-probability of the last one, by transformers' decoder."""
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    model = transformers.BertLMHeadModel.from_pretrained(folder).eval()

    def compute(ids: list[int]) -> float:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
            return float(torch.log_softmax(logits, -1)[ids[-1]])

    return compute


def seen_by_hand(place: int) -> int:
    """The first token of a long text that token `place` sees: windows of 11, then 5 new tokens in each."""
    if place < WINDOW:
        return 0
    return WINDOW + (place - WINDOW) // (WINDOW // 2) * (WINDOW // 2) + WINDOW // 2 - WINDOW


def test_every_token_has_the_log_probability_that_transformers_gives_it(
    predictor: CausalLMPredictor, results: list[dict[str, Any]], log_probability: Any
) -> None:
    for text, result in zip(TEXTS, results, strict=True):
        ids = predictor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert result["text"] == text
        assert [each["token"] for each in result["tokens"]] == predictor.tokenizer.convert_ids_to_tokens(ids)
        last = WINDOW + (len(ids) - WINDOW) // (WINDOW // 2) * (WINDOW // 2)
        wanted = []
        for place in range(len(ids)):
            # The last window of a text is as full as the others.
            first = seen_by_hand(place) if place < last or len(ids) <= WINDOW else len(ids) - WINDOW
            wanted.append(log_probability([predictor.tokenizer.cls_token_id, *ids[first : place + 1]]))
        found = [each["log_probability"] for each in result["tokens"]]
        np.testing.assert_allclose(found, wanted, atol=2e-4)
        for each in result["tokens"]:
            assert text[each["start"] : each["end"]] == each["token"].removeprefix("##")
        if ids:
            assert result["log_probability"] == pytest.approx(sum(wanted), rel=1e-4)
            assert result["perplexity"] == pytest.approx(math.exp(-sum(wanted) / len(ids)), rel=1e-4)
            assert result["bits_per_byte"] == pytest.approx(-sum(wanted) / math.log(2) / len(text.encode()), rel=1e-3)
    sizes = [len(result["tokens"]) for result in results]
    assert [result.get("window") for result in results] == [WINDOW if size > WINDOW else None for size in sizes]
    assert sizes[4] > 3 * WINDOW > WINDOW > sizes[2] > 0


def test_texts_without_tokens_have_no_perplexity(predictor: CausalLMPredictor, results: list[dict[str, Any]]) -> None:
    for number in (1, 3):
        nothing = {"log_probability": 0.0, "perplexity": None, "bits_per_byte": None, "tokens": []}
        assert results[number] == {"text": TEXTS[number], **nothing}
        assert predictor.lines(results[number])[1:] == ["  (no tokens)"]
    assert results_of(predictor, ()) == [] and len(results_of(predictor, ("", " "))) == 2
    json.dumps(results, allow_nan=False)


def test_each_text_is_scored_alike_whatever_comes_with_it(
    predictor: CausalLMPredictor, results: list[dict[str, Any]]
) -> None:
    for number in (0, 4):
        (alone,) = results_of(predictor, (TEXTS[number],))
        found = [each["log_probability"] for each in alone["tokens"]]
        wanted = [each["log_probability"] for each in results[number]["tokens"]]
        np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_a_token_does_not_change_what_comes_before_it(predictor: CausalLMPredictor) -> None:
    one, other = results_of(predictor, ("ada met gauss in the town", "ada met gauss in the old arles near ghent"))
    scores = [[each["log_probability"] for each in result["tokens"]] for result in (one, other)]
    same = len(predictor.tokenizer.tokenize("ada met gauss in the"))
    np.testing.assert_allclose(scores[0][:same], scores[1][:same], atol=2e-4)
    assert abs(scores[0][same] - scores[1][same]) > 1e-3


def test_lines_for_a_person(predictor: CausalLMPredictor, results: list[dict[str, Any]]) -> None:
    said = predictor.lines(results[4])
    assert said[0] == LONG and len(said) == 4
    assert f"perplexity {results[4]['perplexity']:,.2f} over {len(results[4]['tokens'])} tokens" in said[1]
    rarest = min(results[4]["tokens"], key=lambda token: token["log_probability"])
    assert said[2].startswith(f"  least likely: {rarest['token']} ")
    assert "sees 11 tokens at once" in said[3]


# A window of four tokens in two of three layers; pre-norm, rotary positions, no biases.
MODERN = dataclasses.replace(
    preset("modern_tiny"),
    family="modernbert-decoder",
    sight=CAUSAL,
    vocab_size=96,
    hidden_size=32,
    num_heads=2,
    ffn_size=48,
    local_window=4,
    initializer_range=0.3,
)


def test_modernbert_is_written_as_its_decoder(predictor: CausalLMPredictor, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    modern = CausalLMPredictor(CausalLMSpec(MODERN, row_length=64), predictor.tokenizer)
    params = tiny.random_masked_lm(MODERN, seed=3)
    assert modern.hf_problem() == ""
    modern.write_hf(tmp_path, params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == "ModernBertDecoderForCausalLM"
    cls, sep = modern.tokenizer.cls_token_id, modern.tokenizer.sep_token_id
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (cls, sep, 0)
    encoded = modern.encode([{"text": LONG}])
    (result,) = modern.decode(encoded, evaluator(modern, 4)(tiny.nested(params), encoded.rows))
    ids = [cls, *modern.tokenizer(LONG, add_special_tokens=False)["input_ids"]]
    assert "window" not in result and len(ids) > 40
    with torch.no_grad():
        scores = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, :-1], -1)
    wanted = scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].numpy()
    np.testing.assert_allclose([each["log_probability"] for each in result["tokens"]], wanted, atol=2e-4)


def test_what_is_written_is_a_decoder_that_transformers_reads(
    predictor: CausalLMPredictor, tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("torch", reason="transformers' models need it")
    transformers = pytest.importorskip("transformers")
    params = tiny.random_masked_lm(ENCODER, seed=3)
    assert predictor.hf_problem() == ""
    predictor.write_hf(tmp_path, params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model).__name__ == "BertLMHeadModel" and model.config.is_decoder
    np.testing.assert_array_equal(
        model.cls.predictions.bias.detach().numpy(), params["decoder/bias"][: ENCODER.vocab_size]
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(TEXTS[0])["input_ids"] == predictor.tokenizer(TEXTS[0])["input_ids"]


def test_a_family_without_a_decoder_in_transformers_is_not_written(predictor: CausalLMPredictor) -> None:
    other = dataclasses.replace(predictor, spec=CausalLMSpec(dataclasses.replace(ENCODER, family="distilbert"), 12))
    assert "compute no encoder whose sight is 'causal'" in other.hf_problem()


def made_up(encoded: ScoredTexts) -> dict[str, np.ndarray]:
    """Outputs of no model."""
    return {"log_probability": -np.ones(encoded.rows.tokens.shape)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30),
            st.lists(
                st.sampled_from(["[MASK]", "[CLS]", "met", " ", "中", "\U0001f469\u200d\U0001f680"]), max_size=60
            ).map("".join),
        ),
        max_size=5,
    )
)
def test_any_texts(predictor: CausalLMPredictor, texts: list[str]) -> None:
    encoded = predictor.encode([{"text": text} for text in texts])
    found = predictor.decode(encoded, made_up(encoded) if len(encoded.rows) else {})
    assert [result["text"] for result in found] == texts
    for result, text in zip(found, texts, strict=True):
        # Every token is scored, and once.
        ids = predictor.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert [each["log_probability"] for each in result["tokens"]] == [-1.0] * len(ids)
        assert predictor.lines(result)[0] == text
    json.dumps(found, allow_nan=False)
