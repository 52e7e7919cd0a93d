"""Texts to tokens and back, for any text; the model itself is tested with replaced-token detection."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.tasks.replaced_token.predictor import ReplacedTokenPredictor, TokenizedTexts
from jaxfm.tasks.replaced_token.spec import ReplacedTokenSpec
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, max_positions=12)
ODD = ("", "\n", "\u3000", "[MASK]", "met\0in", "\u0301", "\U0001f469\u200d\U0001f680", "中国", "[SEP]", "x" * 90)


def spec_of(encoder: EncoderConfig) -> ReplacedTokenSpec:
    return ReplacedTokenSpec(
        encoder=encoder,
        masking=Masking("token", mask_share=1.0, random_share=0.0),
        ratios=(0.15, 0.15),
        units=("token",),
        row_length=12,
        generator_layers=1,
        discriminator_weight=50.0,
    )


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> ReplacedTokenPredictor:
    folder = tmp_path_factory.mktemp("finder")
    tiny.write_tokenizer(folder)
    return ReplacedTokenPredictor(spec_of(ENCODER), load_tokenizer(folder))


def made_up(encoded: TokenizedTexts) -> dict[str, np.ndarray]:
    """Outputs of no model: a token's number says how suspicious it is."""
    return {"probability": encoded.rows.tokens / 100} if len(encoded.rows) else {}


@pytest.mark.parametrize("texts", [(text,) for text in ODD] + [ODD, ("", " ", "\n") * 10, ()])
def test_odd_texts_have_their_result(finder: ReplacedTokenPredictor, texts: tuple[str, ...]) -> None:
    encoded = finder.encode([{"text": text} for text in texts])
    results = finder.decode(encoded, made_up(encoded))
    assert [result["text"] for result in results] == list(texts)
    for text, result in zip(texts, results, strict=True):
        for token in result["tokens"]:
            assert 0 <= token["start"] < token["end"] <= len(text)
            number = finder.tokenizer.convert_tokens_to_ids(token["token"])
            assert token["probability"] == round(number / 100, 4)
        assert bool(result["tokens"]) == bool(finder.tokenizer.tokenize(text))
        assert finder.lines(result)[0] == text and (result["tokens"] or finder.lines(result)[1:] == ["  (no tokens)"])
    json.dumps(results, allow_nan=False)


def test_a_text_longer_than_what_the_model_sees_says_so(finder: ReplacedTokenPredictor) -> None:
    encoded = finder.encode([{"text": "met " * 10}, {"text": "met " * 11}])
    short, long = finder.decode(encoded, made_up(encoded))
    assert "window" not in short and long["window"] == 10
    assert len(long["tokens"]) == 11 and "sees 10 tokens at once" in finder.lines(long)[-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5))
def test_any_texts(finder: ReplacedTokenPredictor, texts: list[str]) -> None:
    encoded = finder.encode([{"text": text} for text in texts])
    results = finder.decode(encoded, made_up(encoded))
    assert [result["text"] for result in results] == texts
    json.dumps(results, allow_nan=False)


def test_an_encoder_without_a_class_in_transformers_is_not_exported(tmp_path: pathlib.Path) -> None:
    finder = ReplacedTokenPredictor(spec_of(preset("modern_base")), None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no class for replaced-token detection with a modernbert encoder"):
        finder.write_hf(tmp_path, {})
