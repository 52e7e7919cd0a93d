"""Inputs that once ended in a traceback, took too long or too much memory, each kept under finds/READER/."""

import pathlib

import pytest

from profiles.faults import trial
from profiles.faults.readers import table

FINDS = pathlib.Path(__file__).parent / "finds"
KEPT = sorted(path for path in FINDS.glob("*/*") if path.is_file())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The folder of each reader, made when it is first asked for."""
    root = tmp_path_factory.mktemp("finds")

    class Folders(dict[str, pathlib.Path]):
        def __missing__(self, name: str) -> pathlib.Path:
            self[name] = root / name / "input"
            trial.prepare(table()[name], self[name])
            return self[name]

    return Folders()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_kept_find_stays_repaired(path: pathlib.Path, folders: dict[str, pathlib.Path]) -> None:
    reader = table()[path.parent.name]
    outcome = trial.attempt(reader, folders[reader.name], path.read_bytes())
    assert outcome.kind in ("read", "told"), f"{outcome.signature}\n{outcome.detail}"


def test_finds_are_kept_small_and_of_known_readers() -> None:
    assert len(KEPT) > 100
    assert {path.parent.name for path in KEPT} <= set(table())
    assert all(path.stat().st_size <= 20_000 for path in KEPT)
