"""Pruned encoders: computed by masks as the encoder that is cut out computes, and chosen as brute force chooses."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.pruning import (
    PARTS,
    Importance,
    Kept,
    best_within,
    keep,
    neuron_sizes,
    prune,
    pruned_encoder,
    share_kept,
    units_of_layers,
)
from jaxfm.models.subnets import Subnet, pad_heads, select
from tests.models.test_subnets import ENCODERS, POST, batch, make_model, params_of, wide, with_params

KINDS = {
    **ENCODERS,
    "biases by distance": dataclasses.replace(
        POST, relative_positions="bias", relative_buckets=8, relative_distance=16
    ),
    "groups": dataclasses.replace(POST, layer_groups=2),
    "windows": dataclasses.replace(
        POST, num_layers=5, norm_placement="pre", position_embedding="rope", head_size=6, local_window=4, global_every=2
    ),
    "first norm": dataclasses.replace(POST, norm_placement="pre", first_norm=True),
}


def importance_of(encoder: EncoderConfig, seed: int = 5) -> Importance:
    draw = np.random.default_rng(seed)
    stacks = encoder.layer_stacks
    # The first layer counts least: it is dropped first wherever it may be.
    scale = np.linspace(0.2, 1.0, stacks)[:, None]
    return Importance(
        scale * draw.exponential(size=(stacks, encoder.num_heads)),
        scale * draw.exponential(size=(stacks, encoder.ffn_size)),
    )


@pytest.mark.parametrize("name", KINDS)
def test_what_is_kept_by_masks_equals_the_model_that_is_cut_out(name: str) -> None:
    encoder, importance = KINDS[name], importance_of(KINDS[name])
    params = wide(encoder)
    (*_, kept) = keep(encoder, importance, 2, 12, 1)
    assert len({tuple(row) for row in kept.neurons.tolist()}) > 1
    whole = with_params(make_model(encoder), params)
    masked = jax.jit(lambda selection: select(whole, selection)(batch()))(kept.selection(encoder))
    small, cut = pruned_encoder(encoder, kept), prune(params, encoder, kept)
    model = make_model(small, seed=7)
    assert {path: leaf.shape for path, leaf in cut.items()} == {
        path: leaf.shape for path, leaf in params_of(model).items()
    }
    np.testing.assert_allclose(with_params(model, cut)(batch()), masked, atol=3e-5)
    assert np.abs(np.asarray(masked) - np.asarray(whole(batch()))).max() > 0.05
    assert sum(leaf.size for leaf in cut.values()) < sum(leaf.size for leaf in params.values())


def test_layers_that_can_go() -> None:
    assert units_of_layers(POST) == [(0,), (1,), (2,), (3,)]
    assert units_of_layers(ENCODERS["pre-norm"]) == [(1,), (2,), (3,)]
    assert units_of_layers(KINDS["first norm"]) == [(0,), (1,), (2,), (3,)]
    assert units_of_layers(KINDS["windows"]) == [(2, 3)]
    assert units_of_layers(KINDS["groups"]) == []
    (*_, kept) = keep(KINDS["first norm"], importance_of(KINDS["first norm"]), 4, 32, 1)
    assert kept.layers == (1, 2, 3)  # the test above is of a model that has lost its first layer, too


def test_the_most_important_heads_and_neurons_are_kept_where_they_may_differ() -> None:
    heads = np.array([[1, 2, 3, 4], [4, 3, 2, 1]], float)
    plain = dataclasses.replace(POST, num_layers=2)
    importance = Importance(heads, np.tile(np.arange(32.0), (2, 1)))
    (kept,) = keep(plain, importance, 2, 3)
    assert kept.heads.tolist() == [[2, 3], [0, 1]] and kept.neurons.tolist() == [[29, 30, 31]] * 2
    shared = dataclasses.replace(plain, num_kv_heads=2)
    (kept,) = keep(shared, Importance(np.array([[9, 0, 3, 4], [0, 1, 2, 0]], float), importance.neurons), 2, 3)
    assert kept.heads.tolist() == [[0, 1], [2, 3]]
    alike = dataclasses.replace(plain, relative_positions="bias", relative_buckets=8, relative_distance=16)
    (kept,) = keep(alike, Importance(heads + [[0, 1, 0, 0], [0, 1, 0, 0]], importance.neurons), 1, 3)
    assert kept.heads.tolist() == [[1], [1]]


def cost(shape: Subnet) -> int:
    return shape.depth * (7 * shape.heads + shape.ffn_size)


@pytest.mark.parametrize("parts", [PARTS, ("heads",), ("neurons", "layers")])
@pytest.mark.parametrize("name", ["post-norm", "pre-norm, gated, shared heads"])
def test_the_best_choice_of_each_depth_is_that_of_brute_force(name: str, parts: tuple[str, ...]) -> None:
    encoder = KINDS[name]
    importance = importance_of(encoder)
    budget = 0.7 * cost(Subnet(encoder.num_layers, encoder.num_heads, encoder.ffn_size))
    found = best_within(encoder, importance, parts, lambda shape: cost(shape) <= budget)
    shared = encoder.num_heads // encoder.kv_heads
    heads = range(shared, encoder.num_heads + 1, shared) if "heads" in parts else (encoder.num_heads,)
    neurons = neuron_sizes(encoder.ffn_size) if "neurons" in parts else (encoder.ffn_size,)
    best: dict[int, float] = {}
    for count, size in itertools.product(heads, neurons):
        for kept in keep(encoder, importance, count, size, 9 if "layers" in parts else 0):
            if cost(kept.shape) <= budget:
                share = share_kept(encoder, importance, kept)
                best[len(kept.layers)] = max(best.get(len(kept.layers), 0), share)
    assert [share_kept(encoder, importance, each) for each in found] == pytest.approx(sorted(best.values())[::-1])
    assert {len(each.layers) for each in found} == set(best)
    assert all(cost(each.shape) <= budget for each in found)


def test_shares_and_sizes() -> None:
    importance = Importance(np.ones((4, 4)), np.zeros((4, 32)))
    whole = Kept((0, 1, 2, 3), np.tile(np.arange(4), (4, 1)), np.tile(np.arange(32), (4, 1)))
    assert share_kept(POST, importance, whole) == 1
    assert share_kept(POST, importance, dataclasses.replace(whole, layers=(1, 3))) == 0.5
    assert best_within(POST, importance, PARTS, lambda shape: False) == []
    assert neuron_sizes(32) == tuple(range(1, 33)) and neuron_sizes(3072)[:2] == (96, 192)
    assert neuron_sizes(64)[:2] == (8, 16) and neuron_sizes(100)[-2:] == (96, 100)
    assert whole.to_json(POST) == {
        "layers": [0, 1, 2, 3],
        "heads": {str(i): [0, 1, 2, 3] for i in range(4)},
        "neurons": 32,
    }


@pytest.mark.parametrize("name", ["post-norm", "biases by distance", "disentangled"])
def test_heads_of_zeros_in_place_of_dropped_ones_change_nothing(name: str) -> None:
    """As files for transformers have them."""
    encoder = KINDS[name]
    params = wide(encoder)
    (kept,) = keep(encoder, importance_of(encoder), 3, 32)
    small, cut = pruned_encoder(encoder, kept), prune(params, encoder, kept)
    padded = pad_heads(cut, small, encoder.num_heads)
    found = with_params(make_model(encoder), padded)(batch())
    np.testing.assert_allclose(found, with_params(make_model(small), cut)(batch()), atol=2e-5)
