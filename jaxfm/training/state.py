"""What a run is between two steps: a plain pytree of arrays, born sharded."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.core.initial import HostArray
from jaxfm.parallel import mesh as meshes
from jaxfm.training.adaptation import EVERYTHING, Adaptation
from jaxfm.training.loading import put, put_first
from jaxfm.training.paths import TRAINING_ONLY, path_name
from jaxfm.training.spikes import SpikeGuard

# No weights at hand: all parameters start at random.
NO_PARAMS: Mapping[str, HostArray] = types.MappingProxyType({})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that the next update depends on beside its batch. Leaves are arrays, or their shapes while it is abstract.

    Attributes:
      step: int32 scalar, optimizer updates done.
      params: nested dicts of f32 arrays; what is evaluated, kept and exported.
      opt_state: optax state of the trained part, sharded like the parameters it belongs to.
      key: uint32 [2], threefry key data of the run; anything random is fold_in(key, step).
      live_params: the trained part as the optimizer moves it, where `params` hold an average of it; else empty.
      guard: what the guard against spikes remembers (`training/spikes.py`); empty without one.
    """

    step: Any
    params: Any
    opt_state: Any
    key: Any
    live_params: Any = dataclasses.field(default_factory=dict)
    guard: Any = dataclasses.field(default_factory=dict)


def abstract_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    adaptation: Adaptation = EVERYTHING,
    guard: SpikeGuard | None = None,
) -> TrainState:
    """Returns the state's shapes and shardings for abstract, sharded `params`.

    An optimizer leaf whose path ends with a trained parameter's path and that has its shape is sharded like it; any
    other leaf is whole on every device. (jax.jit(optimizer.init) alone would replicate all of them.)
    """
    whole = meshes.replicated(mesh)
    trained = adaptation.partition.trained(params)
    by_path = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trained)}

    def sharded(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        name = path_name(path)
        owners = [by_path[tail] for tail in _tails(name) if tail in by_path and by_path[tail].shape == leaf.shape]
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=owners[0].sharding if owners else whole)

    opt_state = jax.tree_util.tree_map_with_path(sharded, jax.eval_shape(optimizer.init, trained))
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole)
    remembered = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
        for name, leaf in ({} if guard is None else guard.shapes()).items()
    }
    return TrainState(scalar, params, opt_state, key, trained if adaptation.averaging else {}, remembered)


def new_state(
    make_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    seed: int,
    loaded: Mapping[str, HostArray],
    adaptation: Adaptation = EVERYTHING,
    factors: Mapping[str, float] = types.MappingProxyType({}),
) -> TrainState:
    """Makes the state of step 0: parameters given in `loaded` (path -> array) as they are, all others initialised.

    Those that are drawn are multiplied by their factor of `factors` (path -> number), where there is one. Every leaf is
    made on the devices that keep it; a loaded parameter is never initialised first, unless it is a part of a head that
    has grown (`core/grown_head.py`): its rows are kept, and those that it lacks are drawn. Those that lie in files are
    read one after another (`loading.put`).
    """
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract.params)]
    assert set(loaded) <= set(names), f"loaded parameters that the model lacks: {sorted(set(loaded) - set(names))}"
    shapes, treedef = jax.tree.flatten(abstract.params)
    whole, grown = set[str](), set[str]()
    for name, shape in zip(names, shapes, strict=True):
        if name in loaded:
            (whole if loaded[name].shape == shape.shape else grown).add(name)
            assert name in whole or _is_part(name, loaded[name], shape), f"{name}: {loaded[name].shape}, {shape.shape}"
    model_key, _ = jax.random.split(jax.random.key(seed))

    def init_missing() -> list[jax.Array]:
        leaves = jax.tree.leaves(meshes.initialise(lambda: make_model(nnx.Rngs(model_key))))
        return [
            leaf * factors[name] if name in factors else leaf
            for name, leaf in zip(names, leaves, strict=True)
            if name not in whole
        ]

    shardings = [shape.sharding for name, shape in zip(names, shapes, strict=True) if name not in whole]
    fresh = iter(jax.jit(init_missing, out_shardings=shardings)())

    def leaf(name: str, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if name in whole:
            return put(loaded[name], shape)
        return put_first(next(fresh), loaded[name]) if name in grown else next(fresh)

    leaves = [leaf(name, shape) for name, shape in zip(names, shapes, strict=True)]
    params = jax.tree.unflatten(treedef, leaves)

    def init_rest(params: Any) -> tuple[Any, Any]:
        trained = adaptation.partition.trained(params)
        # Copies: a step is given both away.
        return optimizer.init(trained), jax.tree.map(jnp.copy, trained) if adaptation.averaging else {}

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (abstract.opt_state, abstract.live_params))
    opt_state, live_params = jax.jit(init_rest, out_shardings=shardings)(params)
    return TrainState(
        step=put(np.zeros((), np.int32), abstract.step),
        params=params,
        opt_state=opt_state,
        key=put(run_key_data(seed), abstract.key),
        live_params=live_params,
        guard=jax.tree.map(lambda leaf: put(np.zeros(leaf.shape, leaf.dtype), leaf), abstract.guard),
    )


def _is_part(name: str, value: HostArray, shape: jax.ShapeDtypeStruct) -> bool:
    """Whether a loaded array may be the first part of a parameter, along some axes: heads grow, encoders never do."""
    smaller = len(value.shape) == len(shape.shape) and all(map(int.__le__, value.shape, shape.shape))
    return smaller and not name.startswith("encoder/")


def run_key_data(seed: int) -> np.ndarray:
    """Returns the key data, uint32 [2], of all that is random in a run after its first parameters."""
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed))[1]))


def count_parameters(params: Any, encoder: EncoderConfig) -> int:
    """Returns the number of scalars in (abstract) `params`, without padding rows and what only training has."""
    count = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path_name(path).startswith(f"{TRAINING_ONLY}/"):
            continue
        rows = [encoder.vocab_size] if has_padded_rows(path_name(path)) else leaf.shape[:1]
        count += math.prod((*rows, *leaf.shape[1:]))
    return count


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of a model is trained, and what that costs.

    Attributes:
      parameters: scalars of the model.
      trainable_parameters: those of them that are trained.
      optimizer_bytes: of the optimizer's state, over all devices.
    """

    parameters: int
    trainable_parameters: int
    optimizer_bytes: int

    @property
    def share(self) -> float:
        """Of the parameters that are trained."""
        return self.trainable_parameters / self.parameters


def size_of(state: TrainState, adaptation: Adaptation, encoder: EncoderConfig) -> Size:
    """Counts what an (abstract) state holds."""
    trained = adaptation.partition.trained(state.params)
    held = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    return Size(count_parameters(state.params, encoder), count_parameters(trained, encoder), held)


def _tails(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]
