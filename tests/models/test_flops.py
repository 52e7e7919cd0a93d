import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxfm.analysis import hlo
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.families.registry import preset
from jaxfm.models.encoder import Encoder
from jaxfm.models.flops import flops_per_token, layer_flops
from jaxfm.tasks.registry import default_config, from_config_dict


def config(**data):
    values = default_config()
    values.task = "masked_lm"
    values.data.row_length = data.pop("row_length", 128)
    for name, value in data.items():
        setattr(values, name, value) if name in ("task", "objective") else setattr(values.mask, name, value)
    return from_config_dict(values)


def test_bert_by_hand() -> None:
    # 72 L D^2 + 12 L D T + 0.15 * 6 (D V + D^2) for 12 layers of 768, 128 tokens, 30,522 words.
    expected = 72 * 12 * 768**2 + 12 * 12 * 768 * 128 + 0.15 * 6 * (768 * 30522 + 768**2)
    assert flops_per_token(config(), preset("bert_base")) == pytest.approx(expected)


def test_a_classifier_scores_every_token() -> None:
    encoder = preset("bert_base")
    expected = 72 * 12 * 768**2 + 12 * 12 * 768 * 128 + 6 * 768 * 9
    assert flops_per_token(config(task="ner"), encoder, classes=9) == pytest.approx(expected)


def test_a_share_that_changes_counts_by_its_mean() -> None:
    encoder = preset("bert_base")
    changing = flops_per_token(config(ratio=0.3, final_ratio=0.1), encoder)
    assert changing == pytest.approx(flops_per_token(config(ratio=0.2), encoder))


def test_a_generator_adds_its_layers() -> None:
    encoder = preset("bert_base")
    more = flops_per_token(config(objective="rtd", generator_depth=0.25), encoder)
    layer = 72 * 768**2 + 12 * 768 * 128
    assert more - flops_per_token(config(), encoder) == pytest.approx(3 * layer + 6 * 768**2)


def test_local_layers_see_their_window_alone() -> None:
    layers = layer_flops(preset("modern_base"), 1024)
    assert layers[0] - layers[1] == 12 * 768 * (1024 - 129)
    assert layers[0] == layers[3] and layers[1] == layers[2]


@pytest.mark.parametrize(
    ("adapt", "weights", "keys"),
    [
        ({}, 12 * 6, 12 * 12),
        ({"train": "head"}, 12 * 2, 12 * 4),
        ({"train": "biases"}, 12 * 4, 12 * 12),
        ({"lora.rank": 4}, 12 * 4, 12 * 12),
        ({"adapter_size": 8, "freeze_layers": 5}, 5 * 2 + 7 * 4, 5 * 4 + 7 * 12),
        # The lower layers' weights have no gradient, but the embeddings below them have one.
        ({"freeze_layers": 5}, 5 * 4 + 7 * 6, 12 * 12),
        ({"freeze_layers": 5, "freeze": ("encoder/embeddings/*",)}, 5 * 2 + 7 * 6, 5 * 4 + 7 * 12),
    ],
)
def test_what_is_frozen_saves_its_gradients(adapt: dict, weights: int, keys: int) -> None:
    values = default_config()
    values.task = "ner"
    values.adapt.update_from_flattened_dict(adapt)
    found = flops_per_token(from_config_dict(values), preset("bert_base"))
    assert found == weights * 12 * 768**2 + keys * 768 * 128


@pytest.mark.parametrize("name", ["bert_tiny", "modern_tiny"])
def test_the_formula_is_what_the_compiled_layers_do(name: str) -> None:
    # Without a window: chunks of neighbours do more products than a token needs.
    encoder = dataclasses.replace(preset(name), vocab_size=128, local_window=0, dropout=0.0, attention_dropout=0.0)
    batch, tokens = 2, 64
    with nnx.use_eager_sharding(False):
        model = Encoder(encoder, DEFAULT_BUILD, nnx.Rngs(0))
    graphdef, params = nnx.split(model)

    def loss(params):
        ids = jnp.ones((batch, tokens), jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(tokens), ids.shape)
        return jnp.sum(nnx.merge(graphdef, params)({"tokens": ids, "segment_ids": ids, "positions": positions}) ** 2)

    module = hlo.parse(jax.jit(jax.grad(loss)).lower(params).compile().as_text())
    done = sum(call.times * hlo.matmul_flops(call) for call in module.calls())
    assert done == pytest.approx(batch * tokens * sum(layer_flops(encoder, tokens)), rel=0.02)
