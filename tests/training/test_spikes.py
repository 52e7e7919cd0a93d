"""The guard against spikes, beside the same rule written with numpy, and in whole runs."""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.config import MeshConfig
from jaxfm.core.objective import Loss
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.writers import read_metrics
from jaxfm.optim_config import OptimConfig
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.train import train
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.training.spikes import LEAST_SPREAD, MOST_IN_A_ROW, SpikeGuard, make_spike_guard
from jaxfm.training.state import TrainState
from jaxfm.training.step import make_train_step, metric_names
from tests import tiny
from tests.training.test_step import real_setup, toy_batch, toy_loss, toy_params
from tests.training.whole_run import BASE, CrashError, Saved, at_step, crash, record_saves

WINDOW, FACTOR = 8, 4.0
GUARD = SpikeGuard(FACTOR, WINDOW)


class Oracle:
    """The rule in plain Python; `margins` are the distances of logarithms from the limit, to tell close calls."""

    def __init__(self) -> None:
        self.known: list[float] = []
        self.in_a_row, self.margins = 0, [math.inf]

    def is_spike(self, norm: float) -> bool:
        if not math.isfinite(norm) or norm == 0:
            return False
        log_norm = math.log(norm)
        if len(self.known) >= WINDOW // 2:
            median = float(np.median(self.known))
            deviation = 1.4826 * float(np.median(np.abs(np.asarray(self.known) - median)))
            limit = median + FACTOR * max(deviation, LEAST_SPREAD)
            self.margins.append(abs(log_norm - limit))
            if log_norm > limit and self.in_a_row < MOST_IN_A_ROW:
                self.in_a_row += 1
                return True
            if log_norm > limit:
                self.known = []
        self.in_a_row = 0
        self.known = [*self.known, log_norm][-WINDOW:]
        return False


judge = jax.jit(lambda state, norm: GUARD.judge(state, norm, jnp.isfinite(norm)))


def first_state() -> dict[str, jax.Array]:
    return {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in GUARD.shapes().items()}


def judged(norms: list[float]) -> list[bool]:
    state, found = first_state(), []
    for norm in norms:
        is_spike, state = judge(state, jnp.float32(norm))
        found.append(bool(is_spike))
    return found


NORMS = st.one_of(
    st.floats(0.5, 2.0, width=32), st.floats(2.0**-100, 2.0**100, width=32), st.sampled_from([0.0, math.inf, math.nan])
)


@settings(max_examples=150, deadline=None)
@given(st.lists(NORMS, max_size=60))
def test_it_is_the_rule_in_plain_python(norms: list[float]) -> None:
    oracle, state = Oracle(), first_state()
    for norm in norms:
        is_spike, state = judge(state, jnp.float32(norm))
        expected = oracle.is_spike(norm)
        if min(oracle.margins) < 1e-4:
            return  # too close to call in f32
        assert bool(is_spike) == expected
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert int(state["count"]) < 2 * WINDOW


def test_nothing_is_judged_before_half_of_the_window_is_known() -> None:
    assert judged([1.0, 1.0, 1.0, 1e6, 1.0, 1e6]) == [False] * 5 + [True]


def test_a_level_that_moves_does_not_lock_the_run_out() -> None:
    draw = np.random.default_rng(0)
    before, after = draw.lognormal(0, 0.2, 20), 100 * draw.lognormal(0, 0.2, 40)
    found = judged([*before, *after])
    assert not any(found[:20]) and found[20 : 20 + MOST_IN_A_ROW] == [True] * MOST_IN_A_ROW
    assert not any(found[20 + MOST_IN_A_ROW :])
    assert judged([*before, *after, 1e5])[-1]  # at the new level it judges again


def test_a_slow_drift_is_no_spike() -> None:
    assert not any(judged([1.02**step for step in range(300)]))


def test_the_guard_is_off_by_default() -> None:
    assert make_spike_guard(OptimConfig()) is None
    assert make_spike_guard(OptimConfig(spike_factor=6.0)) == SpikeGuard(6.0, 64)


def test_a_spike_changes_nothing_but_its_count() -> None:
    optimizer, guard = optax.adamw(0.01), SpikeGuard(15.0, 8)
    names = metric_names(toy_loss, toy_params(), toy_batch(), guard=guard)
    assert names[-1] == "spikes"

    def loss(params: Any, batch: Any, context: Any) -> Loss:
        return toy_loss(params, batch, context)._replace(
            total=toy_loss(params, batch, context).total * batch["scale"][0]
        )

    step = jax.jit(make_train_step(loss, optimizer, total_steps=20, guard=guard))
    key = jax.random.key_data(jax.random.key(5))
    guard_state = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in guard.shapes().items()}
    state = TrainState(jnp.int32(0), toy_params(), optimizer.init(toy_params()), key, guard=guard_state)
    sums = metrics_lib.zeros_like(dict.fromkeys(names))
    for index in range(6):
        state, sums = step(state, sums, toy_batch(index) | {"scale": np.float32([1.0])})
    after, sums = step(state, sums, toy_batch(6) | {"scale": np.float32([1e4])})
    assert int(after.step) == 7
    for old, new in zip(
        jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves((after.params, after.opt_state)), strict=True
    ):
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()
    np.testing.assert_array_equal(sums["spikes"], [1.0, 7.0])
    np.testing.assert_array_equal(sums["skipped"], [0.0, 7.0])
    # Not finite is still counted as that alone.
    _, sums = step(after, sums, toy_batch(7, poison=1) | {"scale": np.float32([1.0])})
    np.testing.assert_array_equal((sums["spikes"][0], sums["skipped"][0]), (1.0, 1.0))


# Whole runs.

GUARDED = {"optim__spike_factor": 6.0, "optim__spike_window": 8}


def with_heavy_batch(patch: pytest.MonkeyPatch, progress: float) -> None:
    """Has the loss of one update, that far in the run, and its gradient be a thousand times as large."""
    plain = NerObjective.loss

    def loss(self: Any, model: Any, batch: Any, context: Any) -> Loss:
        found = plain(self, model, batch, context)
        return found._replace(total=found.total * jnp.where(jnp.abs(context.progress - progress) < 1e-3, 1e3, 1.0))

    patch.setattr(NerObjective, "loss", loss)


def test_a_guarded_run_that_is_stopped_is_the_run_that_was_not(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_heavy_batch(monkeypatch, 6 / 12)  # the seventh: half of the window of those before it is known
    config = tiny.config(tmp_path, **BASE | GUARDED)
    saved: Saved = record_saves(monkeypatch)
    report = train(config, tmp_path / "whole")
    wanted = dict(saved)
    said = capsys.readouterr().out
    assert "updates were skipped: gradient norm far above those before (config.optim.spike_factor)" in " ".join(
        said.split()
    )
    lines = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["spikes"] for line in lines] == [0.0, 0.25, 0.0] and not any(line["skipped"] for line in lines)
    saved.clear()
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 9, crash)
        with pytest.raises(CrashError):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run")["splits"] == report["splits"]
    assert saved == wanted


def test_a_run_without_a_guard_has_neither_state_nor_metric_of_it(tmp_path: pathlib.Path) -> None:
    session = real_setup(tiny.config(tmp_path), make_mesh(MeshConfig(), jax.devices()[:1])).session
    assert session.abstract.guard == {} and "spikes" not in session.metric_names


def test_the_decision_is_that_of_one_device(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_heavy_batch(monkeypatch, 6 / 8)
    config = tiny.config(tmp_path, **GUARDED, train__steps=8)
    results = []
    for sizes in ((1, 1, 1, 1), (2, 2, 1, 1)):
        setup = real_setup(config, make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)]))
        state, spikes = setup.initial_state(), []
        for stepped in setup.session.steps(state, setup.batches.iterate(0, 8)):
            spikes.append(float(stepped.take_sums()["spikes"][0]))
            state = stepped.state
        assert spikes == [0.0] * 6 + [1.0, 0.0]
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.guard))
        results.append(jax.device_get(state.guard))
    np.testing.assert_allclose(results[0]["log_norms"], results[1]["log_norms"], atol=1e-4)
