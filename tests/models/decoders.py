"""Small models whose tokens see none after themselves, prefixes in rows, and decoding without a cache in numpy."""

# B rows, T tokens, S segments, V vocabulary

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD, Build
from jaxfm.core.encoder_config import CAUSAL, PREFIX, EncoderConfig
from jaxfm.families.registry import preset
from jaxfm.models.heads import MaskedLM
from jaxfm.parallel import mesh as meshes
from tests import tiny

END = 3
_SIZES: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_heads": 4, "max_positions": 40, "sight": CAUSAL}
BERT = EncoderConfig(family="bert", num_layers=2, ffn_size=48, **_SIZES)
# Layers 0 and 3 see all, the others three tokens before them.
MODERN = dataclasses.replace(preset("modern_base"), num_layers=5, ffn_size=24, local_window=6, **_SIZES)
EURO = dataclasses.replace(preset("eurobert_210m"), num_layers=3, ffn_size=24, num_kv_heads=2, **_SIZES)
GEMMA = dataclasses.replace(
    preset("embedding_gemma"), num_layers=4, ffn_size=24, head_size=16, num_kv_heads=1, local_window=6,
    global_every=3, global_first=2, **_SIZES,
)  # fmt: skip
ALBERT = dataclasses.replace(
    preset("albert_base"), num_layers=4, layer_groups=2, ffn_size=24, embedding_size=16, **_SIZES
)
LENGTHS = (5, 9, 1, 7, 3)
ROWS = ((0, 1), (2, 3, 4))


@functools.cache
def model(
    config: EncoderConfig, seed: int = 0, deviation: float = 0.3, build: Build = DEFAULT_BUILD
) -> tuple[Any, Any]:
    """Returns the graph definition and random parameters of a masked LM, wide enough that scores differ clearly."""
    graphdef, _ = meshes.build_abstract(lambda: MaskedLM(config, build, nnx.Rngs(0)), meshes.make_mesh(MeshConfig()))
    flat = tiny.random_masked_lm(dataclasses.replace(config, initializer_range=deviation), seed)
    return graphdef, flax.traverse_util.unflatten_dict(flat, sep="/")


@functools.cache
def prompts(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, first: int = 8) -> tuple[tuple[int, ...], ...]:
    """Returns random prompts of ordinary tokens."""
    draw = np.random.default_rng(seed)
    return tuple(tuple(map(int, draw.integers(first, 96, length))) for length in lengths)


def batch_of(rows: Sequence[Sequence[Sequence[int]]], length: int) -> Any:
    """Returns the fields of rows of texts."""
    tokens, segments, positions = np.zeros((3, len(rows), length), np.int32)
    for row, texts in enumerate(rows):
        start = 0
        for number, text in enumerate(texts):
            place = slice(start, start + len(text))
            tokens[row, place], segments[row, place] = text, number + 1
            positions[row, place] = np.arange(len(text))
            start += len(text)
    return {"tokens": tokens, "segment_ids": segments, "positions": positions}


def packed(rows: Sequence[Sequence[int]] = ROWS, length: int = 16) -> Any:
    """Returns the prompts of each row as a batch."""
    return batch_of([[prompts()[prompt] for prompt in row] for row in rows], length)


class Uncached:
    """A model that is applied to a whole text for each new token."""

    def __init__(self, config: EncoderConfig, length: int = 40, **given: Any):
        """Takes the model's shape, and the longest text."""
        graphdef, self.params = model(config, **given)
        self.length, self.sight = length, config.sight

        @jax.jit
        def logits(params: Any, batch: Any) -> jax.Array:
            merged = nnx.merge(graphdef, params)
            return merged.logits(merged.hidden(batch))

        self._logits = logits

    def logits(self, text: Sequence[int], prefix: int = 0) -> np.ndarray:
        """Returns the logits [n, V] of all tokens of one text, alone in a row; `prefix` tokens see each other."""
        positions = np.arange(self.length)[None]
        horizons = {"horizons": np.where(positions < prefix, prefix - 1, positions).astype(np.int32)}
        batch = batch_of([[text]], self.length) | (horizons if self.sight == PREFIX else {})
        found = self._logits(self.params, batch)
        return np.asarray(found[0, : len(text)], np.float64)[:, :96]

    def log_probs(self, text: Sequence[int]) -> np.ndarray:
        """Returns the log probabilities [V] of what follows a text."""
        logits = self.logits(text)[-1]
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
