"""The program `jaxfm launch`: it lists the scripts of launch/ and finds the one that is asked for."""

import pathlib
import sys

import pytest

from jaxfm.errors import UserError
from jaxfm.programs import launch

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch"
PARTS = {"lib.sh", "tpu_worker.sh"}  # of other scripts


def test_every_script_of_the_folder_is_listed() -> None:
    assert set(launch.SCRIPTS) == {path.name for path in FOLDER.glob("*.*") if path.suffix in (".py", ".sh")} - PARTS
    text = launch.listing(FOLDER, "python -m jaxfm launch")
    assert f"  {FOLDER}" in text.splitlines() and "python -m jaxfm launch local --processes=2" in text
    assert all(doc in text for doc in launch.SCRIPTS.values())


def test_a_script_is_found_by_its_name() -> None:
    local = [sys.executable, str(FOLDER / "local.py"), "--processes=2"]
    assert [launch.command(name, ["--processes=2"]) for name in ("local", "local.py")] == [local, local]
    for name in ("tpu-pod", "tpu_pod", "tpu_pod.sh"):
        assert launch.command(name, []) == ["bash", str(FOLDER / "tpu_pod.sh")]


def test_an_unknown_script_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no script 'slrm'\. Did you mean 'slurm'\?"):
        launch.command("slrm", [])
