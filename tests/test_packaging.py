"""What is said of the distribution: its name everywhere, its metadata, the links of the page of a package index."""

import importlib.util
import pathlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

import jaxfm
from jaxfm.errors import DISTRIBUTION

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = (".ci", "configs", "docs", "jaxfm", "launch", "profiles", "tests")
TEXT = (".cff", ".cfg", ".env", ".md", ".py", ".sh", ".svg", ".toml", ".txt", ".yaml", ".yml", "")
IMPORTED = "jaxfm"  # the package index has another project of this name
# A command that fetches a distribution called jaxfm, or a requirement of it.
STRANGER = re.compile(
    r"(?:\bpip3? (?:install|download|wheel)|\bpipx (?:install|run)|\buv (?:add|pip|tool)|\buvx|\bpoetry add"
    rf"|\bconda install)\b[^\n|;&]*?[\s'\"]{IMPORTED}(?![\w./-])"
    rf"|(?<![\w./-]){IMPORTED}(?:\[[a-z][a-z0-9, _-]*\]|\s?(?:[=~>!]=|<)\s?\d)"
)


def texts() -> Iterator[tuple[str, str]]:
    """Yields (path, content) of every text file of the repository."""
    paths = [path for path in ROOT.iterdir() if path.is_file()]
    paths += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(paths):
        if path.suffix in TEXT and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "command",
    [
        "pip install {}",
        "pip install '{}[hf]'",
        "python -m pip install --quiet {}",
        "uv pip install {}",
        "uv add {}",
        "pipx install {}",
        "needs {}[cuda,test]",
        'dependencies = ["{}>=0.1"]',
        "{}==0.1.0",
    ],
)
def test_a_command_that_fetches_the_other_project_is_found(command: str) -> None:
    assert STRANGER.search(command.format(IMPORTED))
    assert not STRANGER.search(command.format(DISTRIBUTION))


@pytest.mark.parametrize("text", ["import {}", "{}.train", "pip install dist/{}-1.whl", "a {} < b", "{}/train.py"])
def test_what_fetches_nothing_is_not(text: str) -> None:
    assert not STRANGER.search(text.format(IMPORTED))


def test_nothing_in_the_repository_fetches_the_other_project() -> None:
    found, read = [], set()
    for path, text in texts():
        read.add(path)
        for match in STRANGER.finditer(text):
            found.append(f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}")
    assert not found, "\n".join(found)
    assert {"README.md", "Makefile", "pyproject.toml", "docs/ner.md", "launch/slurm.sh", "jaxfm/errors.py"} <= read


def test_the_distribution_has_its_name_and_the_command_its_own(project: dict[str, Any]) -> None:
    assert project["project"]["name"] == DISTRIBUTION != IMPORTED
    assert project["project"]["scripts"] == {"jaxfm": "jaxfm.programs.command:main"}


def test_the_version_and_the_address_stand_in_one_place(project: dict[str, Any]) -> None:
    assert "version" in project["project"]["dynamic"] and "urls" in project["project"]["dynamic"]
    address = project["tool"]["jaxfm"]["repository"]
    for path, text in texts():
        assert path == "pyproject.toml" or address not in text, path
        if path != "jaxfm/__init__.py":
            assert f'version = "{jaxfm.__version__}"' not in text, path
    assert "version" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8").replace("cff-version", "")


def test_links_of_the_readme_leave_the_checkout_for_the_index() -> None:
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)  # runs no setup: that is for the program alone
    text = "[a](docs/a.md#b) ![c](docs/images/c.png) [d](https://d.org/) [e](#e) ![f](x.SVG)"
    assert setup.with_absolute_links(text, "https://h.org/r") == (
        "[a](https://h.org/r/blob/HEAD/docs/a.md#b) ![c](https://h.org/r/raw/HEAD/docs/images/c.png) "
        "[d](https://d.org/) [e](#e) ![f](https://h.org/r/raw/HEAD/x.SVG)"
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", setup.with_absolute_links(readme, "https://h.org/r"))
    assert links and all(link.startswith(("https://", "#")) for link in links)
    for link in links:  # and each leads to a file
        if link.startswith("https://h.org/r/"):
            path = re.sub(r"https://h\.org/r/(?:raw|blob)/HEAD/", "", link).partition("#")[0]
            assert (ROOT / path).exists(), link
