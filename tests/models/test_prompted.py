"""Class logits of a prompt beside those that the whole vocabulary of the same masked language model gives."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families.registry import preset
from jaxfm.models.heads import MaskedLM
from jaxfm.models.prompted import PromptedClassifier
from jaxfm.parallel import mesh as meshes
from tests import tiny

TIED = EncoderConfig(
    vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, max_positions=16, initializer_range=0.3
)
ENCODERS = {
    "tied, with transform and bias": TIED,
    "a table of its own": dataclasses.replace(TIED, tied_decoder=False),
    "no transform": dataclasses.replace(TIED, vocabulary_transform=False, decoder_bias=False),
}
MASK, WORDS, CLASSES = 4, (7, 11, 20, 9), (0, 1, 1, 2)
# Two rows of 16 tokens: segments of 7 and 6 tokens and padding; one of 16. Each has one mask.
TOKENS = np.random.default_rng(0).integers(5, 40, (2, 16)).astype(np.int32)
SEGMENTS = np.asarray([[1] * 7 + [2] * 6 + [0] * 3, [1] * 16], np.int32)
POSITIONS = np.asarray([[*range(7), *range(6), 0, 0, 0], [*range(16)]], np.int32)
PLACES = ((0, 0, 3), (0, 1, 12), (1, 0, 0))  # row, segment, column of the mask
for _row, _, _column in PLACES:
    TOKENS[_row, _column] = MASK
BATCH = {"tokens": jnp.asarray(TOKENS), "segment_ids": jnp.asarray(SEGMENTS), "positions": jnp.asarray(POSITIONS)}


@pytest.mark.parametrize("name", ENCODERS)
def test_logits_are_means_over_words_at_the_mask(name: str) -> None:
    encoder = ENCODERS[name]

    def make() -> PromptedClassifier:
        return PromptedClassifier(
            encoder, DEFAULT_BUILD, nnx.Rngs(0), mask_token=MASK, words=WORDS, classes=CLASSES, segments=3
        )

    mesh = meshes.make_mesh(MeshConfig())
    params = tiny.nested(tiny.drawn(make, encoder, 3))
    model: Any = nnx.merge(meshes.build_abstract(make, mesh)[0], params)
    # The parameters are those of a masked language model, and no others.
    whole: Any = nnx.merge(
        meshes.build_abstract(lambda: MaskedLM(encoder, DEFAULT_BUILD, nnx.Rngs(0)), mesh)[0], params
    )
    logits_BTV = whole.logits(whole.hidden(BATCH))
    found = np.asarray(model(BATCH))
    assert found.shape == (2, 3, 3) and found.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(model.head(model.features(BATCH))), found)  # what jaxfm select reads
    for row, segment, column in PLACES:
        words = np.asarray(logits_BTV)[row, column, list(WORDS)]
        expected = [words[0], (words[1] + words[2]) / 2, words[3]]
        np.testing.assert_allclose(found[row, segment], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.asarray(model.of_vocabulary(logits_BTV, BATCH))[row, segment], expected, 1e-5)


def test_a_class_without_a_word_is_no_model() -> None:
    with pytest.raises(AssertionError):
        PromptedClassifier(
            preset("bert_tiny"), DEFAULT_BUILD, nnx.Rngs(0), mask_token=1, words=(2, 3), classes=(0, 2), segments=1
        )
