"""Collectives, activations and compute of a step by formula, without compiling it."""

# B rows a chip, T tokens, D model, F ffn, N heads, V vocabulary, L layers

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.flops import layer_flops
from jaxfm.parallel.mesh import AXES, batch_shards
from jaxfm.planning.collectives import Collective, Groups

_ACTIVATION = 2  # bytes of a bf16 number


def expected_collectives(config: Config, encoder: EncoderConfig, params: Any, mesh: Mesh) -> tuple[Collective, ...]:
    """Returns the collectives that a step needs on a mesh, if the partitioner adds no others.

    Gradients are reduced once over data (in bf16, as the layers compute in it); over fsdp weights are gathered for
    the forward and again for the backward pass and gradients scattered; over tensor each half layer's activations are
    summed, forward and backward; over sequence keys and values are gathered.
    """
    shape = mesh.shape
    size = _ACTIVATION * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) // shape["tensor"]
    rows = config.train.batch_size // config.train.accumulate // batch_shards(mesh)
    stream = _ACTIVATION * rows * config.data.row_length * encoder.hidden_size
    half_layers, each = 2 * encoder.num_layers, config.train.accumulate
    wanted = [
        ("all-reduce", "data", size // shape["fsdp"], each),
        ("all-gather", "fsdp", size, 2 * each),
        ("reduce-scatter", "fsdp", size, each),
        ("all-reduce", "tensor", stream // shape["sequence"], 2 * half_layers * each),
        ("all-gather", "sequence", 2 * stream // shape["tensor"], 2 * encoder.num_layers * each),
    ]
    return tuple(
        Collective(f"expected {kind}", kind, (axis,), True, _groups(mesh, axis), moved, times, asynchronous=True)
        for kind, axis, moved, times in wanted
        if shape[axis] > 1
    )


def expected_activations(config: Config, encoder: EncoderConfig, shape: dict[str, int], logits_per_row: float) -> int:
    """Returns approximately the bytes of activations that a chip keeps for the backward pass.

    By config.model.remat: "none" keeps T B D (34 + 5 N T / D) bytes a layer (Korthikanti et al. 2022, equation 1);
    "dots" keeps the inputs of the layer's matrix products, 2 bytes a number; "full" keeps only the layer's input. The
    logits and their gradient are f32.
    """
    rows = config.train.batch_size / config.train.accumulate / (shape["data"] * shape["fsdp"])
    tokens = rows * config.data.row_length / shape["sequence"]
    width, inner, tensor = encoder.hidden_size, encoder.ffn_size, shape["tensor"]
    kept = {
        "none": 10 * width + (24 * width + 5 * encoder.num_heads * config.data.row_length) / tensor,
        "dots": _ACTIVATION * (2 * width + (4 * width + inner) / tensor),
        "full": _ACTIVATION * width,
    }[config.model.remat]
    logits = logits_per_row / config.data.row_length
    return int(tokens * (kept * encoder.num_layers + 2 * 4 * logits / tensor))


def expected_compute(config: Config, encoder: EncoderConfig, model_flops: float) -> float:
    """Returns the operations of a step with recomputation: of attention ("dots") or the whole forward pass ("full")."""
    layers = sum(layer_flops(encoder, config.data.row_length)) / 3
    attention = 4 * encoder.hidden_size * config.data.row_length * encoder.num_layers
    again = {"none": 0.0, "dots": attention, "full": layers}[config.model.remat]
    return model_flops * (1 + again / (3 * layers))


def _groups(mesh: Mesh, axis: str) -> Groups:
    numbers = np.moveaxis(np.arange(mesh.size).reshape(mesh.devices.shape), AXES.index(axis), -1)
    return tuple(tuple(int(number) for number in group) for group in numbers.reshape(-1, mesh.shape[axis]))
