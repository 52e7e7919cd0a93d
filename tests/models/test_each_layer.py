"""An encoder layer by layer beside the whole of it, and attention rollout beside transformers and numpy."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.each_layer import attention_problem, each_layer, rollout
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes
from tests import tiny

LENGTHS = (7, 5, 4)
# Two texts and padding in the first row, one text in the second.
BATCH = {
    "tokens": jnp.asarray([[2, 7, 9, 8, 10, 11, 3, 2, 12, 13, 14, 3, 0, 0], [2, 9, 8, 3, *[0] * 10]], jnp.int32),
    "segment_ids": jnp.asarray([[1] * 7 + [2] * 5 + [0, 0], [1] * 4 + [0] * 10], jnp.int32),
    "positions": jnp.asarray([[*range(7), *range(5), 0, 0], [*range(4), *[0] * 10]], jnp.int32),
}
SHAPES = {
    "post-norm": tiny.ENCODER,
    "pre-norm, rotary, local": dataclasses.replace(
        tiny.ENCODER, norm_placement="pre", position_embedding="rope", local_window=4, global_every=2, num_layers=3
    ),
    "shared layers": dataclasses.replace(tiny.ENCODER, layer_groups=1, num_layers=3),
}


def encoder_of(config: EncoderConfig) -> Encoder:
    params = tiny.drawn(lambda: Encoder(config, DEFAULT_BUILD, nnx.Rngs(0)), config, 5)
    graphdef, _ = meshes.build_abstract(
        lambda: Encoder(config, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    nested = flax.traverse_util.unflatten_dict(params, sep="/")
    return nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), nested)))


@pytest.mark.parametrize("name", SHAPES)
def test_the_last_layer_gives_what_the_encoder_gives(name: str) -> None:
    encoder = encoder_of(SHAPES[name])
    found = list(each_layer(encoder, BATCH, weights=True))
    assert len(found) == encoder.config.num_layers + 1 and found[0][1] is None
    valid = np.asarray(BATCH["segment_ids"] > 0)
    np.testing.assert_allclose(found[-1][0][valid], encoder(BATCH)[valid], atol=2e-5)
    same = np.asarray(BATCH["segment_ids"])[:, :, None] == np.asarray(BATCH["segment_ids"])[:, None, :]
    for _, weights in found[1:]:
        assert weights is not None and weights.shape == (2, encoder.config.num_heads, 14, 14)
        np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
        assert not np.asarray(weights)[~np.broadcast_to(same[:, None], weights.shape)].any()  # of other texts


def test_a_local_layer_takes_only_of_its_window() -> None:
    encoder = encoder_of(SHAPES["pre-norm, rotary, local"])
    (_, whole), (_, local), _ = list(each_layer(encoder, BATCH, weights=True))[1:]
    assert whole is not None and local is not None
    assert float(whole[0, 0, 0, 6]) > 0 and float(local[0, 0, 0, 6]) == 0 and float(local[0, 0, 0, 2]) > 0


def test_rollout_is_that_of_the_paper_on_the_weights_of_transformers(tmp_path: "object") -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=96, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=16, attn_implementation="eager", initializer_range=0.5,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ids = np.asarray([[2, 7, 9, 8, 10, 3]])
    with torch.no_grad():
        attentions = theirs(torch.tensor(ids), output_attentions=True).attentions
    rolled = np.eye(6)
    for each in attentions:
        rolled = (0.5 * each[0].mean(0).numpy().astype(np.float64) + 0.5 * np.eye(6)) @ rolled
    checkpoint = read_checkpoint(tmp_path)  # type: ignore[arg-type]
    encoder = nnx.merge(
        meshes.build_abstract(
            lambda: Encoder(checkpoint.encoder, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
        )[0],
        nnx.State(
            jax.tree.map(
                lambda value: nnx.Param(jnp.asarray(value)),
                flax.traverse_util.unflatten_dict(checkpoint.arrays(), sep="/")["encoder"],
            )
        ),
    )
    batch = {"tokens": ids, "segment_ids": np.ones_like(ids), "positions": np.arange(6)[None]}
    found = rollout(encoder, {name: jnp.asarray(value) for name, value in batch.items()})[0]
    np.testing.assert_allclose(found, rolled, atol=1e-5)
    assert not np.allclose(rolled, np.eye(6), atol=0.1)


def test_what_a_prefix_takes_is_no_word() -> None:
    assert "learned prefix" in attention_problem(dataclasses.replace(tiny.ENCODER, prefix_length=2))
    assert attention_problem(tiny.ENCODER) == ""
