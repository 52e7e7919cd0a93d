"""Exchanged terms: a planted gap is found with its size, and sentences without one are not accused."""

import numpy as np
import pytest

from jaxfm.evaluation.counterfactual import LEAST_TERMS, exchange


def made(sizes: dict[str, int], templates: int, gap: float, seed: int, noise: float = 0.05) -> dict[str, np.ndarray]:
    """Numbers of sentences: a part of the template, one of the term, noise; `gap` is added to the first group."""
    draw = np.random.default_rng(seed)
    of_template = draw.normal(size=(1, templates, 1)) * 0.3
    found = {}
    for number, (name, size) in enumerate(sizes.items()):
        of_term = draw.normal(size=(size, 1, 1)) * noise
        found[name] = of_template + of_term + draw.normal(size=(size, templates, 1)) * noise + gap * (number == 0)
    return found


@pytest.mark.parametrize(
    ("sizes", "unit"), [({"a": 8, "b": 12, "c": 8}, "terms"), ({"a": 1, "b": 1, "c": 1}, "templates")]
)
def test_a_planted_gap_is_found_with_its_size(sizes: dict[str, int], unit: str) -> None:
    noise = 0.05 if unit == "terms" else 0.02
    found = exchange("planted", made(sizes, 14, 0.3, 0, noise), ["P(yes)"])
    first = found.gaps[0]
    assert (found.unit, found.templates, found.counts) == (unit, 14, sizes)
    assert first.group == "a" and first.p < 0.01
    assert first.interval.low < 0.3 + 0.04 and first.interval.high > 0.3 - 0.04
    assert found.values["P(yes)"]["a"] == pytest.approx(made(sizes, 14, 0.3, 0, noise)["a"].mean())


@pytest.mark.parametrize("size", [1, LEAST_TERMS, 10])
def test_without_a_gap_few_are_accused(size: int) -> None:
    noise = 0.1 if size > 1 else 0.0  # one term's own part cannot be told from its group's: it is the group
    accused = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        values = made({"a": size, "b": size}, 12, 0.0, seed, noise)
        values = {name: each + draw.normal(size=each.shape) * 0.05 for name, each in values.items()}
        accused += exchange("none", values, ["P(yes)"]).gaps[0].p < 0.05
    assert accused <= 3
