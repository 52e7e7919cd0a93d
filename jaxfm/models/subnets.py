"""Smaller encoders inside one: its first heads and neurons, and some of its layers, with the same weights.

A subnet has fewer layers, heads and neurons of the feed-forward parts, the same numbers in each layer, so that it is an
ordinary encoder; the width of the residual stream stays. It keeps the first heads and neurons of each layer, and layers
that lie evenly, the first and the last always among them (Cai et al. 2020, "Once-for-all", arXiv 1908.09791; Hou et al.
2020, DynaBERT, arXiv 2004.04037).

There are two ways to compute one. `select` leaves the arrays as they are: what is left out is multiplied by zero, and
layers that are left out pass their input on, by values that may be traced, so that one program computes every subnet.
`cut` takes the arrays of a subnet out of those of the whole, for a model of the smaller shape. Both give the same
outputs.

Between pre-norm layers lies one norm, which belongs to the layer before. Where layers are left out the norm that is
kept is that of the layer after it (and at the end the encoder's own): the one that this layer has learned with.
"""

# L layers, N heads, H head dim, F ffn, D model

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig

LAYERS = "encoder/layers/"
BIAS_TABLE = "encoder/common/relative/embedding"  # [buckets, N] where relative positions are a "bias"
NEXT_NORM = "next_norm/"
# What reads the heads and the neurons of a layer, with their axis: zeros there leave them out.
HEADS_READ_BY, NEURONS_READ_BY = "attention/output/kernel", "ffn/down/kernel"
HEADS_AXIS = {  # of arrays [L, ...] with an axis of heads; keys and values may have fewer heads than queries
    **{f"attention/{name}/kernel": 2 for name in ("query", "position_key", "position_query")},
    **{f"attention/{name}/bias": 1 for name in ("query", "position_key", "position_query")},
    HEADS_READ_BY: 1,
}
SHARED_HEADS_AXIS = {
    **{f"attention/{name}/kernel": 2 for name in ("key", "value")},
    **{f"attention/{name}/bias": 1 for name in ("key", "value")},
}
NEURONS_AXIS = {
    **{f"ffn/{name}/kernel": 2 for name in ("up", "gate")},
    **{f"ffn/{name}/bias": 1 for name in ("up", "gate")},
    NEURONS_READ_BY: 1,
}


class Subnet(NamedTuple):
    """The shape of a subnet.

    Attributes:
      depth: number of layers.
      heads: of each layer.
      ffn_size: neurons of each feed-forward part.
    """

    depth: int
    heads: int
    ffn_size: int


@dataclasses.dataclass(frozen=True)
class SubnetSpace:
    """The subnets of an encoder: every combination of these sizes, each ascending, the encoder's own the last.

    Attributes:
      depths: numbers of layers.
      heads: numbers of heads.
      ffn_sizes: numbers of neurons.
    """

    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ffn_sizes: tuple[int, ...]

    @property
    def axes(self) -> tuple[tuple[int, ...], ...]:
        """The sizes, in the order of `Subnet`."""
        return self.depths, self.heads, self.ffn_sizes

    @property
    def largest(self) -> Subnet:
        """The whole encoder."""
        return Subnet(*(sizes[-1] for sizes in self.axes))

    @property
    def smallest(self) -> Subnet:
        """The subnet with the least of everything."""
        return Subnet(*(sizes[0] for sizes in self.axes))

    def __iter__(self) -> Iterator[Subnet]:
        """Yields every subnet."""
        return (Subnet(*sizes) for sizes in itertools.product(*self.axes))


class Selected(nnx.Module):
    """A model and what is kept of it as parameters, beside each other: one program for all its subnets."""

    def __init__(self, model: nnx.Module, encoder: EncoderConfig, *, by_layer: bool = False):
        """Begins with all that there is; `by_layer`: each layer may keep other heads and neurons than the next."""
        whole = selection_of(encoder, Subnet(encoder.num_layers, encoder.num_heads, encoder.ffn_size))
        if by_layer:
            stacks = encoder.layer_stacks
            heads, neurons = (np.tile(part, (stacks, 1)) for part in (whole.heads, whole.neurons))
            whole = Selection(whole.layers[:stacks], heads, neurons)
        self.model = model
        self.layers, self.heads, self.neurons = (nnx.Param(jnp.asarray(part)) for part in whole)

    def subnet(self) -> Any:
        """Returns the model as `select` does."""
        return select(self.model, Selection(self.layers[...], self.heads[...], self.neurons[...]))


class Selection(NamedTuple):
    """What of an encoder a subnet keeps: f32 1 or 0, of its layers bool; numpy's, JAX's, traced or not.

    Attributes:
      layers: [L], of layers that share their weights one a group.
      heads: [N], or [L, N] where each layer keeps its own.
      neurons: [F], or [L, F].
    """

    layers: Any
    heads: Any
    neurons: Any


def kept_layers(layers: int, depth: int) -> tuple[int, ...]:
    """Returns the `depth` of `layers` layers that a subnet keeps: evenly spaced, with the first and the last."""
    assert 0 < depth <= layers, (depth, layers)
    if depth == 1:
        return (0,)
    return tuple((2 * place * (layers - 1) + depth - 1) // (2 * (depth - 1)) for place in range(depth))


def selection_of(encoder: EncoderConfig, subnet: Subnet) -> Selection:
    """Returns what a subnet keeps, on the host."""
    layers = np.isin(np.arange(encoder.num_layers), kept_layers(encoder.num_layers, subnet.depth))
    heads = (np.arange(encoder.num_heads) < subnet.heads).astype(np.float32)
    neurons = (np.arange(encoder.ffn_size) < subnet.ffn_size).astype(np.float32)
    return Selection(layers, heads, neurons)


def draw_selection(key: jax.Array, encoder: EncoderConfig, space: SubnetSpace) -> Selection:
    """Returns what a subnet keeps whose sizes are drawn, each evenly and by itself."""
    depth_key, heads_key, neurons_key = jax.random.split(key, 3)
    layers = np.stack([selection_of(encoder, space.largest._replace(depth=depth)).layers for depth in space.depths])

    def drawn(key: jax.Array, sizes: Sequence[int], size: int) -> jax.Array:
        most = jnp.asarray(sizes)[jax.random.randint(key, (), 0, len(sizes))]
        return (jnp.arange(size) < most).astype(jnp.float32)

    return Selection(
        layers=jnp.asarray(layers)[jax.random.randint(depth_key, (), 0, len(space.depths))],
        heads=drawn(heads_key, space.heads, encoder.num_heads),
        neurons=drawn(neurons_key, space.ffn_sizes, encoder.ffn_size),
    )


def select(model: Any, selection: Selection) -> Any:
    """Returns the model with an encoder that computes as a subnet of it does.

    Args:
      model: with its encoder as `encoder`; it stays as it is.
      selection: what is kept.
    """
    graphdef, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    stacked = params["encoder"]["layers"]
    for part, kept in (
        (stacked["attention"]["output"], jnp.asarray(selection.heads)[..., None, None]),
        (stacked["ffn"]["down"], jnp.asarray(selection.neurons)[..., None]),
    ):
        part["kernel"] = part["kernel"] * kept
    model = nnx.merge(graphdef, params)
    layers = model.encoder.layers
    layers.gate = nnx.Variable(jnp.asarray(selection.layers))
    return model


def cut_encoder(encoder: EncoderConfig, subnet: Subnet) -> EncoderConfig:
    """Returns the shape of a subnet as an encoder by itself."""
    shared = encoder.num_heads // encoder.kv_heads
    width = encoder.head_dim
    same = subnet.heads * width == encoder.hidden_size
    return dataclasses.replace(
        encoder,
        num_layers=subnet.depth,
        num_heads=subnet.heads,
        num_kv_heads=subnet.heads // shared if encoder.num_kv_heads else 0,
        head_size=0 if same and not encoder.head_size else width,
        ffn_size=subnet.ffn_size,
    )


def cut(params: Mapping[str, Any], encoder: EncoderConfig, subnet: Subnet) -> dict[str, np.ndarray]:
    """Returns the arrays (path -> array) of a subnet; those that are not of layers as they are.

    Args:
      params: path -> array of a model with that encoder, on the host.
      encoder: its shape.
      subnet: one of its subnets.
    """
    found = {}
    for path, value in take_layers(params, encoder, kept_layers(encoder.num_layers, subnet.depth)).items():
        name, array = path.removeprefix(LAYERS), np.asarray(value)
        if name != path:
            for axis, size in _cut_axes(name, encoder, subnet).items():
                array = np.take(array, range(size), axis=axis)
        found[path] = np.ascontiguousarray(array)
    return found


def take_layers(params: Mapping[str, Any], encoder: EncoderConfig, kept: Sequence[int]) -> dict[str, Any]:
    """Returns the arrays (path -> array) with some layers alone, counted from 0; those of no layer as they are.

    Between pre-norm layers each kept one reads what the norm gives that it has learned with.
    """
    norms = (*(layer - 1 for layer in kept[1:]), encoder.num_layers - 1)
    found = dict(params)
    for path, value in params.items():
        name = path.removeprefix(LAYERS)
        if name != path:
            found[path] = np.asarray(value)[list(norms if name.startswith(NEXT_NORM) else kept)]
    return found


def cut_shapes(
    shapes: Mapping[str, tuple[int, ...]], encoder: EncoderConfig, subnet: Subnet
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what `cut` gives (path -> shape), without any array."""
    found = {}
    for path, shape in shapes.items():
        name = path.removeprefix(LAYERS)
        sizes = {} if name == path else {0: subnet.depth, **_cut_axes(name, encoder, subnet)}
        found[path] = tuple(sizes.get(axis, size) for axis, size in enumerate(shape))
    return found


def _cut_axes(name: str, encoder: EncoderConfig, subnet: Subnet) -> dict[int, int]:
    """Returns the axes of a layer's array of which a subnet keeps the first part -> how much of it."""
    shared = encoder.num_heads // encoder.kv_heads
    return {
        axes[name]: size
        for axes, size in (
            (HEADS_AXIS, subnet.heads),
            (SHARED_HEADS_AXIS, subnet.heads // shared),
            (NEURONS_AXIS, subnet.ffn_size),
        )
        if name in axes
    }


def pad_heads(params: Mapping[str, Any], encoder: EncoderConfig, count: int) -> dict[str, Any]:
    """Returns the arrays (path -> array) with heads of zeros after those of each layer, `count` in all.

    They add nothing to what the encoder computes. Keys and values must not be shared by heads.
    """
    found = dict(params)
    for name, axis in (HEADS_AXIS | SHARED_HEADS_AXIS).items():
        path = f"{LAYERS}{name}"
        if path in params:
            value = np.asarray(params[path])
            more = [(0, count - value.shape[axis] if each == axis else 0) for each in range(value.ndim)]
            found[path] = np.pad(value, more)
    if BIAS_TABLE in params and encoder.relative_positions == "bias":
        value = np.asarray(params[BIAS_TABLE])
        found[BIAS_TABLE] = np.pad(value, [(0, 0), (0, count - value.shape[1])])
    return found


def order(
    params: Mapping[str, Any], heads_LN: np.ndarray | None, neurons_LF: np.ndarray | None
) -> dict[str, np.ndarray | Any]:
    """Returns the arrays (path -> array) with the heads and neurons of each layer in another order.

    That changes nothing of what the encoder computes: heads are summed, and so are neurons.

    Args:
      params: path -> array.
      heads_LN: of each layer, the head that comes first, second ...; None: as they are.
      neurons_LF: likewise the neurons.
    """
    found = dict(params)
    for axes, order_LX in ((HEADS_AXIS | SHARED_HEADS_AXIS, heads_LN), (NEURONS_AXIS, neurons_LF)):
        for name, axis in axes.items():
            path = f"{LAYERS}{name}"
            if order_LX is None or path not in params:
                continue
            value = np.asarray(params[path])
            index = order_LX.reshape(len(order_LX), *[1] * (axis - 1), -1, *[1] * (value.ndim - axis - 1))
            found[path] = np.take_along_axis(value, index, axis=axis)
    return found


def importance(params: Any, grads: Any) -> tuple[jax.Array, jax.Array]:
    """Returns how much the loss would change without each head [L, N] and each neuron [L, F], to first order.

    |dL/ds| for a factor s = 1 of what the head, or neuron, contributes (Michel et al. 2019; Hou et al. 2020, section
    3.1): the product of the weights that read it and of their gradient, summed.

    Args:
      params: path -> array.
      grads: path -> gradient of the loss.
    """
    found = []
    for name in (HEADS_READ_BY, NEURONS_READ_BY):
        product = params[f"{LAYERS}{name}"] * grads[f"{LAYERS}{name}"]
        found.append(jnp.abs(product.sum(axis=tuple(range(2, product.ndim)))))
    return found[0], found[1]
