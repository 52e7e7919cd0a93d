"""The pages on programs and on Python are generated, and say what the programs and docstrings say."""

import inspect
import pathlib

import pytest

import jaxfm
from jaxfm.programs import catalog, program, reference_pages

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", ["programs", "python"])
def test_the_page_of_the_repository_is_the_one_that_is_generated(page: str) -> None:
    path = f"docs/reference/{page}.md"
    generated = {"programs": reference_pages.programs_page, "python": reference_pages.python_page}[page]()
    found = (ROOT / path).read_text(encoding="utf-8")
    assert found == generated, f"run: python -m jaxfm.reference --page={page} --output={path}"


def test_every_program_and_every_flag_has_its_line() -> None:
    page = reference_pages.programs_page()
    for each in catalog.PROGRAMS:
        assert f"\n### jaxfm {each.name}\n" in page
    flags = program.definition_of("predict").flags
    assert len(flags) > 5 and all(f"| `--{flag.name}` |" in page for flag in flags)
    assert "| `--split` | `test` | train, valid or test" in page
    assert "| `--[no]packed` |" in page and page.count("| `--coordinator` |") == 1
    assert "usage: jaxfm predict --workdir=DIR" in page and "python -m jaxfm.predict" not in page
    assert "| `--page` | `keys` | Which page: keys, programs, python" in page
    assert "| `--plugin` |  | A Python file" in page and "repeat this option" not in page
    tables = [line for line in page.splitlines() if line.startswith("| `--")]
    assert all(line.endswith(" |") for line in tables)


def test_every_public_name_has_its_signature_and_arguments() -> None:
    page = reference_pages.python_page()
    assert all(f"\n## jaxfm.{name}\n" in page for name in jaxfm.__all__)
    for name in inspect.signature(jaxfm.evaluate).parameters:
        assert f"\n- `{name}`: " in page
    assert "    split: str = 'test',\n" in page and "\n) -> Evaluation\n" in page
    assert "### Model.__call__\n" in page and "### Model._record" not in page


def test_arguments_of_every_kind_are_written_as_in_the_source() -> None:
    def made_up(a, /, b: int, c=1, *d: str, e: int, f: float = 2.0, **g: str) -> None: ...

    def keywords(self, *, b: int) -> None: ...

    found = reference_pages._signature(made_up, "made_up")  # noqa: SLF001
    assert found == "made_up(a, b: int, c=1, *d: str, e: int, f: float = 2.0, **g: str) -> None"
    assert reference_pages._signature(keywords, "k") == "k(*, b: int) -> None"  # noqa: SLF001
