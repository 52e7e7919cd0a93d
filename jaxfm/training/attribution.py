"""Which tokens a number that a model gives is due to: integrated gradients (Sundararajan et al. 2017)."""

# N rows, T tokens, E embedding

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Batch, Dataset
from jaxfm.core.explained import Explained, Target
from jaxfm.models.inputs.text import WORD_VECTORS, word_table
from jaxfm.training.evaluation import OutputsFn

STEPS = 32
_MOST_TARGETS = 16  # parts of a result that are explained: each takes as long as the first
_VALUES = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid, "": lambda x: x}


class Attribution:
    """Attributions of one model's outputs to the word vectors of its tokens; compiled once a shape of rows.

    The vectors move on a straight line from those of a token that means nothing to those of the input. The gradient of
    the number, averaged over the way (at the middles of `steps` equal parts), times the way, is each token's share:
    the shares add up to the difference that the words make (completeness), but for the error of the average.
    """

    def __init__(self, outputs: OutputsFn, graphdef: nnx.GraphDef[Any], mesh: Mesh, steps: int = STEPS):
        """Closes over the model."""
        self._mesh = mesh
        self._shares = jax.jit(
            functools.partial(_shares, outputs, graphdef, steps), static_argnames=("output", "probability")
        )

    def __call__(
        self, params: Any, batch: Batch, explained: Explained, target: Target
    ) -> tuple[np.ndarray, float, float]:
        """Returns the share of each token, f32 [N, T], and the number of the input and of the baseline.

        `batch` are the rows of the input. Tokens that are not among `explained.tokens` have a share of 0.
        """
        moved_NT = np.zeros(batch["tokens"].shape, bool)
        moved_NT[[token.row for token in explained.tokens], [token.place for token in explained.tokens]] = True
        with jax.set_mesh(self._mesh):
            shares_NT, number, without = self._shares(
                params,
                {name: jnp.asarray(values) for name, values in batch.items()},
                jnp.where(moved_NT, explained.baseline, batch["tokens"]),
                tuple(jnp.asarray(axis) for axis in target.places.T),
                jnp.asarray(target.weights, jnp.float32),
                output=explained.output,
                probability=explained.probability,
            )
        return np.asarray(shares_NT), float(number), float(without)

    def described(self, params: Any, rows: Dataset, explained: Explained) -> list[dict[str, Any]]:
        """Returns the first 16 targets as JSON: what each is, its number with and without the words, their shares."""
        batch, found = rows.take(np.arange(len(rows))), []
        for target in explained.targets[:_MOST_TARGETS]:
            shares_NT, number, without = self(params, batch, explained, target)
            words: dict[tuple[str, int, int], float] = {}
            for row, place, field, start, end in explained.tokens:
                word = (field, start, end)
                words[word] = words.get(word, 0.0) + float(shares_NT[row, place])
            found.append(
                {
                    **target.of,
                    "probability" if explained.probability else "score": round(number, 4),
                    "without": round(without, 4),
                    "words": [
                        {"field": field, "start": start, "end": end, "share": round(share, 4)}
                        for (field, start, end), share in words.items()
                    ],
                    "alternatives": [
                        {"label": label, "score": round(score, 4)} for label, score in target.alternatives.items()
                    ],
                }
            )
        return found


def _shares(
    outputs: OutputsFn,
    graphdef: nnx.GraphDef[Any],
    steps: int,
    params: Any,
    batch: Mapping[str, jax.Array],
    baseline_NT: jax.Array,
    places: tuple[jax.Array, ...],
    weights: jax.Array,
    *,
    output: str,
    probability: str,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    model = nnx.merge(graphdef, params)
    table_VE = word_table(model.encoder.embeddings)
    start_NTE, end_NTE = table_VE[baseline_NT], table_VE[batch["tokens"]]

    def number(vectors_NTE: jax.Array) -> jax.Array:
        values = outputs(model, {**batch, WORD_VECTORS: vectors_NTE})[output].astype(jnp.float32)
        return jnp.sum(_VALUES[probability](values)[places] * weights)

    def add(total_NTE: jax.Array, way: jax.Array) -> tuple[jax.Array, None]:
        return total_NTE + jax.grad(number)(start_NTE + way * (end_NTE - start_NTE)), None

    ways = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
    total_NTE, _ = jax.lax.scan(add, jnp.zeros_like(start_NTE), ways)
    shares_NT = jnp.sum(total_NTE / steps * (end_NTE - start_NTE), axis=-1)
    return shares_NT, number(end_NTE), number(start_NTE)
