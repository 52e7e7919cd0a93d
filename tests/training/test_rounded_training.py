"""Training for rounded weights: where its ranges start, that it resumes to the same bits, and what it cannot do."""

import json
import pathlib

import jax
import numpy as np
import pytest

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.quantise import quantise
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.optim import range_rates
from jaxfm.training.paths import flat
from jaxfm.training.saved_run import open_run
from jaxfm.training.setup import set_up
from tests import tiny
from tests.training.whole_run import BASE, CrashError, at_step, crash, record_saves

ROUNDED = {**BASE, "adapt__quantise__bits": 8, "optim__weight_decay": 0.1}
RANGE = "encoder/layers/ffn/down/log2_input_range"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("rounded")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.config(folder, **ROUNDED)


@pytest.fixture(scope="module")
def whole(config: Config, folder: pathlib.Path) -> dict[int, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        train(config, folder / "whole")
    return saved


def test_a_run_that_was_killed_twice_is_the_run_that_was_not(
    whole: dict[int, bytes], config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before its first checkpoint, so that the ranges are measured again, and once after it."""
    saved = record_saves(monkeypatch)
    for step, first in ((3, 0), (9, 5)):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, step, crash, first=first)
            with pytest.raises(CrashError):
                train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert saved.keys() == whole.keys()
    for step, content in whole.items():
        assert saved[step] == content


def test_ranges_are_measured_then_learned(whole: dict[int, bytes], config: Config, folder: pathlib.Path) -> None:
    del whole
    task, loaded = registry.create(config, resolve(config.model))
    setup = set_up(config, task, loaded, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    start = flat(setup.initial_state().params)
    ranges = range_rates(setup.session.abstract.params)
    assert len(ranges) == 6 and set(ranges.values()) == {100.0}
    first = {path: np.asarray(start[path]) for path in ranges}
    # gelu's output has no negative part worth mentioning; what is measured is the largest of both layers, each its own.
    assert all(values.shape == (2,) and len(set(values.tolist())) == 2 for values in first.values())
    np.testing.assert_array_equal(
        first["encoder/layers/attention/query/log2_input_range"], first["encoder/layers/attention/key/log2_input_range"]
    )
    last = open_run(folder / "whole").restore(make_mesh(MeshConfig()), Build()).to_host()
    moved = np.abs(last[RANGE] - first[RANGE])
    assert (moved > 1e-4).all() and (moved < 13).all()


def test_what_was_trained_is_what_is_written(whole: dict[int, bytes], folder: pathlib.Path) -> None:
    del whole
    trained = json.loads((folder / "whole" / "report.json").read_text())["splits"]["valid"]
    # The run has trained with a word embedding in floats: kept so, what is written scores as it did.
    made = quantise(folder / "whole", folder / "written", keep=["embeddings/word"], max_loss=0.02)
    facts = json.loads((made / "quantisation.json").read_text())
    assert facts["method"] == "static" and facts["calibration"] == "learned"
    assert facts["scores"]["valid"]["before"] == pytest.approx(trained["f1"], abs=1e-6)
    assert facts["scores"]["valid"]["after"] == pytest.approx(trained["f1"], abs=1e-6)
    params = open_run(folder / "whole").restore(make_mesh(MeshConfig()), Build()).to_host()
    written = open_run(made).restore(make_mesh(MeshConfig()), Build()).to_host()
    np.testing.assert_allclose(written["encoder/layers/ffn/down/input_scale"], np.exp2(params[RANGE]) / 127, rtol=1e-5)
    with pytest.raises(UserError, match=r"--method=dynamic: the run was trained for method static"):
        quantise(folder / "whole", folder / "never", method="dynamic")
    assert not (folder / "never").exists()


def test_a_run_from_a_quantised_one_starts_in_floats(whole: dict[int, bytes], folder: pathlib.Path) -> None:
    del whole
    made = quantise(folder / "whole", folder / "first", keep=["layers/1/*"], max_loss=1.0)
    again = tiny.config(folder, model__init=f"run:{made}")
    task, loaded = registry.create(again, resolve(again.model))
    assert not task.objective.spec.encoder.quantisation.weights
    assert not any("scale" in path and "norm" not in path or "range" in path for path in loaded)
    assert all(array.dtype == np.float32 for array in loaded.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt__lora__rank": 2}, r"config.adapt.lora.rank: 2 contradicts config.adapt.quantise.bits=8"),
        ({"adapt__train": "head"}, r"config.adapt.quantise.bits: 8 contradicts config.adapt.train='head'"),
        ({"adapt__quantise__bits": 4}, r"config.adapt.quantise.bits: 4 with inputs='static'"),
        ({"adapt__quantise__keep": ("dawn",)}, r"config.adapt.quantise.keep: 'dawn'.*down"),
        ({"adapt__quantise__bits": 3}, r"config.adapt.quantise.bits: is 3"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, object], message: str, folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match=message):
        config = tiny.config(folder, **{**ROUNDED, **changes})
        registry.create(config, resolve(config.model))


@pytest.mark.slow
@pytest.mark.parametrize("inputs", ["dynamic", "none"])
def test_other_forms_are_trained_too(inputs: str, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    bits = 4 if inputs == "none" else 8
    config = tiny.config(folder, **{**ROUNDED, "adapt__quantise__inputs": inputs, "adapt__quantise__bits": bits})
    train(config, tmp_path / "run")
    made = quantise(tmp_path / "run", tmp_path / "made", max_loss=0.05)
    facts = json.loads((made / "quantisation.json").read_text())
    assert (facts["method"], facts["bits"]) == (("dynamic", 8) if inputs == "dynamic" else ("weights", 4))
