"""Every optimizer in a run: cut like its parameters, saved and restored to the same bits, equal to one device."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.optim_config import OPTIMIZERS
from jaxfm.training import optimizers
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.paths import path_name
from jaxfm.training.state import TrainState
from tests import tiny
from tests.training.test_adaptation import ENCODER, MESHES, adapted, flat, moments, run_of

STEPS, RATES = 6, {"sgd": 0.1, "lamb": 1e-2}
# Those whose state is unlike Adam's stand for all.
OFTEN = ("muon", "adafactor")
# What is cut, frozen, low-rank, accumulated and clipped all at once.
SETTINGS = {"freeze": ("encoder/embeddings/position/*",), "freeze_layers": 1, "layer_decay": 0.9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("optimizers")
    tiny.write_weights(folder / "weights", ENCODER)
    return folder


def configured(folder: pathlib.Path, name: str, settings: dict[str, Any]) -> Any:
    own = {"optim__name": name, "optim__learning_rate": RATES.get(name, 1e-3), "optim__warmup_fraction": 0.0}
    if optimizers.TABLE[name].averages:
        own["optim__schedule"] = "constant"
    return adapted(folder, settings, **own, optim__clip_norm=0.5, model__scan_layers=True)


def assert_as_far(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> None:
    """Two runs lie nearer to each other than a thousandth of how far they went, each parameter by itself.

    A softmax does not see the bias of the keys: its gradient is rounding alone, which some optimizers make large.
    """
    for path in (path for path in first if not path.endswith("attention/key/bias")):
        apart, went = np.linalg.norm(got[path] - wanted[path]), np.linalg.norm(wanted[path] - first[path])
        assert apart <= 1e-3 * went, path


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
)
def test_a_run_on_four_devices_is_that_of_one_and_resumes_to_the_same_bits(
    folder: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    config = configured(folder, name, SETTINGS)
    one, four = run_of(config), run_of(config, (1, 2, 2, 1))
    first = flat(one.setup.initial_state().params)
    wanted = flat(one.train(one.setup.initial_state(), 0, STEPS).params)
    half = four.train(four.setup.initial_state(), 0, STEPS // 2)
    by_path = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(half.params)}
    word = by_path["encoder/embeddings/word/embedding"]
    owned = [leaf for leaf in moments(half) if leaf.shape == word.shape]
    assert all(leaf.sharding == word.sharding and not leaf.is_fully_replicated for leaf in owned)
    assert owned
    restored = through_a_checkpoint(four, half, tmp_path)
    for got, kept in zip(jax.tree.leaves(restored), jax.tree.leaves(half), strict=True):
        np.testing.assert_array_equal(got, kept)
        assert got.sharding == kept.sharding
    after = four.train(restored, STEPS // 2, STEPS)
    whole = four.train(four.setup.initial_state(), 0, STEPS)
    for got, kept in zip(jax.tree.leaves(after), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(got, kept)
    assert_as_far(flat(whole.params), wanted, first)
    kernel = "encoder/layers/ffn/up/kernel"
    np.testing.assert_array_equal(wanted[kernel][0], first[kernel][0])
    assert (wanted[kernel][1:] != first[kernel][1:]).mean() > 0.9


def through_a_checkpoint(run: Any, state: TrainState, folder: pathlib.Path) -> TrainState:
    sums = run.setup.session.empty_sums()
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        checkpoints.save(state, sums, {"best": {}})
        checkpoints.wait()
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), sums)
        restored = checkpoints.restore_latest(run.setup.session.abstract, shapes)
    finally:
        checkpoints.close()
    assert restored is not None
    return restored[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_low_rank_updates_alone_are_moved(folder: pathlib.Path, name: str) -> None:
    run = run_of(configured(folder, name, {"lora__rank": 2, "lora__targets": ("all",)}), MESHES[1])
    state = run.setup.initial_state()
    before = flat(state.params)
    after = flat(run.train(state, 0, 3).params)
    moved = {path for path, value in before.items() if (after[path] != value).any()}
    trained = {path for path in before if not path.startswith("encoder/") or "/lora/" in path}
    assert moved == trained


@functools.cache
def bytes_of(folder: pathlib.Path, name: str) -> float:
    """Bytes that the optimizer keeps for each byte of the trained parameters, an average beside them included."""
    session = run_of(configured(folder, name, {})).setup.session

    def size(tree: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    return size((session.abstract.opt_state, session.abstract.live_params)) / size(session.abstract.params)


def test_what_each_keeps_for_a_parameter(folder: pathlib.Path) -> None:
    kept = {name: bytes_of(folder, name) for name in ("adamw", "sgd", "lion", "muon", "schedule_free_adamw")}
    assert 1.0 <= kept["sgd"] < 1.01 and 1.0 <= kept["lion"] < 1.01 and 2.0 <= kept["adamw"] < 2.01
    assert 1.0 < kept["muon"] < 2.0 and 3.0 <= kept["schedule_free_adamw"] < 3.01
