"""Which words or patches a number that a model gives is due to: five methods that know no task.

Integrated gradients (Sundararajan et al. 2017), gradient times input (Shrikumar et al. 2016, section 2), SmoothGrad
(Smilkov et al. 2017), occlusion (Zeiler and Fergus 2014, of words: Li et al. 2016) and attention rollout (Abnar and
Zuidema 2020).
"""

# N rows, B rows at a time, T tokens, E values of a token's vector, n values, K targets, W words, S steps

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset, axes_of
from jaxfm.core.explained import SCORES, Explained, Target
from jaxfm.models.each_layer import rollout
from jaxfm.models.inputs.vectors import input_vectors
from jaxfm.parallel.mesh import shard_batch
from jaxfm.training.evaluation import OutputsFn, bucket

INTEGRATED, TIMES_INPUT, SMOOTHGRAD, OCCLUSION, ROLLOUT = METHODS = (
    *("integrated_gradients", "gradient_x_input", "smoothgrad"),
    *("occlusion", "rollout"),
)
STEPS = 32
MOST_TARGETS = 16  # parts of a result that are explained: each takes as long as the first
_SAMPLES = 16  # of SmoothGrad
_NOISE = 0.5  # its standard deviation, in those of the row's vectors
_LEAST_PLACES = 8  # values that are read of a batch are padded to powers of two: few programs


class Shares(NamedTuple):
    """What a target is due to.

    Attributes:
      target: what was explained.
      shares: f64 [W] of the words, in the order of `Explained.words`.
      number: what the target is.
      without: what it is with the token that means nothing in the place of every word.
    """

    target: Target
    shares: np.ndarray
    number: float
    without: float

    @property
    def missing(self) -> float:
        """What the shares lack of the difference that the words make: 0 where they are complete."""
        return self.number - self.without - float(self.shares.sum())


class _Part(NamedTuple):
    """Some rows of a dataset, and the values that targets read of them."""

    index: np.ndarray
    batch: dict[str, np.ndarray]
    places: tuple[np.ndarray, ...]
    weights: np.ndarray
    reads: np.ndarray
    ids: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Attribution:
    """Attributions of one model's outputs to the tokens of its rows, of many records at a time.

    Vectors of tokens are moved, not tokens: a token that means nothing takes only its word vector (or grey pixels) to
    another one's place, whose position and type stay.

    Attributes:
      outputs: (model, batch) -> "scores" and "probabilities"; see `core.task.ExplainsResults`.
      graphdef: of the model.
      mesh: where it is computed.
      batch_size: most rows at a time.
      baseline: the token that means nothing.
      steps: of integrated gradients; their error falls quickly with them.
    """

    outputs: OutputsFn
    graphdef: nnx.GraphDef[Any]
    mesh: Mesh
    batch_size: int
    baseline: int
    steps: int = STEPS

    def numbers(
        self, params: Any, rows: Dataset, targets: Sequence[Target], replaced_NT: np.ndarray, of: str
    ) -> np.ndarray:
        """Returns each target's number [K] where the token that means nothing is in the place of some.

        Args:
          params: of the model.
          rows: that targets are read of; those that no target reads are not computed.
          targets: of any records.
          replaced_NT: bool, which tokens are replaced.
          of: "scores" or "probabilities".
        """
        found_K = np.zeros(len(targets))
        wanted = np.zeros(len(rows), bool)
        for target in targets:
            wanted[target.places[:, 0]] = True
        for part in self._parts(rows, targets, np.flatnonzero(wanted)):
            numbers = self._numbers(params, *self._given(rows, part, replaced_NT), part.places, part.weights, of=of)
            np.add.at(found_K, part.ids, np.asarray(numbers, np.float64)[: len(part.ids)])
        return found_K

    def of_tokens(
        self,
        params: Any,
        rows: Dataset,
        targets: Sequence[Target],
        moved_NT: np.ndarray,
        method: str,
        of: str = SCORES,
    ) -> np.ndarray:
        """Returns the share of each token, f32 [N, T], by a method other than occlusion.

        Args:
          params: of the model.
          rows: of the input.
          targets: one a record, so that a token is of one of them at most.
          moved_NT: bool, the tokens that may have a share.
          method: one of `METHODS`.
          of: "scores" or "probabilities".
        """
        found_NT = np.zeros(moved_NT.shape, np.float32)
        for part in self._parts(rows, targets, np.flatnonzero(moved_NT.any(axis=-1))):
            batch, moved_BT = self._given(rows, part, moved_NT)
            if method == ROLLOUT:
                shares_BT = self._rolled(params, batch, part.reads)
            else:
                numbers = np.resize(part.index, len(moved_BT)).astype(np.uint32)
                more = (part.places, part.weights, numbers)
                shares_BT = self._gradients(params, batch, moved_BT, *more, method=method, of=of)
            found_NT[part.index] = np.asarray(shares_BT)[: len(part.index)]
        return np.where(moved_NT, found_NT, 0.0)

    def __call__(
        self, params: Any, rows: Dataset, explained: Sequence[Explained], method: str = INTEGRATED, of: str = SCORES
    ) -> list[list[Shares]]:
        """Returns of each record what each of its first 16 targets is due to."""
        assert method in METHODS
        words = [list(each.words().values()) for each in explained]
        targets = [each.targets[:MOST_TARGETS] if each.tokens else () for each in explained]
        flat = [target for each in targets for target in each]
        every_NT = mask_of(rows, (places for each in words for places in each))
        full_K = self.numbers(params, rows, flat, np.zeros_like(every_NT), of)
        without_K = self.numbers(params, rows, flat, every_NT, of)
        if method == OCCLUSION:
            shares = self._occluded(params, rows, targets, words, full_K, of)
        else:
            shares = []
            for number in range(max(map(len, targets), default=0)):
                having = [record for record, each in enumerate(targets) if number < len(each)]
                moved_NT = mask_of(rows, (places for record in having for places in words[record]))
                chosen = [targets[record][number] for record in having]
                found_NT = self.of_tokens(params, rows, chosen, moved_NT, method, of)
                shares.append([_summed(found_NT, each) for each in words])
        numbers = iter(zip(full_K.tolist(), without_K.tolist(), strict=True))
        return [
            [Shares(target, shares[number][record], *next(numbers)) for number, target in enumerate(each)]
            for record, each in enumerate(targets)
        ]

    def _occluded(
        self,
        params: Any,
        rows: Dataset,
        targets: Sequence[Sequence[Target]],
        words: Sequence[Sequence[Sequence[tuple[int, int]]]],
        full_K: np.ndarray,
        of: str,
    ) -> list[list[np.ndarray]]:
        """Returns of each number of a target, of each record what its words take with them when they go, [W]."""
        most = max(map(len, targets), default=0)
        found = [[np.zeros(len(each)) for each in words] for _ in range(most)]
        first = np.cumsum([0, *map(len, targets)])
        for word in range(max(map(len, words), default=0)):
            having = [record for record, each in enumerate(words) if word < len(each) and targets[record]]
            replaced_NT = mask_of(rows, (words[record][word] for record in having))
            flat = [target for record in having for target in targets[record]]
            numbers = iter(self.numbers(params, rows, flat, replaced_NT, of).tolist())
            for record in having:
                for number in range(len(targets[record])):
                    found[number][record][word] = full_K[first[record] + number] - next(numbers)
        return found

    def _parts(self, rows: Dataset, targets: Sequence[Target], wanted: np.ndarray) -> Iterator[_Part]:
        """Yields the rows asked for in batches, each with the values that targets read of them."""
        if not len(wanted):
            return
        size = bucket(self.batch_size, len(wanted), self.mesh)
        none = np.zeros((0, 3), np.int64)
        places = np.concatenate([target.places for target in targets] or [none])
        weights = np.concatenate([target.weights for target in targets] or [none[:, 0]])
        ids = np.repeat(np.arange(len(targets)), [len(target.places) for target in targets])
        reads = np.concatenate([target.reads for target in targets] or [none[:, :2]])
        counts = np.repeat([len(target.reads) for target in targets], [len(target.reads) for target in targets])
        for first in range(0, len(wanted), size):
            index = wanted[first : first + size]
            local = np.full(len(rows), -1)
            local[index] = np.arange(len(index))
            here = local[places[:, 0]] >= 0
            own, own_weights = places[here].copy(), weights[here]
            own[:, 0] = local[own[:, 0]]
            filled = max(_LEAST_PLACES, 1 << max(len(own) - 1, 0).bit_length()) - len(own)
            batch = rows.take(np.concatenate([index, np.repeat(index[:1], size - len(index))]))
            read_BT = np.zeros((size, batch["segment_ids"].shape[1]), np.float32)
            there = local[reads[:, 0]] >= 0
            np.add.at(read_BT, (local[reads[there, 0]], reads[there, 1]), 1 / counts[there])
            yield _Part(
                index,
                batch,
                tuple(np.pad(axis, (0, filled)).astype(np.int32) for axis in own.T),
                np.pad(own_weights, (0, filled)).astype(np.float32),
                read_BT,
                ids[here],
            )

    def _given(self, rows: Dataset, part: _Part, chosen_NT: np.ndarray) -> tuple[dict[str, jax.Array], jax.Array]:
        """Returns a part's batch and which of its tokens are chosen, on the devices."""
        size = len(part.batch["segment_ids"])
        chosen_BT = np.pad(chosen_NT[part.index], [(0, size - len(part.index)), (0, 0)])
        axes = {**axes_of(rows.spec), "chosen": ("tokens",)}
        given = shard_batch({**part.batch, "chosen": chosen_BT}, axes, self.mesh)
        chosen = given.pop("chosen")
        return given, chosen

    @functools.cached_property
    def _numbers(self) -> Callable[..., jax.Array]:
        return self._jitted(_numbers, "of")

    @functools.cached_property
    def _gradients(self) -> Callable[..., jax.Array]:
        return self._jitted(functools.partial(_gradients, steps=self.steps), "method", "of")

    @functools.cached_property
    def _rolled(self) -> Callable[..., jax.Array]:
        return self._jitted(_rolled)

    def _jitted(self, function: Callable[..., jax.Array], *static: str) -> Callable[..., jax.Array]:
        def computed(params: Any, batch: Mapping[str, jax.Array], *arrays: Any, **more: Any) -> jax.Array:
            return function(self.outputs, nnx.merge(self.graphdef, params), self.baseline, batch, *arrays, **more)

        compiled = jax.jit(computed, static_argnames=static)

        def in_mesh(*arrays: Any, **more: Any) -> jax.Array:
            with jax.set_mesh(self.mesh):
                return compiled(*arrays, **more)

        return in_mesh


def mask_of(rows: Dataset, words: Any) -> np.ndarray:
    """Returns bool [N, T] of rows: the tokens (row, place) of some words."""
    found_NT = np.zeros((len(rows), *rows.spec["segment_ids"].shape), bool)
    for places in words:
        for row, place in places:
            found_NT[row, place] = True
    return found_NT


def _summed(shares_NT: np.ndarray, words: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
    """Returns the sum of the shares of each word's tokens, f64 [W]."""
    return np.asarray([sum(float(shares_NT[place]) for place in places) for places in words], np.float64)


def _numbers(
    outputs: OutputsFn,
    model: Any,
    baseline: int,
    batch: Mapping[str, jax.Array],
    replaced_BT: jax.Array,
    places: tuple[jax.Array, ...],
    weights: jax.Array,
    *,
    of: str,
) -> jax.Array:
    """Returns the values at places, each times its weight, [n]."""
    vectors = input_vectors(model.encoder.embeddings, batch, baseline)
    given_BTE = jnp.where(replaced_BT[..., None], vectors.nothing_BTE, vectors.own_BTE)
    return outputs(model, {**batch, vectors.field: given_BTE})[of].astype(jnp.float32)[places] * weights


def _gradients(
    outputs: OutputsFn,
    model: Any,
    baseline: int,
    batch: Mapping[str, jax.Array],
    moved_BT: jax.Array,
    places: tuple[jax.Array, ...],
    weights: jax.Array,
    rows: jax.Array,
    *,
    method: str,
    of: str,
    steps: int,
) -> jax.Array:
    """Returns the share of each token, f32 [B, T], by a method that asks for gradients.

    Integrated gradients: the vectors move on a straight line from those of the token that means nothing to those of the
    input. The gradient of the number, averaged over the way (Gauss-Legendre quadrature with `steps` points), times the
    way, is each token's share.
    """
    vectors = input_vectors(model.encoder.embeddings, batch, baseline)
    end_BTE = vectors.own_BTE
    start_BTE = jnp.where(moved_BT[..., None], vectors.nothing_BTE, end_BTE)

    def number(given_BTE: jax.Array) -> jax.Array:
        values = outputs(model, {**batch, vectors.field: given_BTE})[of].astype(jnp.float32)
        return jnp.sum(values[places] * weights)

    def mean(points: Callable[[Any], jax.Array], each: Any, weights_S: jax.Array) -> jax.Array:
        def add(total_BTE: jax.Array, step: Any) -> tuple[jax.Array, None]:
            return total_BTE + step[1] * jax.grad(number)(points(step[0])), None

        return jax.lax.scan(add, jnp.zeros_like(end_BTE), (each, weights_S))[0]

    if method == INTEGRATED:
        nodes_S, weights_S = np.polynomial.legendre.leggauss(steps)  # on -1 .. 1
        ways, shares = jnp.asarray((nodes_S + 1) / 2, jnp.float32), jnp.asarray(weights_S / 2, jnp.float32)
        mean_BTE = mean(lambda way: start_BTE + way * (end_BTE - start_BTE), ways, shares)
        return jnp.sum(mean_BTE * (end_BTE - start_BTE), axis=-1)
    if method == TIMES_INPUT:
        return jnp.sum(jax.grad(number)(end_BTE) * end_BTE, axis=-1)
    assert method == SMOOTHGRAD, method
    present_BT1 = (batch["segment_ids"] != 0)[..., None]
    spread_B11 = jnp.std(end_BTE, axis=(1, 2), keepdims=True, where=present_BT1)

    def noisy(sample: jax.Array) -> jax.Array:
        # A row's noise depends on its number alone, not on the batch that it is computed in.
        keys_B = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(jax.random.key(0), row), sample))(rows)
        noise_BTE = jax.vmap(lambda key: jax.random.normal(key, end_BTE.shape[1:]))(keys_B)
        return end_BTE + jnp.where(moved_BT[..., None], _NOISE * spread_B11 * noise_BTE, 0.0)

    mean_BTE = mean(noisy, jnp.arange(_SAMPLES, dtype=jnp.uint32), jnp.full(_SAMPLES, 1 / _SAMPLES))
    return jnp.sum(mean_BTE * end_BTE, axis=-1)


def _rolled(
    outputs: OutputsFn, model: Any, baseline: int, batch: Mapping[str, jax.Array], reads_BT: jax.Array
) -> jax.Array:
    """Returns what the tokens that are read have of each token, f32 [B, T]; see `models.each_layer.rollout`."""
    del outputs, baseline
    return jnp.einsum("BT,BTS->BS", reads_BT, rollout(model.encoder, batch), precision="highest")
