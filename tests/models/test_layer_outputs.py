"""What layers say on the way, against transformers and against the encoder itself."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.encoder import Encoder
from jaxfm.models.layer_outputs import attention_scores, queries_keys_values, record
from jaxfm.parallel.mesh import build_abstract, make_mesh
from tests import tiny

SHAPE = dataclasses.replace(tiny.ENCODER, num_layers=4)


def batch_of(tokens: int = 8) -> dict[str, jax.Array]:
    drawn = np.random.default_rng(0).integers(5, 60, (2, tokens)).astype(np.int32)
    positions = np.tile(np.arange(tokens, dtype=np.int32), (2, 1))
    return {
        "tokens": jnp.asarray(drawn),
        "segment_ids": jnp.ones((2, tokens), jnp.int32),
        "positions": jnp.asarray(positions),
    }


def made(config: EncoderConfig, params: Any, build: Build = DEFAULT_BUILD) -> Encoder:
    graphdef, _ = build_abstract(lambda: Encoder(config, build, nnx.Rngs(0)), make_mesh(MeshConfig()))
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, params))


def test_states_and_scores_are_those_of_transformers(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path, SHAPE)
    checkpoint = read_checkpoint(tmp_path)
    params = tiny.nested({path: np.asarray(value) for path, value in checkpoint.params.items()})["encoder"]
    encoder = made(SHAPE, params)
    recording = record(encoder)
    batch = batch_of()
    last = encoder(batch)
    (states_LBTD,), (inputs,) = recording.states, recording.inputs
    np.testing.assert_array_equal(states_LBTD[-1], last)

    model: Any = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    with torch.no_grad():
        known = model(
            torch.tensor(np.asarray(batch["tokens"])).long(), output_hidden_states=True, output_attentions=True
        )
    assert len(known.hidden_states) == len(states_LBTD) == 5
    for mine, theirs in zip(states_LBTD, known.hidden_states, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)
    for layer, theirs in enumerate(known.attentions):
        scores = attention_scores(encoder, layer, states_LBTD[layer], inputs.positions_BT)
        np.testing.assert_allclose(jax.nn.softmax(scores), theirs, atol=1e-5)
        q_BTNH, k_BTNH, _ = queries_keys_values(encoder, layer, states_LBTD[layer])
        products = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH, k_BTNH) / 4
        np.testing.assert_allclose(products, scores, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_placement": "pre"},
        {"norm_placement": "pre", "num_layers": 5, "local_window": 4, "global_every": 3, "position_embedding": "rope"},
        {"layer_groups": 2},
    ],
)
@pytest.mark.parametrize("scan", [True, False])
def test_each_layer_is_recorded_in_its_turn(changes: dict[str, Any], scan: bool) -> None:
    """What layer 1, 2 ... gives is what an encoder gives that ends there."""
    config = dataclasses.replace(SHAPE, **changes)
    build = Build(scan=scan)
    params = tiny.nested(tiny.drawn(lambda: Encoder(config, build, nnx.Rngs(0)), config, 1))
    encoder = made(config, params, build)
    recording = record(encoder)
    encoder(batch_of())
    (states_LBTD,) = recording.states
    assert len(states_LBTD) == config.num_layers + 1
    for count in range(1, config.num_layers + 1):
        np.testing.assert_allclose(
            states_LBTD[count], _first_layers(params, config, count, build)(batch_of()), atol=1e-5
        )


def _first_layers(params: Any, config: EncoderConfig, count: int, build: Build) -> Encoder:
    groups = config.layer_groups
    # Layers of a group share their weights: here each has its own copy.
    places = [layer * groups // config.num_layers if groups else layer for layer in range(count)]
    layers = jax.tree.map(lambda leaf: leaf[np.asarray(places)], params["layers"])
    return made(dataclasses.replace(config, num_layers=count, layer_groups=0), {**params, "layers": layers}, build)
