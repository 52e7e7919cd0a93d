"""The program's outputs: whole, or refused in one message; what it writes is tested with the tasks and in hub/."""

import os
import pathlib

import pytest

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.programs.export import export
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("export")
    tiny.write_run(folder / "run", tiny.config(folder), best=1)
    return folder / "run"


def test_outputs_are_new_or_empty(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    for output, message in (
        (tmp_path, "is there already. Name a new directory"),
        (tmp_path / "file", "is there already. Name a new directory"),
        (tmp_path / "file" / "out", "is a file, not a directory"),
        (run, "is there already"),
        ("gs://bucket/model", "is a URL"),
    ):
        with pytest.raises(UserError, match=f"--output=.*{message}"):
            export(run, output)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_exports_into_one_directory_do_not_mix(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "model"
    with files.held(files.lock_beside(output), "x"):
        with pytest.raises(UserError, match=f"--output={output}: process {os.getpid()} on .* is writing there"):
            export(run, output)
    assert list(tmp_path.iterdir()) == []
    assert export(run, output) == output
    assert [path.name for path in tmp_path.iterdir()] == ["model"] and (output / "model.safetensors").is_file()
