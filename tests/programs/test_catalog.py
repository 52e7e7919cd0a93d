"""The table of programs is the folder of programs, and says of each what it does."""

import importlib.util
import pathlib

import pytest

import jaxfm
from jaxfm.errors import UserError
from jaxfm.programs import catalog
from jaxfm.programs.usage import WIDTH

PACKAGE = pathlib.Path(jaxfm.__file__).parent
# These have no file like jaxfm/train.py: the command `jaxfm` alone runs them. (jaxfm.launch is a folder in a wheel.)
COMMAND_ALONE = ("completion", "launch", "version")


def modules() -> list[str]:
    """Names of the modules of the room that are programs: those with a function `run()`."""
    folder = PACKAGE / "programs"
    found = [path for path in folder.glob("*.py") if "\ndef run() -> None:\n" in path.read_text(encoding="utf-8")]
    return sorted(path.stem.replace("_", "-") for path in found)


def test_every_program_is_in_the_table_once() -> None:
    names = [program.name for program in catalog.PROGRAMS]
    assert sorted(names) == modules() and len(names) >= 12


def test_every_program_starts_as_a_module_too() -> None:
    names = [program.name.replace("-", "_") for program in catalog.PROGRAMS if program.name not in COMMAND_ALONE]
    assert [name for name in names if not (PACKAGE / f"{name}.py").is_file()] == []


def test_a_program_is_found_however_it_is_written() -> None:
    train = catalog.find("train")
    assert train.module == "jaxfm.programs.train" and importlib.util.find_spec(train.module)
    assert [catalog.find(each.name.replace("-", "_")) for each in catalog.PROGRAMS] == list(catalog.PROGRAMS)
    with pytest.raises(UserError, match=r"there is no program 'trian'\. Did you mean 'train'\?"):
        catalog.find("trian")


def test_the_overview_lists_all_programs_in_groups() -> None:
    text = catalog.overview("python -m jaxfm")
    lines = text.splitlines()
    assert lines[0] == "usage: python -m jaxfm PROGRAM ..."
    for program in catalog.PROGRAMS:
        assert program.group in catalog.GROUPS
        assert [line for line in lines if line.startswith(f"  {program.name} ") and line.endswith(f" {program.doc}")]
    headings = [line[:-1] for line in lines if line.endswith(":")]
    assert headings == [*catalog.GROUPS, "to begin"]
    assert max(map(len, lines)) <= WIDTH
    assert "  python -m jaxfm train ner --workdir runs/ner" in lines
