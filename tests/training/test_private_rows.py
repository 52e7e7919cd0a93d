"""Private training of whole runs: what they leave, that they go on as they were, and what is refused."""

import importlib.util
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import private_rows
from jaxfm.training.initial import resolve
from jaxfm.training.session import make_session
from jaxfm.training.setup import prepare
from tests import tiny

needs_accountant = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="needs the extra `privacy`: dp-accounting"
)
PRIVATE: dict[str, Any] = {
    "privacy__clip_norm": 0.5, "privacy__noise": 0.8, "privacy__delta": 1e-3, "data__packed": False
}  # fmt: skip


def _config(folder: pathlib.Path, **overrides: Any) -> Any:
    return tiny.classification_config(folder, **{**PRIVATE, **overrides})


@needs_accountant
def test_a_private_run_says_what_it_has_spent_and_keeps_no_loss_of_training(tmp_path: pathlib.Path) -> None:
    report = train(_config(tmp_path, train__steps=6, train__batch_size=24), tmp_path / "run")
    spent = report["privacy"]
    rows = tiny.SIZES["train"]
    assert spent["steps"] == 6 and spent["rows"] == rows and spent["rate"] == 24 / rows and spent["unit"] == "row"
    assert 0 < spent["epsilon"] < 60 and spent["noise"] == 0.8
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    of_training = [line for line in lines if line["split"] == "train"]
    assert of_training and all(line["loss"] == "nan" for line in of_training)
    assert any(line.get("gradient_norm") for line in of_training)
    text = (tmp_path / "run" / "report.md").read_text()
    assert "differential privacy" in text.lower()
    assert json.loads((tmp_path / "run" / "report.json").read_text())["privacy"] == spent


@pytest.mark.slow
@needs_accountant
def test_noise_of_a_budget(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(private_rows.accounting.noise_for.__kwdefaults__, "accountant", "rdp")
    config = _config(tmp_path, privacy__noise=0.0, privacy__epsilon=6.0, train__steps=5, train__batch_size=8)
    task, loaded = registry.create(config, resolve(config.model))
    setup = prepare(config, task, loaded, make_mesh(MeshConfig(), jax.devices()))
    assert setup.privacy is not None and setup.privacy.noise > 0.2
    assert 3.0 < setup.privacy.spent(5)["epsilon"] <= 6.0
    assert any("epsilon" in note and "noise multiplier" in note for note in setup.notes)


@pytest.mark.slow
def test_the_update_is_the_same_on_four_devices_as_on_one(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path, train__batch_size=8, model__dropout=0.1)
    task, loaded = registry.create(config, resolve(config.model))
    batch = task.datasets["train"].take(np.arange(8))
    found = []
    for devices in (1, 4):
        mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
        session = make_session(config, task.objective, mesh, total_steps=4)
        *_, last = session.steps(session.initial_state(0, loaded), [batch, batch])
        found.append(jax.device_get(last.state.params))
    for one, four in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, four, atol=3e-5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"data__packed": True},
            "config.data.packed=True: cannot be trained with config.privacy.clip_norm=0.5: a packed row",
        ),
        ({"augment__mixup": 0.4}, "config.augment.mixup=0.4: cannot .* a mixture is of two rows"),
        ({"privacy__noise": 0.0}, "config.privacy.epsilon: is 0 and config.privacy.noise is 0"),
        (
            {"privacy__clip_norm": 0.0},
            "config.privacy.noise: is 0.8, but training is not private while config.privacy.clip_norm is 0",
        ),
        ({"privacy__epsilon": 3.0}, "config.privacy.epsilon: is 3 and config.privacy.noise is 0.8"),
        ({"privacy__delta": 0.05}, "config.privacy.delta: 0.05: must be below one divided by the number of rows"),
        ({"train__batch_size": 400}, "config.train.batch_size: 400: private training draws each of the"),
        ({"train__seeds": 2}, "config.privacy.clip_norm=0.5: is for one run"),
    ],
)
def test_what_is_refused_leaves_no_run(tmp_path: pathlib.Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(_config(tmp_path, **keys), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_losses_that_compare_rows_are_refused(tmp_path: pathlib.Path) -> None:
    config = tiny.groups_config(tmp_path, "embedding", **PRIVATE)
    with pytest.raises(UserError, match="its loss compares the rows of a batch"):
        train(config, tmp_path / "run")


def test_a_session_without_a_run_needs_the_multiplier_itself(tmp_path: pathlib.Path) -> None:
    config = _config(tmp_path, privacy__noise=0.0, privacy__epsilon=3.0)
    task, _ = registry.create(config, resolve(config.model))
    with pytest.raises(UserError, match="config.privacy.noise: is 0. Here nobody knows the data"):
        make_session(config, task.objective, make_mesh(MeshConfig(), jax.devices()[:1]), total_steps=4)
