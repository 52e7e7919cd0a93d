"""Hidden states between layers, and layers of a number that is traced, against encoders that end there."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.exits import exit_paths
from jaxfm.models.heads import SequenceClassifier
from jaxfm.models.stack import apply_some_layers, first_stream
from jaxfm.parallel.mesh import build_abstract, initialise, make_mesh
from jaxfm.training.paths import flat, nested
from tests import tiny

POST = dataclasses.replace(tiny.ENCODER, num_layers=4)
PRE = dataclasses.replace(POST, norm_placement="pre", first_norm=True)
WINDOWS = dataclasses.replace(POST, local_window=4, global_every=3, position_embedding="rope")
SHARED = dataclasses.replace(POST, layer_groups=2)


def graphdef_of(make: Callable[[], Any]) -> Any:
    return build_abstract(make, make_mesh(MeshConfig()))[0]


def model_of(encoder: EncoderConfig, build: Build, exits: tuple[int, ...] = (1, 3)) -> Any:
    def make() -> SequenceClassifier:
        return SequenceClassifier(encoder, 3, build, nnx.Rngs(0), segments=2, exits=exits)

    params = tiny.drawn(make, encoder, seed=1)
    return nnx.merge(graphdef_of(make), nested({path: jnp.asarray(value) for path, value in params.items()}))


def batch_of(rows: int = 2, length: int = 16) -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    segments = np.repeat([[1] * 7 + [2] * 6 + [0] * (length - 13)], rows, axis=0)
    positions = np.repeat([[*range(7), *range(6), *[0] * (length - 13)]], rows, axis=0)
    tokens = draw.integers(1, 90, (rows, length)) * (segments > 0)
    return {
        "tokens": jnp.asarray(tokens, jnp.int32),
        "segment_ids": jnp.asarray(segments, jnp.int32),
        "positions": jnp.asarray(positions, jnp.int32),
    }


def first_layers(model: Any, encoder: EncoderConfig, count: int) -> Any:
    """Returns the encoder of the first `count` layers, without a norm after the last."""
    short = dataclasses.replace(encoder, num_layers=count, layer_groups=0)
    graphdef, wanted = build_abstract(
        lambda: SequenceClassifier(short, 3, Build(scan=False), nnx.Rngs(0), segments=2), make_mesh(MeshConfig())
    )
    params = flat(nnx.to_pure_dict(nnx.state(model)))
    each = encoder.num_layers // encoder.layer_stacks
    stacks = [layer // each for layer in range(count)]
    found = {
        path: params[path][np.asarray(stacks)] if path.startswith("encoder/layers/") else params[path]
        for path in flat(wanted)
    }
    return nnx.merge(graphdef, nested(found))


@pytest.mark.parametrize("encoder", [POST, PRE, WINDOWS, SHARED], ids=["post", "pre", "windows", "shared"])
@pytest.mark.parametrize("scan", [False, True])
def test_states_are_those_of_encoders_that_end_there(encoder: EncoderConfig, scan: bool) -> None:
    model, batch = model_of(encoder, Build(scan=scan)), batch_of()
    first, third, last = jax.jit(lambda: model.encoder.states(batch, (1, 3)))()
    np.testing.assert_allclose(last.x_BTD, model.encoder(batch), atol=1e-6)
    for count, found in ((1, first), (3, third)):
        shorter = first_layers(model, encoder, count).encoder
        states = found.x_BTD
        if encoder.pre_norm:  # the norm after it is the next layer's
            norms = jax.tree.map(lambda leaf, at=count: leaf[at - 1], nnx.split(model.encoder.layers)[1])
            states = nnx.merge(nnx.split(model.encoder.layers)[0], norms).next_norm(states)
        np.testing.assert_allclose(states, shorter(batch), atol=1e-5)


@pytest.mark.parametrize("encoder", [POST, PRE, WINDOWS, SHARED], ids=["post", "pre", "windows", "shared"])
def test_layers_from_a_traced_number_on_are_the_same_layers(encoder: EncoderConfig) -> None:
    model, batch = model_of(encoder, Build()), batch_of()
    found = model.encoder
    inputs = found.embeddings(batch, None)

    def some(stream: Any, first: jax.Array, count: int, phase: int) -> Any:
        return apply_some_layers(
            encoder, found.layers, found.common, stream, inputs.segment_ids_BT, inputs.positions_BT, found.build,
            first=first, count=count, phase=phase,
        )  # fmt: skip

    run: Any = jax.jit(some, static_argnums=(2, 3))
    period = encoder.global_every if encoder.local_window else 1
    stream = first_stream(encoder, found.common, inputs.x_BTD)
    for first, count in ((0, 1), (1, 2), (3, 1)):
        stream = run(stream, jnp.int32(first), count, first % period)
    wanted = found(batch)
    np.testing.assert_allclose(stream[1] if encoder.pre_norm else stream, wanted, atol=1e-6)
    if period == 1:  # one program for one layer, wherever it lies
        assert run._cache_size() == 2


def test_an_early_head_between_pre_norm_layers_has_its_own_norm() -> None:
    for encoder, has_norm in ((POST, False), (PRE, True)):
        paths = flat(
            jax.eval_shape(
                lambda e=encoder: initialise(
                    lambda: SequenceClassifier(e, 3, Build(), nnx.Rngs(0), segments=2, exits=(2,))
                )
            )
        )
        assert any(path.startswith("exits/after_2/norm/") for path in paths) == has_norm
        beginnings = exit_paths((2,), ("pooler/", "head/"))
        assert all(path.startswith(beginnings) for path in paths if path.startswith("exits/"))
