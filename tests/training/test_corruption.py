"""Flipped bits and steps that are not deterministic: caught, named, and nothing of them saved."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.parallel import target
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.train import train
from jaxfm.training import corruption, session
from jaxfm.training.corruption import CorruptionError, check_deterministic
from jaxfm.training.setup import Setup
from tests import tiny
from tests.training.test_step import real_setup
from tests.training.whole_run import BASE, record_saves

NAME = "encoder/embeddings/norm/scale"  # whole on every device
CUT = "head/kernel"  # over fsdp


def flipped(array: jax.Array, device: int, bit: int = 3) -> jax.Array:
    """The array with one bit of its first scalar flipped in the copy that one device holds."""
    parts = []
    for number, shard in enumerate(array.addressable_shards):
        own = np.array(shard.data)
        if number == device:
            own.reshape(-1).view(np.uint32)[0] ^= np.uint32(1 << bit)
        parts.append(jax.device_put(own, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, parts)


def with_flip(state: Any, device: int, name: str = NAME) -> Any:
    """A state of which one parameter differs on one device."""

    def flip(path: Any, leaf: jax.Array) -> jax.Array:
        return flipped(leaf, device) if corruption.path_name(path) == f"params/{name}" else leaf

    return jax.tree_util.tree_map_with_path(flip, state)


def setup_on(folder: pathlib.Path, sizes: tuple[int, int, int, int], every: int = 2) -> Setup:
    config = tiny.config(folder, train__verify_every_steps=every)
    return real_setup(config, make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))]))


def run(setup: Setup, state: Any, steps: int) -> Any:
    for stepped in setup.session.steps(state, setup.batches.iterate(0, steps)):
        state = stepped.state
    return state


@pytest.mark.parametrize(
    ("sizes", "device", "name", "said"),
    [
        (
            (4, 1, 1, 1),
            2,
            NAME,
            r"\(params/encoder/embeddings/norm/scale\), on cpu:2, which their other copies outvote",
        ),
        ((2, 1, 1, 1), 1, NAME, r"on cpu:0, cpu:1, and no majority tells which of them is right"),
        ((1, 2, 2, 1), 3, NAME, "on cpu:3, which their other copies outvote"),
        ((1, 2, 2, 1), 3, CUT, "on cpu:2, cpu:3, and no majority"),
    ],
)
def test_a_flipped_bit_in_one_copy_is_caught_and_named(
    tmp_path: pathlib.Path, sizes: tuple[int, int, int, int], device: int, name: str, said: str
) -> None:
    setup = setup_on(tmp_path, sizes)
    state = with_flip(setup.initial_state(), device, name)
    # Not looked for: the wrong copy trains on in silence.
    with pytest.raises(CorruptionError, match="before update 2 the devices' copies of") as caught:
        run(setup, state, 4)
    assert "Nothing of this state is saved" in str(caught.value)
    state = setup.initial_state()
    with pytest.raises(CorruptionError, match=f"after update 0 the devices' copies of 1 of .*{said}"):
        setup.session.verify_copies(0, with_flip(state, device, name), setup.session.empty_sums())


@pytest.mark.parametrize(
    "sizes",
    [(4, 1, 1, 1), *(pytest.param(each, marks=pytest.mark.slow) for each in ((2, 2, 1, 1), (1, 1, 2, 2)))],
)
def test_a_verified_run_has_the_same_bits(tmp_path: pathlib.Path, sizes: tuple[int, int, int, int]) -> None:
    states = []
    for every in (0, 2):
        setup = setup_on(tmp_path, sizes, every)
        states.append(jax.device_get(run(setup, setup.initial_state(), 4)))
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_step_that_gives_two_results_is_caught(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = setup_on(tmp_path, (4, 1, 1, 1), every=3)
    plain, calls = session.Session.compiled, []

    def compiled(self: session.Session, size: int, constants: Any = ()) -> Any:
        program = plain(self, size, constants)

        def sometimes_wrong(*arguments: Any) -> Any:
            state, sums = program(*arguments)
            calls.append(1)
            if len(calls) == 3:  # the first computation of update 3
                with jax.transfer_guard("allow"):
                    wrong = jnp.nextafter(sums["loss"], jnp.inf)
                    sums = {**sums, "loss": jax.device_put(wrong, sums["loss"].sharding)}
            return state, sums

        return sometimes_wrong

    monkeypatch.setattr(session.Session, "compiled", compiled)
    with pytest.raises(CorruptionError, match=r"update 3, computed twice .* 1 of \d+ arrays differ \(metrics/loss\)"):
        run(setup, setup.initial_state(), 4)
    assert len(calls) == 4


def test_nothing_of_a_corrupt_state_is_saved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.config(
        tmp_path,
        **BASE | {"train__accumulate": 1, "train__verify_every_steps": 100},  # the copies alone are compared, at saves
    )
    saved = record_saves(monkeypatch)
    whole = train(config, tmp_path / "whole")
    wanted = dict(saved)
    saved.clear()
    plain = session.Session.verify_copies

    def verify(self: session.Session, step: int, state: Any, sums: Any) -> None:
        plain(self, step, with_flip(state, 1) if step == 10 else state, sums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Session, "verify_copies", verify)
        with pytest.raises(CorruptionError, match=r"after update 10 .* on cpu:1, which"):
            train(config, tmp_path / "run")
    assert sorted(saved) == [5]
    assert train(config, tmp_path / "run")["splits"] == whole["splits"]
    assert saved == wanted


def test_gpus_are_asked_to_add_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with target.tracing_for("cuda"):
        check_deterministic(0)
        with pytest.raises(UserError, match="XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
            check_deterministic(100)
        monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
        with pytest.raises(UserError, match="verify_every_steps: 100"):
            check_deterministic(100)
        monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_gpu_deterministic_ops=true")
        check_deterministic(100)
    check_deterministic(100)  # this machine's CPU
