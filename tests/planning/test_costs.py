"""Costs of models without training: against arrays that are made, closed forms, and models by themselves."""

import dataclasses
from typing import Any

import jax
import pytest
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.models.subnets import Subnet, cut_encoder
from jaxfm.parallel.mesh import initialise
from jaxfm.planning.config_costs import costs_of
from jaxfm.planning.costs import SubnetCosts, chip_named, costs, parameters_of
from jaxfm.planning.estimate import Subject
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.supernet import of_shape
from jaxfm.tuning.costs import COSTS, above, check_chip, read_limits


def config(**model: Any) -> Any:
    values = {"model": {"init": "scratch", "preset": "bert_mini", **model}, "train": {"batch_size": 16}}
    return from_config_dict({"task": {"name": "classification"}, "data": {"row_length": 128}, **values})


def test_costs_are_those_of_the_arrays_and_of_the_products() -> None:
    found = costs_of(config(num_layers=3, hidden_size=128, num_heads=2, ffn_size=320), chip_named("v5e"))
    objective = Subject.of(config(num_layers=3, hidden_size=128, num_heads=2, ffn_size=320)).objective
    made = initialise(lambda: objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)))
    filled = (objective.spec.encoder.padded_vocab_size - objective.spec.encoder.vocab_size) * 128
    count = sum(leaf.size for leaf in jax.tree.leaves(made)) - filled
    assert found["parameters"] == count and found["bytes"] == 4 * count
    layer = 2 * (4 * 128 * 128 + 2 * 128 * 320) + 4 * 128 * 128
    head = 8 / 128 * 2 * (128 * 128 + 128 * 2)  # eight examples a row of 128 tokens
    assert found["flops"] == pytest.approx(3 * layer + head)
    assert found["step_seconds"] >= 3 * 16 * 128 * found["flops"] / 197e12
    assert found["step_seconds"] >= 8 * 4 * count / 819e9
    assert found["forward_seconds"] == pytest.approx(max(32 * 128 * found["flops"] / 197e12, 4 * count / 819e9))
    assert set(found) == set(COSTS) and set(costs_of(config())) == set(COSTS) - {"step_seconds", "forward_seconds"}


def test_subnets_cost_what_they_cost_by_themselves() -> None:
    subject = Subject.of(config())
    found = SubnetCosts(subject.objective, subject.config, chip_named("h100"))
    whole = Subnet(4, 4, 1024)
    assert found(whole) == costs_of(config(), chip_named("h100"))
    for subnet in (Subnet(2, 4, 1024), Subnet(3, 1, 320)):
        alone = of_shape(subject.objective, cut_encoder(subject.objective.spec.encoder, subnet))
        assert found(subnet) == costs(alone, parameters_of(alone), subject.config, chip_named("h100"))
        assert all(found(subnet)[name] < found(whole)[name] for name in COSTS)


def test_sizes_that_no_encoder_has_are_said() -> None:
    with pytest.raises(UserError) as caught:
        costs_of(config(num_heads=5))
    message = "config.model: no encoder like bert_mini has num_layers 4, hidden_size 256, num_heads 5"
    assert message in str(caught.value) and "must be a multiple of num_heads" in str(caught.value)
    loaded = dataclasses.replace(config(num_layers=2).model, init="dir:absent", preset="")
    with pytest.raises(UserError, match="config.model.num_layers: is 2, but the shape comes from the weights of"):
        costs_of(dataclasses.replace(config(), model=loaded))
    with pytest.raises(UserError, match="--chip=h10: is not a known chip. Did you mean 'h100'"):
        chip_named("h10")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flops"], "'flops': it must be COST=NUMBER, COST one of flops, bytes"),
        (["flop=1"], "'flop=1': Did you mean 'flops'"),
        (["flops=1", "flops=2"], "names flops twice"),
        (["flops=many"], "'many' must be a number above 0, as flops=2e6"),
        (["flops=0"], "'0' must be a number above 0"),
        (["bytes=inf"], "'inf' must be a number above 0"),
    ],
)
def test_wrong_limits_are_said(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_limits(words)
    assert f"--most={','.join(words)}: {message}" in str(caught.value)


def test_limits() -> None:
    limits = read_limits(["flops=2e6", "parameters=5000"])
    assert limits == {"flops": 2e6, "parameters": 5000.0}
    assert above({"flops": 2e6, "parameters": 4999, "bytes": 1e12}, limits) == ""
    assert above({"flops": 1, "parameters": 5001}, limits) == "parameters 5,001 is above the limit of 5,000"
    check_chip("", ["flops"], "--most")
    with pytest.raises(UserError, match="--most: step_seconds is of a chip; say which one"):
        check_chip("", ["flops", "step_seconds"], "--most")
