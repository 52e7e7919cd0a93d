"""Scores of spans: against a slow version for each span, in packed rows as alone, and of words of several pieces."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.models.word_spans import FIRSTS, LASTS, WordSpanClassifier
from jaxfm.parallel.mesh import build_abstract, make_mesh
from tests import tiny

K, H, C, T = 3, 8, 4, 20
CONFIG = dataclasses.replace(tiny.ENCODER, initializer_range=0.3, dropout=0.0, attention_dropout=0.0)
# Pieces of the words of two examples.
SIZES = ((1, 3, 2, 1), (2, 1))


def model() -> tuple[Any, Any]:
    graphdef, abstract = build_abstract(
        lambda: WordSpanClassifier(CONFIG, C, K, H, DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig())
    )
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> np.ndarray:
        return ((path[-1].key == "scale") + 0.3 * draw.normal(size=leaf.shape)).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(value, abstract)


def rows(numbers: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The examples of these numbers in one row."""
    row = {name: np.zeros(T, np.int32) for name in ("tokens", "segment_ids", "positions")}
    row |= {name: np.full(T, -1, np.int32) for name in (FIRSTS, LASTS)}
    at = 0
    for segment, number in enumerate(numbers, 1):
        length = 2 + sum(SIZES[number])
        part = slice(at, at + length)
        row["tokens"][part] = np.random.default_rng(number).integers(5, 60, length)
        row["segment_ids"][part], row["positions"][part] = segment, np.arange(length)
        ends = 1 + np.cumsum(SIZES[number])
        row[FIRSTS][at : at + len(ends)], row[LASTS][at : at + len(ends)] = ends - SIZES[number], ends - 1
        at += length
    return {name: value[None] for name, value in row.items()}


def test_a_span_is_scored_by_its_first_and_last_piece_and_its_width() -> None:
    graphdef, params = model()
    built = nnx.merge(graphdef, params)
    batch = {name: jnp.asarray(value) for name, value in rows((0, 1)).items()}
    logits, hidden = np.asarray(built(batch)), np.asarray(built.encoder(batch))[0]
    assert logits.shape == (1, T, K, C) and logits.dtype == np.float32
    begins = {0: 0, 1: 2 + sum(SIZES[0])}
    for number, begin in begins.items():
        ends = begin + 1 + np.cumsum(SIZES[number])
        firsts, lasts = ends - SIZES[number], ends - 1
        for word in range(len(ends)):
            for width in range(min(K, len(ends) - word)):
                parts = built.starts(hidden[firsts[word]]) + built.ends(hidden[lasts[word + width]])
                wanted = built.head(jax.nn.gelu(parts + params["widths"][width], approximate=False))
                np.testing.assert_allclose(logits[0, begin + word, width], wanted, rtol=1e-4, atol=1e-4)


def test_packed_examples_are_scored_as_alone() -> None:
    graphdef, params = model()
    built = nnx.merge(graphdef, params)
    packed = np.asarray(built({name: jnp.asarray(value) for name, value in rows((0, 1)).items()}))
    alone = np.asarray(built({name: jnp.asarray(value) for name, value in rows((1,)).items()}))
    begin, words = 2 + sum(SIZES[0]), len(SIZES[1])
    for word in range(words):
        for width in range(words - word):
            np.testing.assert_allclose(packed[0, begin + word, width], alone[0, word, width], rtol=1e-4, atol=1e-5)
