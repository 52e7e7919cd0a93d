"""Confidence, who leaves where, p-values against exact sums and simulation, thresholds, and the file they are in."""

import itertools
import json
import math
import pathlib

import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxfm.core.exits import ExitForm
from jaxfm.errors import UserError
from jaxfm.evaluation import exits
from jaxfm.evaluation.exits import EXITS_FILE, THRESHOLDS, ExitRule, Places

EXAMPLES = ExitForm("outputs", "single", of_tokens=False)
TOKENS = ExitForm("logits", "single", of_tokens=True)
# Three examples in two rows: two in the first.
PLACES = Places(np.asarray([[0, 1, 3], [1, 0, 0], [0, 0, 0]]), np.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]))
RULE = ExitRule((2, 4), (1.5, 2.0), 0.9, "", 0.01, 0.9, 300)


def test_confidence_of_examples_is_that_of_the_likeliest_class() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 2, 3)) * 3
    found = exits.confidence(EXAMPLES, logits, PLACES, 2.0)
    for sure, (row, segment, _) in zip(found, PLACES.locations, strict=True):
        assert sure == pytest.approx(scipy.special.softmax(logits[row, segment] / 2).max(), rel=1e-12)
    labels = exits.confidence(EXAMPLES._replace(kind="multi"), logits, PLACES)
    for sure, (row, segment, _) in zip(labels, PLACES.locations, strict=True):
        holds = scipy.special.expit(logits[row, segment])
        assert sure == pytest.approx(min(max(each, 1 - each) for each in holds), rel=1e-12)


def test_confidence_of_tokens_is_that_of_the_least_sure_one_that_is_read() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 6, 3)) * 3
    read = np.asarray([[0, 1, 1, 0, 0, 1], [1, 0, 0, 1, 1, 1]], bool)
    sure = scipy.special.softmax(logits, axis=-1).max(axis=-1)
    found = exits.confidence(TOKENS, logits, PLACES._replace(read=read))
    # The first example is the second of row 0, none of whose tokens is read.
    np.testing.assert_allclose(found, [1.0, sure[1, [0, 3]].min(), sure[0, [1, 2]].min()])
    all_read = exits.confidence(TOKENS, logits, PLACES)
    np.testing.assert_allclose(all_read, [sure[0, 3:5].min(), sure[1, :4].min(), sure[0, :3].min()])


def test_an_example_leaves_at_the_first_head_that_is_sure() -> None:
    sure = {2: np.asarray([0.5, 0.9, 0.95]), 4: np.asarray([0.95, 0.99, 0.5])}
    assert exits.leaving(sure, 6, 0.9).tolist() == [4, 2, 2]
    assert exits.leaving(sure, 6, 0.95).tolist() == [4, 4, 2]
    assert exits.leaving(sure, 6, 0.0).tolist() == [2, 2, 2] and exits.leaving(sure, 6, None).tolist() == [6, 6, 6]


@pytest.mark.parametrize("form", [EXAMPLES, TOKENS])
def test_outputs_are_those_of_the_head_where_an_example_left(form: ExitForm) -> None:
    draw = np.random.default_rng(1)
    shape = (2, 6, 3) if form.of_tokens else (2, 2, 3)
    outputs = {head: {form.output: draw.normal(size=shape), "more": np.zeros(1)} for head in (2, 4, 6)}
    temperatures = {2: 1.5, 4: 0.5, 6: 2.0}
    found = exits.mixed(form, outputs, np.asarray([2, 6, 4]), PLACES, temperatures)
    assert set(found) == {form.output, "more"}
    taken = {head: outputs[head][form.output] for head in outputs}
    logits = found[form.output]
    places = ((0, slice(3, 5)), (1, slice(0, 4)), (0, slice(0, 3))) if form.of_tokens else ((0, 1), (1, 0), (0, 0))
    for place, head in zip(places, (2, 6, 4), strict=True):
        wanted = scipy.special.softmax(taken[head][place] / temperatures[head], axis=-1)
        np.testing.assert_allclose(scipy.special.softmax(logits[place] / 2.0, axis=-1), wanted)


@pytest.mark.parametrize(("count", "total", "most"), [(30, 0, 0.1), (30, 2, 0.1), (50, 3, 0.01), (5, 5, 0.5)])
def test_losses_of_all_or_nothing_are_tested_exactly(count: int, total: int, most: float) -> None:
    lost = np.arange(count) < total
    exact = sum(math.comb(count, each) * most**each * (1 - most) ** (count - each) for each in range(total + 1))
    assert exits.p_value(lost.astype(np.float64), most) == pytest.approx(exact, rel=1e-9)
    assert exits.p_value(np.zeros(0), most) == 1.0


def test_losses_between_are_bounded_from_above() -> None:
    draw = np.random.default_rng(0)
    # Means of the worst kind, the limit itself: the p-value is below 0.1 at most one time in ten.
    below = [exits.p_value(draw.beta(0.1, 1.9, 200), 0.05) <= 0.1 for _ in range(2000)]
    assert np.mean(below) <= 0.1
    assert exits.p_value(np.full(200, 0.06), 0.05) == 1.0
    few, many = (exits.p_value(np.full(count, 0.01), 0.05) for count in (100, 400))
    hoeffding = math.exp(-100 * (0.01 * math.log(0.2) + 0.99 * math.log(0.99 / 0.95)))
    bentkus = math.e * scipy.stats.binom.cdf(1, 100, 0.05)
    assert few == pytest.approx(min(hoeffding, bentkus), rel=1e-9) and many < few


def test_thresholds_are_tested_from_the_highest_on() -> None:
    assert list(THRESHOLDS) == sorted(THRESHOLDS, reverse=True) and THRESHOLDS[-1] == 0 and max(THRESHOLDS) < 1
    none, some = np.zeros(300), (np.arange(300) < 3).astype(np.float64)
    much = np.ones(300)
    lost = dict(zip(THRESHOLDS, [none, none, some, much, *[none] * (len(THRESHOLDS) - 4)], strict=True))
    # 0 of 300 at a limit of 0.01: p = 0.99^300 = 0.05; 3 of 300: 0.65.
    assert exits.choose_threshold(lost.__getitem__, 0.01, 0.9) == (THRESHOLDS[1], "")
    assert exits.choose_threshold(lost.__getitem__, 0.01, 0.0) == (THRESHOLDS[2], "")
    threshold, why = exits.choose_threshold(lambda threshold: lost[threshold][:100], 0.01, 0.9)
    assert threshold is None and "valid has 100 examples" in why and "from 230 without a loss" in why
    assert 0.99**230 <= 0.1 < 0.99**229
    threshold, why = exits.choose_threshold(lambda _: much, 0.01, 0.0)
    assert threshold is None and "even the surest predictions" in why


def test_a_rule_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
    assert exits.read_rule(tmp_path, (2, 4)).threshold is None
    exits.write_rule(tmp_path, RULE, [{"threshold": None}])
    assert exits.read_rule(tmp_path, (2, 4)) == RULE
    with pytest.raises(UserError, match="heads are after 3, 6 layers"):
        exits.read_rule(tmp_path, (3, 6))
    values = json.loads((tmp_path / EXITS_FILE).read_text())
    for name, value in itertools.chain(
        {"threshold": 1.5, "temperatures": [1.0, 0.0], "layers": [4]}.items(), {"certainty": "x", "version": 99}.items()
    ):
        (tmp_path / EXITS_FILE).write_text(json.dumps({**values, name: value}))
        with pytest.raises(UserError, match=EXITS_FILE):
            exits.read_rule(tmp_path, (2, 4))
