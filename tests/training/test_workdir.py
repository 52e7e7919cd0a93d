"""The run directory: who holds it, and what is said of files that are cut, changed or of another jaxfm."""

import json
import os
import pathlib
import shutil

import pytest

from jaxfm import files
from jaxfm.config import ModelConfig
from jaxfm.core.initial import Origin
from jaxfm.core.spec import SPEC_VERSION
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import CALIBRATION_FILE
from jaxfm.programs.train import train
from jaxfm.training import workdir as workdirs
from jaxfm.training.saved_run import open_run
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of NER that was never trained, and what it is made of."""
    folder = tmp_path_factory.mktemp("workdir")
    tiny.write_run(folder / "run", tiny.config(folder), best=1)
    return folder


@pytest.fixture
def run(folder: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of it to damage."""
    for name in ("config.json", "task.json"):
        shutil.copy(folder / "run" / name, tmp_path / name)
    shutil.copytree(folder / "run" / "tokenizer", tmp_path / "tokenizer")
    return tmp_path


def change(path: pathlib.Path, **values: object) -> None:
    old = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in (old | values).items() if value != "absent"}))


def test_a_run_that_another_process_holds_is_left_alone(folder: pathlib.Path) -> None:
    config = tiny.config(folder)
    who = f"process {os.getpid()} on .* is writing there"
    before = sorted((folder / "run").rglob("*"))
    with files.held(folder / "run" / workdirs.LOCK_FILE, "x"):
        with pytest.raises(UserError, match=rf"--workdir={folder / 'run'}: {who}"):
            train(config, folder / "run")
    assert sorted((folder / "run").rglob("*")) == before
    with files.held(folder / "new" / workdirs.LOCK_FILE, "x"):
        with pytest.raises(UserError, match=rf"--workdir={folder / 'new'}: {who}"):
            train(config, folder / "new")
        assert [path.name for path in (folder / "new").iterdir()] == [workdirs.LOCK_FILE]


def test_a_run_that_another_process_began_meanwhile_is_not_begun_anew(folder: pathlib.Path) -> None:
    config = tiny.config(folder)
    with pytest.raises(UserError, match="the run, which was new, is now half-way. Give the same command again"):
        with workdirs.hold(folder / "run", config, "new"):
            pass
    with workdirs.hold(folder / "run", config, "half-way"):
        assert (folder / "run" / workdirs.LOCK_FILE).is_file()
    assert not (folder / "run" / workdirs.LOCK_FILE).exists()


def test_a_lock_alone_is_no_run(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / workdirs.LOCK_FILE).touch()
    assert workdirs.status(tmp_path, tiny.config(folder)) == "new"


def test_a_workdir_that_cannot_be_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    config = tiny.config(folder)
    for workdir, message in (
        (tmp_path / "file", "is a file; name a directory"),
        (tmp_path / "file" / "run", "is a file, not a directory"),
        ("gs://bucket/run", "is a URL"),
    ):
        with pytest.raises(UserError, match=f"--workdir=.*{message}"):
            train(config, workdir)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"version": 4}, r"task\.json: has version 4, but this jaxfm reads versions up to 3"),
        ({"labels": "absent"}, r"task\.json: has no 'labels'"),
        ({"labels": 5}, r"task\.json: labels: is 5, but must be a tuple of strings"),
        ({"window": "9"}, r"task\.json: window: is '9' \(str\), but must be int"),
        ({"windows": 9}, r"task\.json: windows: there is no such key. Did you mean 'window'"),
        ({"encoder": "absent"}, r"task\.json: has no 'encoder'"),
        ({"encoder": {"hidden": 3}}, r"task\.json: encoder\.hidden: there is no such key. Did you mean 'hidden_size'"),
        ({"encoder": {"num_heads": 2.5}}, r"task\.json: encoder\.num_heads: is 2\.5"),
        ({"encoder": []}, r"task\.json: is not a task"),
        ({"task": "nerr"}, r"task\.json: task 'nerr' is not one of this jaxfm. Did you mean 'ner'"),
    ],
)
def test_a_task_that_was_changed_is_named(run: pathlib.Path, values: dict[str, object], message: str) -> None:
    change(run / "task.json", **values)
    with pytest.raises(UserError, match=message):
        open_run(run)


def test_runs_of_before_there_were_versions_are_read(run: pathlib.Path, folder: pathlib.Path) -> None:
    for name, version in (("config.json", 2), ("task.json", SPEC_VERSION)):
        assert json.loads((run / name).read_text())["version"] == version
        change(run / name, version="absent")
    assert workdirs.read_config(run) == tiny.config(folder)
    assert open_run(run).spec.encoder == tiny.ENCODER


@pytest.mark.parametrize("content", [b"", b'{"version": 1, "task": "n', b"\xff\xfe\x00", b"[]", b"null"])
def test_files_that_are_cut_are_named(run: pathlib.Path, folder: pathlib.Path, content: bytes) -> None:
    for name in ("config.json", "task.json", "report.json", CALIBRATION_FILE):
        kept = (run / name).read_bytes() if (run / name).exists() else None
        (run / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name.replace('.', '[.]')}: (is|has|file)"):
            workdirs.read_config(run)
            open_run(run).predictor()
            workdirs.read_report(run)
            raise AssertionError(name)
        (run / name).unlink() if kept is None else (run / name).write_bytes(kept)


def test_a_config_of_another_jaxfm_is_named(run: pathlib.Path) -> None:
    for values, message in (
        ({"version": 7}, r"config\.json: has version 7, but this jaxfm reads versions up to 2"),
        (
            {"version": 2, "config": {"task": {"name": "ner"}, "trian": {"steps": 3}}},
            r"config\.json: config\.trian: there is no such key. Did you mean 'train'",
        ),
        ({"version": 1, "config": []}, r"config\.json: is not a config written by jaxfm"),
    ):
        change(run / "config.json", **values)
        with pytest.raises(UserError, match=message):
            workdirs.read_config(run)


def test_a_run_goes_on_with_the_commits_that_it_began_with(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = ModelConfig(init="hf:owner/name@main", tokenizer="hf:owner/words")
    origin = Origin(model.init, "a" * 40, "b" * 40, 96)
    config = tiny.replaced(tiny.config(folder), model__init=model.init)
    assert workdirs.pinned(tmp_path, model) == model  # no run yet
    workdirs.write_config(tmp_path, config, origin)
    assert workdirs.read_origin(tmp_path) == origin
    assert workdirs.pinned(tmp_path, model) == ModelConfig(
        init=f"hf:owner/name@{'a' * 40}", tokenizer=f"hf:owner/words@{'b' * 40}"
    )
    other = ModelConfig(init=f"run:{tmp_path}")  # its origin is that of another run
    assert workdirs.pinned(tmp_path, other) == other
    workdirs.write_config(tmp_path, config)
    assert workdirs.read_origin(tmp_path) is None and workdirs.pinned(tmp_path, model) == model


@pytest.mark.parametrize(
    "value", [[], {"init": "dir:x"}, {"init": 1, "revision": "", "tokenizer_revision": "", "vocab_size": 1}]
)
def test_an_origin_that_was_changed_is_named(value: object, run: pathlib.Path) -> None:
    change(run / "config.json", origin=value)
    with pytest.raises(UserError, match=r'config\.json: its "origin" is not one that jaxfm wrote'):
        workdirs.read_origin(run)
