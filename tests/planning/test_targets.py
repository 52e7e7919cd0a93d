"""Targets of smaller models: read, as shares, and what is wrong with them."""

import pytest

from jaxfm.errors import UserError
from jaxfm.planning.targets import FLOPS, LATENCY, LOSS, SIZE, Target, read_targets

ALL = (FLOPS, SIZE, LATENCY, LOSS)


def test_targets_are_shares_or_bytes() -> None:
    found = read_targets(["flops:0.5", "size:10MB", "loss:0"], ALL)
    assert found == (Target(FLOPS, 0.5), Target(SIZE, 10e6, in_bytes=True), Target(LOSS, 0.0))
    assert [str(each) for each in found] == ["flops:0.5", "size:10MB", "loss:0"]
    assert found[1].share_of(40e6) == 0.25 and found[0].share_of(40e6) == 0.5
    assert read_targets(["size:0.25"], ALL) == (Target(SIZE, 0.25),) and read_targets([], ALL) == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flops"], "'flops': is no target here; write flops:0.5, size:10MB or size:0.5, latency:0.5, loss:0.005."),
        (["flop:0.5"], "'flop:0.5': is no target here; write flops:0.5"),
        (["flops:0.5", "flops:0.4"], "names flops twice"),
        (["latency:fast"], "'fast' must be a number, as latency:0.5"),
        (["size:10XB"], "size=10XB: must be a number with a unit"),
        (["flops:1"], "'flops:1': must be a share of the first model's: above 0 and below 1"),
        (["flops:0"], "above 0 and below 1"),
        (["latency:nan"], "above 0 and below 1"),
        (["loss:-1"], "must be 0 or more"),
    ],
)
def test_wrong_targets_are_said(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read_targets(words, ALL)
    assert message in str(caught.value) and "--target" in str(caught.value)
