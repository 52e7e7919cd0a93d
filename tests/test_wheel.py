"""The wheel as a stranger gets it: built from the sdist, its files and metadata, and used from an empty folder."""

import email
import email.message
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile

import pytest

import jaxfm
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = f"jaxfm_encoders-{jaxfm.__version__}"
# Folders of the checkout -> where they lie in the wheel.
FOLDERS = {"jaxfm": "jaxfm", "configs": "jaxfm/configs", "launch": "jaxfm/launch"}
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def build(source: pathlib.Path, kind: str, output: pathlib.Path) -> pathlib.Path:
    """Builds "sdist" or "wheel" by the backend that pyproject.toml names; returns the file."""
    output.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", BUILD, f"build_{kind}", str(output)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = output.iterdir()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("wheel")


@pytest.fixture(scope="module")
def wheel(folder: pathlib.Path) -> pathlib.Path:
    """The wheel that pip makes of the sdist; built from a copy, so that nothing is left in the checkout."""
    source = folder / "checkout"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    sdist = build(source, "sdist", folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return build(folder / "unpacked" / NAME, "wheel", folder / "dist")


@pytest.fixture(scope="module")
def metadata(wheel: pathlib.Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"{NAME}.dist-info/METADATA"))


def test_the_wheel_has_every_file_of_the_package_its_configs_and_launch_scripts(wheel: pathlib.Path) -> None:
    expected = {
        f"{place}/{path.relative_to(ROOT / name).as_posix()}"
        for name, place in FOLDERS.items()
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    about = {
        f"{NAME}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")
    }
    assert found == expected | about | {f"{NAME}.dist-info/licenses/LICENSE"}
    assert {"jaxfm/py.typed", "jaxfm/configs/ner.py", "jaxfm/launch/local.py", "jaxfm/launch/slurm.sh"} <= expected
    assert wheel.name == f"{NAME}-py3-none-any.whl"  # as launch/tpu_pod.sh expects it


def test_the_metadata_says_what_an_index_shows(metadata: email.message.Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("jaxfm-encoders", jaxfm.__version__)
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11" and metadata["Author"]
    assert metadata["Description-Content-Type"] == "text/markdown" and "jax" in metadata["Keywords"]
    urls = [value.partition(", ")[0] for value in metadata.get_all("Project-URL", [])]
    assert urls == ["Repository", "Documentation", "Changelog", "Issues"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    page = str(metadata.get_payload())
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert page.startswith("# jaxfm") and links and all(link.startswith(("https://", "#")) for link in links)


@pytest.fixture(scope="module")
def programs(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The folder bin/ of an environment with the wheel in it, and after it the packages of this interpreter."""
    pytest.importorskip("pip")
    place = folder / "venv"
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    packages = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (pathlib.Path(own.stdout.strip()) / "of_the_tests.pth").write_text("\n".join(packages) + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    done = subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "bin"


@pytest.mark.slow
def test_the_command_works_from_an_empty_folder(programs: pathlib.Path, folder: pathlib.Path) -> None:
    tiny.config(folder)  # a corpus and weights
    empty = folder / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*words: str) -> str:
        done = subprocess.run(
            [programs / words[0], *words[1:]], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
        return done.stdout

    assert call("jaxfm", "--help").startswith("usage: jaxfm PROGRAM")
    assert call("jaxfm", "--version") == f"jaxfm {jaxfm.__version__}\n"
    assert re.search(rf"\n  {folder}/venv/.*/jaxfm/launch\n", call("jaxfm", "launch"))
    assert call("jaxfm", "launch", "local", "--help").startswith("usage: launch/local.py")
    assert "complete -o default -F _jaxfm jaxfm" in call("jaxfm", "completion", "bash")
    explained = call("jaxfm", "train", "ner", "--explain")
    assert re.match(rf"config file: {folder}/venv/.*/jaxfm/configs/ner\.py\n", explained)
    assert "\nconfig.data.source = 'quickstart'  " in explained
    keys = [
        f"--config.model.init=dir:{folder / 'weights'}",
        *("--config.data.row_length=48", "--config.task.overlap=8", "--config.train.steps=3"),
    ]
    data = f"conll:{folder / 'corpus'}"
    output = call("jaxfm", "train", "ner:files", "--data", data, "--workdir", "runs/x", *keys)
    assert re.search(rf"config: {folder}/venv/.*/jaxfm/configs/ner\.py:files\n", output)
    assert output.endswith("run finished; report: runs/x/report.md\n")
    assert (empty / "runs" / "x" / "report.md").is_file()
    assert call("jaxfm", "predict", "ada met boole", "--workdir", "runs/x")
    # As the README has it; the run is finished, so this reads its report alone.
    same = [f"--config.data.source={data}", "--workdir=runs/x", *keys]
    assert "run finished" in call("python", "-m", "jaxfm.train", "--config=configs/ner.py:files", *same)
