"""Copies of runs on an object store: a lost machine's run goes on elsewhere, to the same bits, from whole copies."""

import json
import logging
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from jaxfm.training import mirror
from jaxfm.training.mirror import Mirror, Store
from tests import tiny
from tests.training.whole_run import (
    BASE,
    CrashError,
    Saved,
    Whole,
    assert_equal_to,
    at_step,
    crash,
    record_saves,
    terminate,
    whole_run,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("mirror")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.config(folder, **BASE)


@pytest.fixture(scope="module")
def whole(config: Config, folder: pathlib.Path) -> Iterator[Whole]:
    yield from whole_run(config, folder)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    return record_saves(monkeypatch)


def write_run(workdir: pathlib.Path, step: int, size: int = 1000) -> None:
    """A directory that looks like a run's after so many steps."""
    shutil.rmtree(workdir, ignore_errors=True)
    (workdir / "checkpoints" / str(step) / "params").mkdir(parents=True)
    (workdir / "checkpoints" / str(step) / "params" / "data").write_bytes(bytes([step]) * size)
    (workdir / "config.json").write_text("{}")
    (workdir / ".lock").write_text("held")
    (workdir / "checkpoints" / "99.orbax-checkpoint-tmp-1").mkdir()
    (workdir / "checkpoints" / "99.orbax-checkpoint-tmp-1" / "part").write_text("half")


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_machine_that_is_lost_twice_costs_nothing_but_time(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lost after a preemption, whose last save is copied, and after a crash, whose save may or may not be."""
    mirrored = tiny.replaced(config, checkpoint__mirror=f"file://{tmp_path / 'store'}")
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, terminate)
        with pytest.raises(Preempted):
            train(mirrored, tmp_path / "one")
    shutil.rmtree(tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 9, crash, first=3)
        with pytest.raises(CrashError):
            train(mirrored, tmp_path / "two")
    assert "resuming after step 3 of 12" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "two")
    report = train(mirrored, tmp_path / "three")
    said = capsys.readouterr().out
    assert f"fetched the run of file://{tmp_path / 'store'}" in said and "is copied to file://" in said
    assert_equal_to(whole, tmp_path / "three", report, saved)
    # A finished run is fetched too, and is what it was.
    assert train(mirrored, tmp_path / "four") == report
    assert evaluate(tmp_path / "four", "test").metrics == evaluate(tmp_path / "three", "test").metrics


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_copy_is_the_run_directory_without_what_is_of_this_machine(protocol: str, tmp_path: pathlib.Path) -> None:
    url = f"{protocol}://{tmp_path / 'store'}"
    write_run(tmp_path / "run", 5)
    store = Store(url)
    assert store.pull(tmp_path / "none") == "" and not (tmp_path / "none").exists()
    sent = store.push(tmp_path / "run")
    assert sent == 1002
    assert store.push(tmp_path / "run") == 0 == Store(url).push(tmp_path / "run")  # what is there is not sent again
    assert "fetched the run of" in Store(url).pull(tmp_path / "copy")
    assert names(tmp_path / "copy") == ["checkpoints/5/params/data", "config.json"]
    for name in names(tmp_path / "copy"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_large_files_are_sent_without_being_held(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_LARGE", 100)
    write_run(tmp_path / "run", 5)
    store = Store(f"file://{tmp_path / 'store'}")
    store.push(tmp_path / "run")
    store.pull(tmp_path / "copy")
    assert (tmp_path / "copy/checkpoints/5/params/data").read_bytes() == bytes([5]) * 1000


def test_a_checkpoint_that_is_removed_while_it_is_sent_is_sent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saves may follow each other faster than copies: an older checkpoint goes while it is read."""
    write_run(tmp_path / "run", 5)
    plain = Store._put

    def put(self: Store, *rest: Any) -> int:
        shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
        return plain(self, *rest)

    monkeypatch.setattr(Store, "_put", put)
    Store(f"file://{tmp_path / 'store'}").push(tmp_path / "run")
    Store(f"file://{tmp_path / 'store'}").pull(tmp_path / "copy")
    assert (tmp_path / "copy/checkpoints/5/params/data").read_bytes() == bytes([5]) * 1000
    assert not list((tmp_path / "run").glob(".mirror-*"))


def test_a_disk_without_links_is_copied(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(mirror.os, "link", link)
    write_run(tmp_path / "run", 5)
    assert Store(f"file://{tmp_path / 'store'}").push(tmp_path / "run") == 1002


def test_two_copies_are_kept_and_nothing_that_neither_needs(tmp_path: pathlib.Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    for step in (1, 2, 3, 4):
        write_run(tmp_path / "run", step)
        store.push(tmp_path / "run")
    assert names(tmp_path / "store" / "manifests") == ["00000003.json", "00000004.json"]
    assert len(names(tmp_path / "store" / "objects")) == 3  # of steps 3 and 4, and config.json


def damage_object(store: pathlib.Path, manifest: int) -> None:
    listed = json.loads((store / "manifests" / f"{manifest:08d}.json").read_text())["files"]
    name = next(name for name in listed if name.endswith("data"))
    (store / "objects" / listed[name][1]).write_bytes(b"x")


@pytest.mark.parametrize("damage", ["object", "absent object", "manifest"])
def test_a_copy_that_is_not_whole_is_passed_over(
    damage: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, store = tmp_path / "store", Store(f"file://{tmp_path / 'store'}")
    for step in (1, 2):
        write_run(tmp_path / "run", step)
        store.push(tmp_path / "run")
    if damage == "manifest":  # half of it written
        path = folder / "manifests" / "00000002.json"
        path.write_bytes(path.read_bytes()[:-20])
    else:
        damage_object(folder, 2)
    with caplog.at_level(logging.WARNING, logger="jaxfm"):
        Store(store.url).pull(tmp_path / "copy")
    assert "copy 2 is not whole" in caplog.text
    assert names(tmp_path / "copy") == ["checkpoints/1/params/data", "config.json"]
    damage_object(folder, 1)
    with pytest.raises(UserError, match="none of its copies of a run is whole"):
        Store(store.url).pull(tmp_path / "other")
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".other*"))


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "..\\outside"])
def test_no_copy_writes_outside_of_the_run_directory(name: str, tmp_path: pathlib.Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    write_run(tmp_path / "run", 1)
    store.push(tmp_path / "run")
    path = tmp_path / "store" / "manifests" / "00000001.json"
    values = json.loads(path.read_text())
    values["files"][name] = values["files"].pop("config.json")
    values.pop("sha256")
    path.write_text(json.dumps(values | {"sha256": files.json_digest(values)}))
    with pytest.raises(UserError, match="names a file outside of the run directory"):
        Store(store.url).pull(tmp_path / "deep" / "copy")
    assert not list(tmp_path.rglob("outside"))


def test_a_store_that_fails_never_stops_training(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> int:
        raise RuntimeError("the network is down")

    monkeypatch.setattr(mirror, "_PAUSE", 0.0)
    monkeypatch.setattr(Store, "push", fail)
    write_run(tmp_path / "run", 5)
    with caplog.at_level(logging.WARNING, logger="jaxfm"):
        copy = Mirror(f"file://{tmp_path / 'store'}", tmp_path / "run")
        copy.saved(5)
        said = copy.finish()
    assert said.startswith("WARNING: config.checkpoint.mirror=file://") and "the network is down" in said


def test_a_store_of_another_run_is_refused(whole: Whole, config: Config, tmp_path: pathlib.Path) -> None:
    url = f"file://{tmp_path / 'store'}"
    Store(url).push(whole.workdir)
    other = tiny.replaced(config, optim__learning_rate=0.02, checkpoint__mirror=url)
    with pytest.raises(UserError, match=r"another config \(optim\.learning_rate"):
        train(other, tmp_path / "fetched")
    shutil.rmtree(tmp_path / "fetched")
    shutil.copytree(whole.workdir, tmp_path / "mine")
    values = json.loads((tmp_path / "mine" / "config.json").read_text())
    values["config"]["optim"]["learning_rate"] = 0.02
    (tmp_path / "mine" / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"config\.checkpoint\.mirror=file://.*holds a run of another config"):
        train(other, tmp_path / "mine")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("runs/copy", "must be a URL"),
        ("s3://key:secret@host/run", "a URL with a name or token before the @"),
        ("nothing://bucket/run", "is no store that fsspec knows"),
    ],
)
def test_a_url_that_cannot_be_is_one_message(url: str, message: str, config: Config, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=message) as error:
        train(tiny.replaced(config, checkpoint__mirror=url), tmp_path / "run")
    assert "secret" not in str(error.value) and not (tmp_path / "run").exists()


def test_a_package_that_is_absent_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(protocol: str) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(UserError, match="needs the package s3fs: "):
        mirror.check_url("s3://bucket/run")
