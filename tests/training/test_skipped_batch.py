"""A run that stops for skipped updates leaves their last batch, and `evaluate --replay` says what is wrong with it."""

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from absl import flags

from jaxfm.config import Config
from jaxfm.core.objective import Loss
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.replay import Replay, replay
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.training import skipped_batch
from jaxfm.training import workdir as workdirs
from jaxfm.training.initial import resolve
from jaxfm.training.setup import set_up
from tests import tiny
from tests.training.whole_run import BASE


def poisoned(patch: pytest.MonkeyPatch, token: int, first: float) -> None:
    """Has the loss be NaN of rows with a token, from a progress on, as if that word's vector had no numbers."""
    plain = NerObjective.loss

    def loss(self: Any, model: Any, batch: Any, context: Any) -> Loss:
        found = plain(self, model, batch, context)
        is_bad = (batch["tokens"] == token).any() & (context.progress >= first - 1e-6)
        return found._replace(total=found.total * jnp.where(is_bad, jnp.nan, 1.0))

    patch.setattr(NerObjective, "loss", loss)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("skipped")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    values = {"train__stop_after_skips": 3, "log__every_steps": 3, "train__accumulate": 1, "train__steps": 14}
    return tiny.config(folder, **BASE | values)


@pytest.fixture(scope="module")
def stopped(config: Config, folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """A run whose updates from the ninth on are skipped, and what it said; token 2 is that of every text's start."""
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, 2, 8 / 14)
        with pytest.raises(UserError) as caught:
            train(config, folder / "run")
    yield folder / "run", str(caught.value)


def test_the_run_stops_with_the_batch_saved(stopped: tuple[pathlib.Path, str], config: Config) -> None:
    workdir, said = stopped
    path = workdir / "skipped" / "12.safetensors"
    assert "the last 3 updates up to step 12 had gradients that are not finite (none of them" in said
    assert f"--workdir={workdir} --replay={path}" in said
    found = skipped_batch.read(path)
    assert (found.step, found.total_steps, len(found.rows)) == (12, 14, 8)
    assert {name: values.shape[0] for name, values in found.batch.items()} == dict.fromkeys(found.batch, 8)
    assert not (workdir / "report.json").exists()


def replayed(workdir: pathlib.Path) -> Replay:
    return replay(workdir, workdir / "skipped" / "12.safetensors")


def test_the_replay_names_rows_and_parameters(
    stopped: tuple[pathlib.Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, _ = stopped
    batch = skipped_batch.read(workdir / "skipped" / "12.safetensors").batch
    counts = {token: (batch["tokens"] == token).any(axis=1) for token in np.unique(batch["tokens"])}
    token = next(token for token, has in counts.items() if has.sum() == 1)  # that one row alone has
    (index,) = np.flatnonzero(counts[token])
    poisoned(monkeypatch, int(token), 0.0)
    found = replayed(workdir)
    assert found.checkpoint == 10 and found.same_data and not found.is_finite
    assert [row.index for row in found.rows if not row.is_finite] == [index] == [found.rows[0].index]
    assert found.verdict() == f"Not finite by itself: row {index} of the batch."
    assert found.gradients and not found.parameters
    assert found.gradients["head/kernel"] == 32 * 5
    assert "met" in found.rows[0].text or "saw" in found.rows[0].text
    poisoned(monkeypatch, 2, 0.0)
    assert "Every row is not finite by itself" in replayed(workdir).verdict()


def test_an_update_that_is_finite_here_is_said_to_be(stopped: tuple[pathlib.Path, str]) -> None:
    """Rows add up to the batch: the weights exactly, the losses up to rounding; dropout is that of the update."""
    found = replayed(stopped[0])
    assert found.is_finite and not found.gradients and "The update is finite here" in found.verdict()
    assert sum(row.weight for row in found.rows) == found.weight
    total = sum(row.loss * row.weight for row in found.rows if row.weight)
    assert total / found.weight == pytest.approx(found.loss, rel=1e-5)
    norms = [row.gradient_norm for row in found.rows]
    assert norms == sorted(norms, reverse=True) and found.gradient_norm <= sum(norms) * (1 + 1e-5)


def test_without_a_checkpoint_the_first_parameters_are_taken(
    stopped: tuple[pathlib.Path, str], tmp_path: pathlib.Path
) -> None:
    shutil.copytree(stopped[0], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    found = replayed(tmp_path / "run")
    assert found.checkpoint == 0 and found.is_finite


def program(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    from jaxfm.programs import evaluate

    known = set(flags.FLAGS)
    monkeypatch.setattr("sys.argv", ["evaluate", *words])
    try:
        with pytest.raises(SystemExit) as ended:
            evaluate.run()
    finally:
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
    return int(ended.value.code or 0)


def test_the_program_prints_tables_and_writes_json(
    stopped: tuple[pathlib.Path, str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workdir, output = stopped[0], tmp_path / "found.json"
    poisoned(monkeypatch, 2, 0.0)
    words = [f"--workdir={workdir}", f"--replay={workdir / 'skipped' / '12.safetensors'}"]
    assert program(monkeypatch, *words, f"--output={output}") == 0
    said = capsys.readouterr().out
    assert "Update 12, computed again" in said and "Gradients that are not finite" in said
    found = json.loads(output.read_text())
    assert found["loss"] == "nan" and len(found["rows"]) == 8 and found["checkpoint"] == 10
    assert program(monkeypatch, *words, "--split=test") == 2
    assert "--split cannot change it" in capsys.readouterr().err


def test_a_bad_file_is_one_message(
    stopped: tuple[pathlib.Path, str], config: Config, tmp_path: pathlib.Path, folder: pathlib.Path
) -> None:
    workdir, path = stopped[0], stopped[0] / "skipped" / "12.safetensors"
    content = path.read_bytes()
    arrays, bad = safetensors.numpy.load(content), tmp_path / "bad.safetensors"
    with pytest.raises(UserError, match="no such file"):
        replay(workdir, bad)
    bad.write_bytes(content[:-10])
    with pytest.raises(UserError, match="cannot be read as a safetensors file"):
        replay(workdir, bad)
    bad.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(UserError, match="is not the batch of a skipped update"):
        replay(workdir, bad)
    bad.write_bytes(content.replace(b'"key":"[', b'"key":"{'))
    with pytest.raises(UserError, match="was changed after it was written"):
        replay(workdir, bad)
    skipped = skipped_batch.read(path)
    skipped_batch.write(bad, skipped_batch.dataclasses.replace(skipped, batch={"tokens": skipped.batch["tokens"]}))
    with pytest.raises(UserError, match="its arrays .* are not those of a batch of this run"):
        replay(workdir, bad)
    skipped_batch.write(bad, skipped_batch.dataclasses.replace(skipped, config_sha256="0"))
    with pytest.raises(UserError, match="is of a run with another config"):
        replay(workdir, bad)
    # Keys that change no update may differ.
    assert skipped_batch.config_sha256(tiny.replaced(config, log__every_steps=7)) == skipped.config_sha256
    assert skipped_batch.config_sha256(tiny.replaced(config, seed=7)) != skipped.config_sha256


def write_skipped(workdir: pathlib.Path, config: Config) -> pathlib.Path:
    """Writes a run directory that has no checkpoint yet, and its second batch as if it had been skipped."""
    task, loaded = registry.create(config, resolve(config.model))
    config = workdirs.with_values(config, task.chosen)
    setup = set_up(config, task, loaded, make_mesh(config.parallel.mesh))
    workdirs.write_config(workdir, config)
    task.save(workdir)
    with pytest.raises(UserError, match="the last 20 updates up to step 2"):
        skipped_batch.stop_after_skips(config, setup, workdir, 2, 20)
    return workdir / "skipped" / "2.safetensors"


TASKS = {**tiny.CONFIGS, "image_classification": tiny.image_config, "relations": tiny.relations_config}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "embedding" else pytest.mark.slow) for name in TASKS]
)
def test_every_task_is_replayed(name: str, tmp_path: pathlib.Path) -> None:
    config = tiny.replaced(TASKS[name](tmp_path), parallel__mesh__data=2, parallel__mesh__fsdp=2)
    found = replay(tmp_path / "run", write_skipped(tmp_path / "run", config))
    assert found.is_finite and found.same_data and len(found.rows) == config.train.batch_size
    assert all(row.is_finite for row in found.rows) and found.weight > 0 and found.gradient_norm > 0
    # A loss that compares the rows of a batch is another one without the others; else they add up.
    if name not in ("embedding", "late_interaction"):
        total = sum(row.loss * row.weight for row in found.rows if row.weight)
        assert total / found.weight == pytest.approx(found.loss, rel=1e-4)
    assert any(row.text for row in found.rows) == ("tokens" in found_fields(tmp_path / "run"))


def found_fields(workdir: pathlib.Path) -> set[str]:
    return set(skipped_batch.read(workdir / "skipped" / "2.safetensors").batch)
