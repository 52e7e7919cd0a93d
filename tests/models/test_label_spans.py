"""Spans compared with labels: against a slow version for each span, in packed rows as alone, labels in any number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.models.label_spans import OFFSET, SCALE, LabelSpanScorer
from jaxfm.models.word_spans import FIRSTS, LASTS
from jaxfm.parallel.mesh import build_abstract, initialise, make_mesh
from tests.models.test_word_spans import CONFIG, SIZES, K, T, rows

H, L = 8, 8
WORDS = ((3, 4, 5), (7,), (9, 10, 11, 12))  # tokens of labels


def model() -> tuple[Any, Any]:
    graphdef, abstract = build_abstract(
        lambda: LabelSpanScorer(CONFIG, K, H, DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig())
    )
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> np.ndarray:
        return ((path[-1].key == "scale") + 0.3 * draw.normal(size=leaf.shape)).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(value, abstract)


def labels(words: tuple[tuple[int, ...], ...] = WORDS) -> dict[str, jax.Array]:
    fields = {name: np.zeros((len(words), L), np.int32) for name in ("tokens", "segment_ids", "positions")}
    for row, tokens in enumerate(words):
        fields["tokens"][row, : len(tokens)], fields["segment_ids"][row, : len(tokens)] = tokens, 1
        fields["positions"][row, : len(tokens)] = np.arange(len(tokens))
    return {name: jnp.asarray(value) for name, value in fields.items()}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_a_logit_is_the_scaled_cosine_of_a_span_and_a_label() -> None:
    graphdef, params = model()
    built = nnx.merge(graphdef, params)
    batch = {name: jnp.asarray(value) for name, value in rows((0, 1)).items()}
    logits = np.asarray(built(batch, built.label_vectors(labels())))
    assert logits.shape == (1, T, K, len(WORDS)) and logits.dtype == np.float32
    hidden, of_labels = np.asarray(built.encoder(batch))[0], np.asarray(built.encoder(labels()))
    wanted_CD = [unit(of_labels[row, : len(tokens)].mean(axis=0)) for row, tokens in enumerate(WORDS)]
    scale, offset = np.exp(float(params["log_scale"])), float(params["offset"])
    begins = {0: 0, 1: 2 + sum(SIZES[0])}
    for number, begin in begins.items():
        ends = begin + 1 + np.cumsum(SIZES[number])
        firsts, lasts = ends - SIZES[number], ends - 1
        for word in range(len(ends)):
            for width in range(min(K, len(ends) - word)):
                first, last = hidden[firsts[word]], hidden[lasts[word + width]]
                parts = built.starts(first) + built.ends(last) + params["widths"][width]
                moved = np.asarray(built.projection(jax.nn.gelu(parts, approximate=False)))
                vector = unit(moved + (first + last) / 2)
                expected = [scale * (vector @ label - offset) for label in wanted_CD]
                np.testing.assert_allclose(logits[0, begin + word, width], expected, rtol=1e-4, atol=1e-4)


def test_packed_examples_are_scored_as_alone() -> None:
    graphdef, params = model()
    built = nnx.merge(graphdef, params)
    vectors = built.label_vectors(labels())
    packed = np.asarray(built({name: jnp.asarray(value) for name, value in rows((0, 1)).items()}, vectors))
    alone = np.asarray(built({name: jnp.asarray(value) for name, value in rows((1,)).items()}, vectors))
    begin, words = 2 + sum(SIZES[0]), len(SIZES[1])
    for word in range(words):
        for width in range(words - word):
            np.testing.assert_allclose(packed[0, begin + word, width], alone[0, word, width], rtol=1e-4, atol=1e-5)


def test_a_label_has_its_vector_whatever_other_labels_there_are() -> None:
    graphdef, params = model()
    built = nnx.merge(graphdef, params)
    many = np.asarray(built.label_vectors(labels((*WORDS, *((13 + n,) for n in range(30))))))
    np.testing.assert_allclose(many[: len(WORDS)], built.label_vectors(labels()), rtol=1e-5, atol=1e-6)


def test_a_fresh_model_compares_what_the_encoder_gives() -> None:
    params = initialise(lambda: LabelSpanScorer(CONFIG, K, H, DEFAULT_BUILD, nnx.Rngs(0)))
    built = nnx.merge(model()[0], params)
    batch = {name: jnp.asarray(value) for name, value in rows((1,)).items()}
    hidden, of_labels = np.asarray(built.encoder(batch))[0], np.asarray(built.encoder(labels()))
    firsts, lasts = np.asarray(batch[FIRSTS])[0], np.asarray(batch[LASTS])[0]
    logits = np.asarray(built(batch, built.label_vectors(labels())))
    span, label = unit(hidden[firsts[0]] + hidden[lasts[1]]), unit(of_labels[1, : len(WORDS[1])].mean(axis=0))
    np.testing.assert_allclose(logits[0, 0, 1, 1], SCALE * (span @ label - OFFSET), rtol=1e-4, atol=1e-4)
