"""The pieces of a step's operations: each against its closed form, and against what XLA compiles."""

# D model, T tokens, V vocabulary, C classes

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxfm.adapt_config import AdaptConfig
from jaxfm.analysis import hlo
from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.families.registry import preset
from jaxfm.models.electra import Detector
from jaxfm.models.encoder import Encoder
from jaxfm.models.flops import (
    attention_pool_flops,
    dense_flops,
    detector_flops,
    encoder_flops_per_row,
    layer_flops,
    sequence_head_flops,
    token_head_flops,
    vocabulary_head_flops,
)
from jaxfm.models.heads import MaskedLM, SequenceClassifier, TokenClassifier
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel import target
from jaxfm.tasks.registry import default_config, from_config_dict

BERT, MODERN = preset("bert_base"), preset("modern_base")
D, V, C = 768, 30522, 9
HEAD_ALONE = AdaptConfig(train="head")


def test_a_matrix_by_hand() -> None:
    assert dense_flops(3, 5) == 6 * 3 * 5
    assert dense_flops(3, 5, trained=False) == dense_flops(3, 5, input_gradient=False) == 4 * 3 * 5
    assert dense_flops(3, 5, trained=False, input_gradient=False) == 2 * 3 * 5


def test_a_row_of_bert_by_hand() -> None:
    assert encoder_flops_per_row(BERT, 128) == 128 * (72 * 12 * D**2 + 12 * 12 * D * 128)
    assert encoder_flops_per_row(BERT, 128, HEAD_ALONE) == 128 * (24 * 12 * D**2 + 4 * 12 * D * 128)


def test_local_layers_see_their_window_alone() -> None:
    layers = layer_flops(MODERN, 1024)
    assert layers[0] - layers[1] == 12 * D * (1024 - 129)
    assert layers[0] == layers[3] and layers[1] == layers[2]


def test_a_causal_token_sees_half_of_its_row() -> None:
    causal = dataclasses.replace(BERT, sight=CAUSAL)
    assert encoder_flops_per_row(causal, 127) == 127 * (72 * 12 * D**2 + 12 * 12 * D * 64)


def test_attention_of_a_learned_vector_by_hand() -> None:
    after = 6 * (D**2 + 2 * D * 4 * D) + 12 * D * 50
    assert attention_pool_flops(BERT, 50) == 50 * 12 * D**2 + after
    assert attention_pool_flops(BERT, 50, HEAD_ALONE) == 50 * 8 * D**2 + after


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
def test_what_is_frozen_saves_its_gradients(adapt: dict[str, Any], weights: int, keys: int) -> None:
    assert sum(layer_flops(BERT, 128, adapted(adapt))) == weights * 12 * D**2 + keys * D * 128


def adapted(values: dict[str, Any]) -> AdaptConfig:
    config = default_config("ner")
    config.adapt.update_from_flattened_dict(values)
    return from_config_dict(config).adapt


@pytest.mark.parametrize(
    ("adapt", "transform", "table"),
    [
        ({}, 6, 6),
        ({"train": "head"}, 4, 4),  # of the decoder, which is the frozen table, the input has a gradient
        ({"train": "biases"}, 6, 4),
        ({"lora.rank": 4}, 6, 4),
        ({"freeze": ("encoder/embeddings/*",)}, 6, 4),
        ({"freeze": ("encoder/embeddings/*",), "freeze_layers": 12}, 4, 4),
        ({"freeze_layers": 12}, 6, 6),
    ],
)
def test_a_vocabulary_head_by_hand(adapt: dict[str, Any], transform: int, table: int) -> None:
    assert vocabulary_head_flops(BERT, adapted(adapt)) == transform * D**2 + table * D * V


def test_heads_by_hand() -> None:
    assert token_head_flops(BERT, C) == 6 * D * C
    assert token_head_flops(BERT, C, HEAD_ALONE) == 4 * D * C
    assert token_head_flops(MODERN, C) == 6 * D * (D + C)
    assert token_head_flops(MODERN, C, HEAD_ALONE) == 4 * D * D + 6 * D * C
    assert sequence_head_flops(BERT, C, "cls") == sequence_head_flops(MODERN, C, "mean") == 6 * D * (D + C)
    assert sequence_head_flops(BERT, C, "mean") == 6 * D * C
    assert sequence_head_flops(BERT, C, "cls", HEAD_ALONE) == 4 * D * D + 6 * D * C
    assert detector_flops(BERT) == 6 * D**2 and detector_flops(BERT, HEAD_ALONE) == 4 * D**2


ROWS, TOKENS, SEGMENTS = 2, 64, 4


def small(name: str) -> EncoderConfig:
    # Without a window: chunks of neighbours do more products than a token needs.
    return dataclasses.replace(preset(name), vocab_size=128, local_window=0, dropout=0.0, attention_dropout=0.0)


def compiled_flops(make: Callable[[], nnx.Module], output: Callable[..., jax.Array], adapt: AdaptConfig) -> float:
    """Returns the operations of all matrix products in a compiled model's gradient with respect to what is trained."""
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    flat = flax.traverse_util.flatten_dict(abstract, sep="/")
    frozen = {name: leaf for name, leaf in flat.items() if adapt.train == "head" and name.startswith("encoder/")}
    trained = {name: leaf for name, leaf in flat.items() if name not in frozen}

    def loss(trained: Any, frozen: Any) -> jax.Array:
        ids = jnp.ones((ROWS, TOKENS), jnp.int32)
        segments = jnp.broadcast_to(jnp.repeat(jnp.arange(1, SEGMENTS + 1), TOKENS // SEGMENTS), ids.shape)
        positions = jnp.broadcast_to(jnp.arange(TOKENS) % (TOKENS // SEGMENTS), ids.shape)
        model = nnx.merge(graphdef, flax.traverse_util.unflatten_dict(trained | frozen, sep="/"))
        batch = {"tokens": ids, "segment_ids": segments, "positions": positions}
        return jnp.sum(output(model, batch) ** 2)

    text = jax.jit(jax.grad(loss)).lower(trained, frozen).compile().as_text()
    return sum(call.times * hlo.matmul_flops(call) for call in hlo.parse(text or "").calls())


@pytest.mark.parametrize("name", ["bert_tiny", "modern_tiny"])
def test_the_formula_is_what_the_compiled_layers_do(name: str) -> None:
    encoder = small(name)
    make = lambda: Encoder(encoder, DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
    done = compiled_flops(make, lambda model, batch: model(batch), AdaptConfig())
    assert done == pytest.approx(ROWS * encoder_flops_per_row(encoder, TOKENS), rel=0.02)


class Detecting(nnx.Module):
    """The encoder of a ReplacedTokenModel and its detector."""

    def __init__(self, config: EncoderConfig):
        self.encoder = Encoder(config, DEFAULT_BUILD, nnx.Rngs(0))
        self.detector = Detector(config, DEFAULT_BUILD.dtype, nnx.Rngs(0))


@dataclasses.dataclass(frozen=True)
class Head:
    """A model with a head, its output, the head's operations in a batch by formula, and those that are not counted."""

    make: Callable[[EncoderConfig], nnx.Module]
    output: Callable[[Any, Any], jax.Array]
    formula: Callable[[EncoderConfig, AdaptConfig], float]
    uncounted: Callable[[EncoderConfig, bool], float] = lambda encoder, reaches_encoder: 0.0


def pooled(pooling: str) -> Head:
    return Head(
        lambda encoder: SequenceClassifier(encoder, 64, DEFAULT_BUILD, nnx.Rngs(0), pooling=pooling, segments=SEGMENTS),
        lambda model, batch: model(batch),
        lambda encoder, adapt: ROWS * SEGMENTS * sequence_head_flops(encoder, 64, pooling, adapt),
        # The product with the pooling weights, and its gradient.
        lambda encoder, reaches_encoder: 2 * (1 + reaches_encoder) * ROWS * SEGMENTS * TOKENS * encoder.hidden_size,
    )


HEADS = {
    "vocabulary": Head(
        lambda encoder: MaskedLM(encoder, DEFAULT_BUILD, nnx.Rngs(0)),
        lambda model, batch: model.logits(model.hidden(batch)),
        lambda encoder, adapt: ROWS * TOKENS * vocabulary_head_flops(encoder, adapt),
    ),
    "tokens": Head(
        lambda encoder: TokenClassifier(encoder, 64, DEFAULT_BUILD, nnx.Rngs(0)),
        lambda model, batch: model(batch),
        lambda encoder, adapt: ROWS * TOKENS * token_head_flops(encoder, 64, adapt),
    ),
    "first tokens": pooled("cls"),
    "means": pooled("mean"),
    "detector": Head(
        Detecting,
        lambda model, batch: model.detector(model.encoder(batch)),
        lambda encoder, adapt: ROWS * TOKENS * detector_flops(encoder, adapt),
        # The last layer; the gradient of its input is no matrix product, as it has one column.
        lambda encoder, reaches_encoder: 4 * ROWS * TOKENS * encoder.hidden_size,
    ),
}


@pytest.mark.parametrize("train", ["all", "head"])
@pytest.mark.parametrize("name", HEADS)
def test_the_formula_is_what_the_compiled_heads_do(name: str, train: str) -> None:
    """The products of a whole model, less those of BERT's layers."""
    encoder, adapt, head = small("bert_tiny"), AdaptConfig(train=train), HEADS[name]
    done = compiled_flops(lambda: head.make(encoder), head.output, adapt) - ROWS * encoder_flops_per_row(
        encoder, TOKENS, adapt
    )
    if train == "all" and target.platform() == "cpu":  # where the gradients of the layers' biases are products
        width = 5 * encoder.hidden_size + encoder.ffn_size
        done -= 2 * ROWS * TOKENS * encoder.num_layers * width
    assert done - head.uncounted(encoder, train == "all") == pytest.approx(head.formula(encoder, adapt), rel=0.02)
