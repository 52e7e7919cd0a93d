"""What the environment keeps secret stands in no file and on no screen."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxfm import files, schema
from jaxfm.errors import UserError, without_secrets
from jaxfm.programs.given_config import resolve_config
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECRETS = {
    "HF_TOKEN": "hf_markerOfTheHub0001",
    "WANDB_API_KEY": "markerofwandb0002",
    "AWS_ACCESS_KEY_ID": "MARKEROFAWS0003",
    "AWS_SECRET_ACCESS_KEY": "marker/of/aws+0004",
    "JAXFM_TOKEN": "markerOfTheServer0005",
    "HTTPS_PROXY": "http://someone:markerOfTheProxy0006@127.0.0.1:9",
}
MARKERS = tuple(
    value.split(":")[-1] if name != "HTTPS_PROXY" else "markerOfTheProxy0006" for name, value in SECRETS.items()
)
# What a person does with a run, in one process: the libraries are imported once. A lock file is kept as it is while
# the run is under way.
PROGRAM = """
import pathlib, runpy, shutil, sys
import jaxfm
from jaxfm.training import session
folder = pathlib.Path(sys.argv[1])
plain = session.meshes.shard_batch

def shard_batch(*arguments):
    lock = folder / "run" / ".lock"
    if lock.exists():
        shutil.copy(lock, folder / "lock_seen")
    return plain(*arguments)

session.meshes.shard_batch = shard_batch
from tests import tiny
jaxfm.train(tiny.config(folder, train__steps=2), folder / "run")
print(jaxfm.predict(folder / "run", "ada met boole"))
jaxfm.export(folder / "run", folder / "export")
sys.argv = ["doctor", "--json", "--noself_test"]
try:
    runpy.run_module("jaxfm.doctor", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""


def without_markers(text: str, where: str) -> None:
    found = [marker for marker in MARKERS if marker in text]
    assert not found, f"{found} in {where}"


def test_nothing_of_a_run_holds_a_secret(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, **SECRETS, "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    # Secrets on the command line too, as a careless script passes them.
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), SECRETS["HF_TOKEN"], "https://user:markerofwandb0002@host/x"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    without_markers(done.stdout, "stdout")
    without_markers(done.stderr, "stderr")
    assert '"versions"' in done.stdout  # doctor's
    lock = json.loads((tmp_path / "lock_seen").read_bytes())
    assert lock["command"].endswith("*** https://***@host/x")
    read = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "report.json", "README.md", "metrics.jsonl", "lock_seen"} <= {path.name for path in read}
    for path in read:
        content = path.read_bytes()
        assert not [marker for marker in MARKERS if marker.encode() in content], path


def test_a_config_takes_no_url_with_a_token(tmp_path: pathlib.Path) -> None:
    url = "https://user:markerOfTheHub@host/model"
    for key in ("data.source", "model.init", "log.project"):
        with pytest.raises(UserError, match=rf"config.{key}: is 'https://\*\*\*@host/model'") as error:
            resolve_config("ner:files", {key: url})
        without_markers(str(error.value), "the message")
        assert "markerOfTheHub" not in str(error.value)
    assert resolve_config("ner:files", {"log.project": "a@b"}).log.project == "a@b"
    config = schema.to_dict(tiny.config(tmp_path))
    with pytest.raises(UserError, match="which config.json, logs and model cards would"):
        resolve_config(tiny.config(tmp_path), {"model.tokenizer": "http://markerOfTheHub@host"})
    assert config["model"]["tokenizer"] == ""


def test_messages_and_locks_hold_no_secret(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "markerofsomething")
    monkeypatch.setenv("SHORT_TOKEN", "the")
    assert without_secrets("the markerofsomething of http://a:b@c/d@e") == "the *** of http://***@c/d@e"
    assert str(UserError("http://user:word@host failed")) == "http://***@host failed"
    monkeypatch.setattr(sys, "argv", ["train", "--x=markerofsomething", "https://name:token@host"])
    with files.held(tmp_path / ".lock", "x"):
        assert json.loads((tmp_path / ".lock").read_bytes())["command"] == "train --x=*** https://***@host"
