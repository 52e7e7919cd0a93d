"""What is computed again for the backward pass changes its memory, not its result."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import REMAT, MeshConfig
from jaxfm.core.build import Build
from jaxfm.families.registry import preset
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes

POST = dataclasses.replace(preset("bert_tiny"), vocab_size=128, hidden_size=32, num_heads=2, ffn_size=64, num_layers=4)
# Local windows and a layer left over after the last whole period.
PRE = dataclasses.replace(
    preset("modern_tiny"), vocab_size=128, hidden_size=32, num_heads=2, ffn_size=48, num_layers=4, dropout=0.1
)
ENCODERS = {"post": POST, "pre": PRE}
BATCH, TOKENS = 4, 64


@functools.cache
def compiled(name: str, remat: str, scan: bool = True, layers: int = 4) -> tuple[Any, jax.stages.Compiled]:
    encoder = dataclasses.replace(ENCODERS[name], num_layers=layers)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    graphdef, abstract = meshes.build_abstract(
        lambda: Encoder(encoder, Build(scan=scan, remat=remat), nnx.Rngs(0)), mesh
    )
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.2 * draw.standard_normal(leaf.shape).astype(np.float32), abstract)

    def loss(params: Any) -> jax.Array:
        ids = jnp.arange(BATCH * TOKENS, dtype=jnp.int32).reshape(BATCH, TOKENS) % 128
        positions = jnp.broadcast_to(jnp.arange(TOKENS), ids.shape)
        batch = {"tokens": ids, "segment_ids": 1 + 0 * ids, "positions": positions}
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(batch, key=jax.random.key(1))))

    with jax.set_mesh(mesh):
        return params, jax.jit(jax.value_and_grad(loss)).lower(params).compile()


def temporaries(name: str, remat: str) -> int:
    # In few layers the most memory is needed elsewhere (local attention's chunks), the same for all.
    _, step = compiled(name, remat, layers=10)
    memory = step.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.parametrize(
    ("name", "remat", "scan"),
    [
        ("pre", "dots", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("post", "full", False),
                ("pre", "full", False),
                ("post", "dots", True),
                ("pre", "full", True),
                ("post", "full", True),
            )
        ),
    ],
)
def test_gradients_are_those_without(name: str, remat: str, scan: bool) -> None:
    params, plain = compiled(name, "none")
    _, again = compiled(name, remat, scan)
    (loss, grads), (loss_again, grads_again) = plain(params), again(params)
    np.testing.assert_allclose(loss_again, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=2e-4, atol=2e-5), grads, grads_again)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["post", pytest.param("pre", marks=pytest.mark.slow)])
def test_more_recomputed_is_less_kept(name: str) -> None:
    none, dots, full = (temporaries(name, remat) for remat in REMAT)
    assert max(dots, full) < 0.8 * none and full < 1.01 * dots


def test_dots_are_computed_again_in_attention_alone() -> None:
    """Of a layer's eight products the six with weights are kept; "full" computes all but the last again."""
    counts = {}
    for remat in REMAT:
        graphdef, params = meshes.build_abstract(
            lambda remat=remat: Encoder(POST, Build(remat=remat), nnx.Rngs(0)),
            meshes.make_mesh(MeshConfig(), jax.devices()[:1]),
        )

        def loss(params: Any, graphdef: Any = graphdef) -> jax.Array:
            ids = jnp.ones((BATCH, TOKENS), jnp.int32)
            return jnp.sum(nnx.merge(graphdef, params)(dict.fromkeys(("tokens", "segment_ids", "positions"), ids)))

        counts[remat] = str(jax.make_jaxpr(jax.grad(loss))(params)).count(" dot_general[")
    # A loop's body forward, twice that backward, and the gradients of the six biases.
    assert counts["none"] == 8 + 16 + 6
    assert counts["dots"] == counts["none"] + 2
    assert counts["none"] + 7 <= counts["full"] <= counts["none"] + 8


def test_the_generator_of_electra_recomputes_too() -> None:
    counts = {}
    for remat in ("none", "full"):
        graphdef, abstract = meshes.build_abstract(
            lambda remat=remat: ReplacedTokenModel(POST, 2, Build(remat=remat), nnx.Rngs(0)),
            meshes.make_mesh(MeshConfig()),
        )

        def hidden(params: Any, graphdef: Any = graphdef) -> jax.Array:
            ids = jnp.zeros((BATCH, TOKENS), jnp.int32)
            fields = {"tokens": ids, "segment_ids": ids + 1, "positions": ids, "type_ids": ids}
            return nnx.merge(graphdef, params).hidden(fields).sum()

        counts[remat] = str(jax.make_jaxpr(jax.grad(hidden))(abstract)).count("remat")
    assert counts["none"] == 0 < counts["full"]
