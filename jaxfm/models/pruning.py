"""Encoders of which the important heads, neurons and layers are kept: each layer its own ones, all layers alike many.

What is left is an ordinary encoder with smaller arrays. Before it is cut out it can be computed by masks
(`models.subnets.select`), by one program for every choice; both give the same outputs.

Heads that share keys and values are kept or dropped together, and where all layers share biases by distance, each layer
keeps the same heads. Layers that share their weights are never dropped, nor is the first of those whose number decides
what they see or normalise.
"""

# L layers, S stacks of weights (layers, or groups of layers that share theirs), N heads, F ffn; n, f: of these kept

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.subnets import (
    BIAS_TABLE,
    HEADS_AXIS,
    LAYERS,
    NEURONS_AXIS,
    NEXT_NORM,
    SHARED_HEADS_AXIS,
    Selection,
    Subnet,
    cut_encoder,
)

PARTS = ("heads", "neurons", "layers")
_FIRST_NORM = "encoder/common/first_norm/"
_STEPS = 32  # numbers of neurons that are looked at


class Importance(NamedTuple):
    """How much a loss would change without a head or a neuron.

    Attributes:
      heads: [S, N].
      neurons: [S, F].
    """

    heads: np.ndarray
    neurons: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What of an encoder is kept.

    Attributes:
      layers: their numbers, ascending.
      heads: [S, n], the numbers of each stack's heads, ascending; also of layers that are dropped.
      neurons: [S, f], likewise.
    """

    layers: tuple[int, ...]
    heads: np.ndarray
    neurons: np.ndarray

    @property
    def shape(self) -> Subnet:
        """Numbers of layers, heads and neurons."""
        return Subnet(len(self.layers), self.heads.shape[1], self.neurons.shape[1])

    def selection(self, encoder: EncoderConfig) -> Selection:
        """Returns what is kept as masks: the model that `models.subnets.select` makes of them computes the same."""

        def mask(kept: np.ndarray, size: int) -> np.ndarray:
            found = np.zeros((len(kept), size), np.float32)
            np.put_along_axis(found, kept, 1.0, axis=1)
            return found

        layers = np.isin(np.arange(encoder.num_layers), self.layers)[: encoder.layer_stacks]
        return Selection(layers, mask(self.heads, encoder.num_heads), mask(self.neurons, encoder.ffn_size))

    def to_json(self, encoder: EncoderConfig) -> dict[str, Any]:
        """Returns JSON values: of each kept stack the numbers of its heads, and how many neurons."""
        stacks = range(encoder.layer_stacks) if encoder.layer_groups else self.layers
        return {
            "layers": list(self.layers),
            "heads": {str(stack): self.heads[stack].tolist() for stack in stacks},
            "neurons": self.neurons.shape[1],
        }


def units_of_layers(encoder: EncoderConfig) -> list[tuple[int, ...]]:
    """Returns the layers that can be dropped, those that only go together as one unit.

    Where some layers see a window, a whole period of them goes, so that those after it see what they saw. The first
    layer stays where it alone reads the embeddings without a norm.
    """
    if encoder.layer_groups:
        return []
    period = encoder.global_every if encoder.local_window else 1
    units = [tuple(range(first, first + period)) for first in range(0, encoder.num_layers - period + 1, period)]
    stays = encoder.pre_norm and not encoder.first_norm
    return units[1:] if stays else units


def keep(encoder: EncoderConfig, importance: Importance, heads: int, neurons: int, depths: int = 0) -> Iterator[Kept]:
    """Yields the most important heads and neurons with all layers, then with the least important layers dropped.

    Args:
      encoder: of which they are.
      importance: of its parts; a layer's is the sum over the heads and neurons that it keeps.
      heads: of each layer, a multiple of the heads that share keys and values.
      neurons: of each layer.
      depths: how often a unit of layers may be dropped.
    """
    heads_SN = _ranked_heads(encoder, importance.heads)[:, :heads]
    neurons_SF = np.argsort(-importance.neurons, axis=1, kind="stable")[:, :neurons]
    of_stacks = np.take_along_axis(importance.heads, heads_SN, 1).sum(axis=1)
    of_stacks = of_stacks + np.take_along_axis(importance.neurons, neurons_SF, 1).sum(axis=1)
    heads_SN, neurons_SF = np.sort(heads_SN, axis=1), np.sort(neurons_SF, axis=1)
    units = sorted(units_of_layers(encoder), key=lambda unit: (sum(of_stacks[list(unit)]), unit))
    layers = set(range(encoder.num_layers))
    for count in range(min(depths, len(units)) + 1):
        if count:
            layers -= set(units[count - 1])
        if layers:
            yield Kept(tuple(sorted(layers)), heads_SN, neurons_SF)


def share_kept(encoder: EncoderConfig, importance: Importance, kept: Kept) -> float:
    """Returns the part of all importance that is of what is kept."""
    stacks = list(range(encoder.layer_stacks)) if encoder.layer_groups else list(kept.layers)
    found = np.take_along_axis(importance.heads, kept.heads, 1)[stacks].sum()
    found += np.take_along_axis(importance.neurons, kept.neurons, 1)[stacks].sum()
    whole = importance.heads.sum() + importance.neurons.sum()
    return float(found / whole) if whole > 0 else 1.0


def best_within(
    encoder: EncoderConfig, importance: Importance, parts: Collection[str], is_within: Callable[[Subnet], bool]
) -> list[Kept]:
    """Returns, for each number of layers, the choice within a budget that keeps the most importance, the best first.

    Args:
      encoder: the whole one.
      importance: of its parts.
      parts: of `PARTS`, those that may be fewer.
      is_within: whether a shape is within the budget; a larger one is so only if the smaller one is.
    """
    shared = encoder.num_heads // encoder.kv_heads
    heads = range(shared, encoder.num_heads + 1, shared) if "heads" in parts else (encoder.num_heads,)
    neurons = neuron_sizes(encoder.ffn_size) if "neurons" in parts else (encoder.ffn_size,)
    units = len(units_of_layers(encoder)) if "layers" in parts else 0
    found: dict[int, tuple[float, Kept]] = {}
    for depth, dropped in _depths(encoder, units):
        for count in heads:
            # As many neurons as the budget leaves room for.
            most = _largest(neurons, lambda size, shape=(depth, count): is_within(Subnet(*shape, size)))
            if not most:
                continue
            (*_, kept) = keep(encoder, importance, count, most, dropped)
            share = share_kept(encoder, importance, kept)
            if depth not in found or share > found[depth][0]:
                found[depth] = share, kept
    return [kept for _, kept in sorted(found.values(), key=lambda each: -each[0])]


def _depths(encoder: EncoderConfig, units: int) -> list[tuple[int, int]]:
    """Returns numbers of layers that are left, at least one, and how many units are dropped for that."""
    size = len(next(iter(units_of_layers(encoder)), ()))
    found = [(encoder.num_layers - dropped * size, dropped) for dropped in range(units + 1)]
    return [each for each in found if each[0] > 0]


def neuron_sizes(size: int) -> tuple[int, ...]:
    """Returns the numbers of neurons that are looked at, ascending: up to 32, evenly spaced, multiples of 8 or 16.

    Matrix units compute with blocks of such sizes; an odd number costs as much as the next block.
    """
    multiple = 16 if size >= 16 * _STEPS else 8 if size >= 64 else 1
    step = max(math.ceil(size / _STEPS / multiple) * multiple, 1)
    return (*range(step, size, step), size)


def pruned_encoder(encoder: EncoderConfig, kept: Kept) -> EncoderConfig:
    """Returns the shape of what is kept as an encoder by itself."""
    return cut_encoder(encoder, kept.shape)


def prune(params: Mapping[str, Any], encoder: EncoderConfig, kept: Kept) -> dict[str, np.ndarray]:
    """Returns the arrays (path -> array) of what is kept; those that are not of layers as they are.

    A layer after dropped ones keeps the norm that it has read by: that of the layer before it, or the first one.

    Args:
      params: path -> array of a model with that encoder, on the host.
      encoder: its shape.
      kept: of it.
    """
    stacks = list(range(encoder.layer_stacks)) if encoder.layer_groups else list(kept.layers)
    norms = [*(layer - 1 for layer in stacks[1:]), encoder.layer_stacks - 1]
    groups_SK = kept.heads[:, :: encoder.num_heads // encoder.kv_heads] // (encoder.num_heads // encoder.kv_heads)
    by_axis: Sequence[tuple[Mapping[str, int], np.ndarray]] = (
        (HEADS_AXIS, kept.heads),
        (SHARED_HEADS_AXIS, groups_SK),
        (NEURONS_AXIS, kept.neurons),
    )
    found = {}
    for path, value in params.items():
        name, array = path.removeprefix(LAYERS), np.asarray(value)
        if name != path:
            for axes, kept_SX in by_axis:
                if name in axes:
                    array = _taken(array, kept_SX, axes[name])
            array = array[norms if name.startswith(NEXT_NORM) else stacks]
        elif path == BIAS_TABLE and encoder.relative_positions == "bias":
            array = array[:, kept.heads[0]]
        elif path.startswith(_FIRST_NORM) and stacks[0] > 0:
            name = path.removeprefix(_FIRST_NORM)
            array = np.asarray(params[f"{LAYERS}{NEXT_NORM}{name}"])[stacks[0] - 1]
        found[path] = np.ascontiguousarray(array)
    return found


def _taken(array: np.ndarray, kept_SX: np.ndarray, axis: int) -> np.ndarray:
    index = kept_SX.reshape(len(kept_SX), *[1] * (axis - 1), -1, *[1] * (array.ndim - axis - 1))
    return np.take_along_axis(array, index, axis=axis)


def _ranked_heads(encoder: EncoderConfig, importance_SN: np.ndarray) -> np.ndarray:
    """Returns the heads of each stack [S, N], the most important first, those that share keys side by side."""
    shared = encoder.num_heads // encoder.kv_heads
    groups_SK = importance_SN.reshape(len(importance_SN), -1, shared).sum(axis=2)
    if encoder.relative_positions == "bias":
        groups_SK = np.broadcast_to(groups_SK.sum(axis=0), groups_SK.shape)
    ranked_SK = np.argsort(-groups_SK, axis=1, kind="stable")
    return (ranked_SK[:, :, None] * shared + np.arange(shared)).reshape(len(importance_SN), -1)


def _largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int:
    """Returns the largest of ascending sizes that fits, where all below one that fits do too; 0: none does."""
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low - 1] if low else 0
