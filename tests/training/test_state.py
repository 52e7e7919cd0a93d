"""The state of step 0: where its parts lie and which numbers they hold."""

from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.models.heads import TokenClassifier
from jaxfm.optim_config import OptimConfig
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.training.optim import make_optimizer
from jaxfm.training.paths import path_name
from jaxfm.training.rate_schedules import make_schedule
from jaxfm.training.state import TrainState, abstract_state, count_parameters, new_state
from tests import tiny

CLASSES = 4


def make_model(rngs: nnx.Rngs) -> nnx.Module:
    return TokenClassifier(tiny.ENCODER, CLASSES, Build(dtype=jnp.dtype(jnp.float32)), rngs)


def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    return make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])


def state_on(mesh: Mesh, loaded: dict[str, np.ndarray], seed: int = 3) -> TrainState:
    _, params = build_abstract(lambda: make_model(nnx.Rngs(0)), mesh)
    config = OptimConfig()
    optimizer = make_optimizer(config, make_schedule(config, 10), params)
    return new_state(make_model, optimizer, abstract_state(params, optimizer, mesh), seed, loaded)


def named(tree: Any) -> dict[str, jax.Array]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def bits(value: Any) -> np.ndarray:
    return np.asarray(value).view(np.uint32)


@pytest.mark.parametrize(("sizes", "kernel_share"), [((4, 1, 1), 1), ((2, 2, 1), 1 / 2), ((1, 2, 2), 1 / 4)])
def test_optimizer_state_is_cut_like_its_parameters(sizes: tuple[int, int, int], kernel_share: float) -> None:
    state = state_on(mesh_of(*sizes), tiny.random_params(tiny.ENCODER, CLASSES, seed=0))
    params = named(state.params)
    for name, leaf in named(state.opt_state).items():
        owner = next((param for param in params if name.endswith(f"/{param}")), None)
        if owner is None:
            assert leaf.shape == (), name  # counts
        else:
            assert leaf.sharding == params[owner].sharding, name
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    assert moments > 2 * count_parameters(state.params, tiny.ENCODER)
    kernel = params["encoder/layers/ffn/up/kernel"]
    assert kernel.addressable_shards[0].data.nbytes == kernel_share * kernel.nbytes
    # Biases and norms stay whole on each device: the rest of 0.1.
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert held <= 4 * moments * (1 if kernel_share == 1 else kernel_share + 0.1)


def test_loaded_parameters_are_used_bit_for_bit_and_the_others_initialised() -> None:
    loaded = tiny.random_params(tiny.ENCODER, CLASSES, seed=0)
    missing = {name: loaded.pop(name) for name in ("head/kernel", "encoder/layers/ffn/up/kernel")}
    loaded["head/bias"] = np.asarray([-0.0, 1e-40, 3.4e38, -1.17549435e-38], np.float32)  # -0.0 and a denormal too
    params = named(state_on(mesh_of(1, 2, 2), loaded).params)
    for name, value in loaded.items():
        np.testing.assert_array_equal(bits(params[name]), bits(value), err_msg=name)
    for name, value in missing.items():
        drawn = np.asarray(params[name])
        assert drawn.shape == value.shape
        assert 0.5 * tiny.ENCODER.initializer_range < drawn.std() < 1.1 * tiny.ENCODER.initializer_range
        assert np.abs(drawn).max() < 2.3 * tiny.ENCODER.initializer_range  # cut at two deviations of the untruncated


def test_the_same_seed_gives_the_same_state_on_any_mesh() -> None:
    states = [state_on(mesh_of(*sizes), {}) for sizes in ((1, 1, 1), (2, 2, 1), (1, 2, 2))]
    for state in states[1:]:
        for name, leaf in named(state).items():
            np.testing.assert_array_equal(np.asarray(leaf), np.asarray(named(states[0])[name]), err_msg=name)
    layers = named(states[0].params)["encoder/layers/ffn/up/kernel"]
    assert not np.array_equal(layers[0], layers[1])  # each layer has numbers of its own


def test_another_seed_gives_other_parameters_and_another_key() -> None:
    loaded = tiny.random_params(tiny.ENCODER, CLASSES, seed=0)
    del loaded["head/kernel"]
    mesh = mesh_of(1, 1, 1)
    first, second = state_on(mesh, loaded, seed=3), state_on(mesh, loaded, seed=4)
    assert not np.array_equal(first.params["head"]["kernel"], second.params["head"]["kernel"])
    assert not np.array_equal(first.key, second.key)
    flat = flax.traverse_util.flatten_dict(second.params, sep="/")
    assert all(np.array_equal(flat[name], value) for name, value in loaded.items())
