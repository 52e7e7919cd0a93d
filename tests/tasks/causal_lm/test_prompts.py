"""Prompts as rows and what follows them as text, with a model that computes everything anew for each token."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.models.heads import MaskedLM
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.causal_lm.prompts import SEGMENTS, Prompts, decode_continuations, encode_prompts
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, sight=CAUSAL, initializer_range=0.3)
TEXTS = ("ada met", "", "the old town and gauss met in", "saw " * 40, "and", "in", "ada", "met", "the", "boole")
NEW = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("prompts")
    tiny.write_tokenizer(folder)
    return load_tokenizer(folder)


def prompts_of(prompts: Prompts) -> list[list[int]]:
    """The tokens of each prompt, as its row has them."""
    rows = prompts.rows
    return [
        rows.tokens[row, rows.segment_ids[row] == segment + 1].tolist()
        for row, segment, _ in rows.example_locations.tolist()
    ]


def test_prompts_open_as_texts_do_in_training_and_do_not_end(tokenizer: Any) -> None:
    found = encode_prompts(tokenizer, TEXTS, 24, NEW)
    cls = tokenizer.cls_token_id
    for text, ids in zip(TEXTS, prompts_of(found), strict=True):
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == [cls, *own[-(24 - NEW - 1) :]]
    assert found.cut == tuple(text == TEXTS[3] for text in TEXTS)
    assert found.rows.segment_ids.max() <= SEGMENTS and len(found.rows) < len(TEXTS)
    assert len(encode_prompts(tokenizer, (), 24, NEW).rows) == 0
    with pytest.raises(UserError, match=r"max_tokens: 23 new tokens leave no room .* Take at most 22"):
        encode_prompts(tokenizer, TEXTS, 24, 23)


def test_what_a_model_writes_is_given_back_to_each_prompt(tokenizer: Any) -> None:
    params = tiny.nested(tiny.random_masked_lm(ENCODER, seed=3))
    graphdef = build_abstract(lambda: MaskedLM(ENCODER, DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]

    @jax.jit
    def next_token(tokens_1T: Any, last: Any) -> Any:
        model = nnx.merge(graphdef, params)
        ones = np.ones(tokens_1T.shape, np.int32)
        batch = {"tokens": tokens_1T, "segment_ids": ones, "positions": np.arange(32)[None]}
        return model.logits(model.hidden(batch))[0, last].argmax()

    def written(ids: list[int]) -> list[int]:
        own = list(ids)
        for _ in range(NEW):  # a causal model does not see the zeros after the last token
            padded = np.zeros((1, 32), np.int32)
            padded[0, : len(own)] = own
            own.append(int(next_token(padded, len(own) - 1)))
        return own[len(ids) :]

    found = encode_prompts(tokenizer, TEXTS, 24, NEW)
    tokens = np.zeros((len(found.rows), SEGMENTS, NEW), np.int64)
    lengths = np.zeros((len(found.rows), SEGMENTS), np.int64)
    wanted = []
    for number, ((row, segment, _), ids) in enumerate(
        zip(found.rows.example_locations.tolist(), prompts_of(found), strict=True)
    ):
        new = written(ids)
        tokens[row, segment], lengths[row, segment] = new, NEW - number % 2
        wanted.append(tokenizer.decode(new[: NEW - number % 2], skip_special_tokens=True))
    scores = -np.arange(lengths.size, dtype=np.float32).reshape(lengths.shape)
    results = decode_continuations(tokenizer, found, tokens, lengths, scores)
    assert [each["text"] for each in results] == list(TEXTS)
    assert [each["written"] for each in results] == wanted and len(set(wanted)) > 3
    places = found.rows.example_locations.tolist()
    assert [each["score"] for each in results] == [scores[row, segment] for row, segment, _ in places]
    assert [each.get("truncated", False) for each in results] == list(found.cut)
