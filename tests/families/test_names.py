"""A family is one file: its name, its presets and its classes stand in no other file of the library.

Families that differ in names and a few values alone (towers of one model, DINOv2 with registers) may share a file.
"""

import ast
import importlib
import pathlib
import pkgutil
import re
from collections.abc import Iterator, Mapping

from jaxfm import families
from jaxfm.families.family import Family
from jaxfm.families.registry import FAMILIES, presets

ROOT = pathlib.Path(__file__).resolve().parents[2]


def homes() -> dict[str, str]:
    """Name of each family that a module of the room has -> that module's file."""
    found: dict[str, str] = {}
    for module in pkgutil.iter_modules(families.__path__):
        if module.name == "registry":
            continue
        content = vars(importlib.import_module(f"{families.__name__}.{module.name}"))
        own = [value.name for value in content.values() if isinstance(value, Family)]
        found |= dict.fromkeys(own, f"jaxfm/families/{module.name}.py")
    return found


def owners() -> dict[str, str]:
    """Pattern of a name -> the one file that may have it as text."""
    made = homes()

    def file(family: str) -> str:
        return made.get(family, f"jaxfm/families/{family.replace('-', '_')}.py")

    found = {re.escape(name): file(shape.family) for name, shape in presets().items()}
    found |= {re.escape(shape.family): file(shape.family) for shape in presets().values()}
    for name, family in FAMILIES.items():
        found |= {re.escape(name): file(name), rf"{family.architecture}(?:For\w+|Model|Config)": file(name)}
    return found


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields line and value of every string that is no docstring, nor the mode of a gather (JAX has a mode "clip")."""
    modes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "mode"}
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | modes:
            yield node.lineno, node.value


# The doctor trains one model as an example.
EXAMPLES = ("jaxfm/programs/self_test.py",)


def names_outside(sources: Mapping[str, str]) -> list[str]:
    """Returns "path:line: name" of each name of a family outside its file, in the order of lines."""
    return [
        f"{path}:{line}: {match[0]}"
        for path, text in sources.items()
        for line, value in sorted(texts(ast.parse(text)))
        for pattern, owner in owners().items()
        if path not in (owner, *EXAMPLES) and (match := re.search(rf"(?<![\w-]){pattern}(?![\w-])", value))
    ]


def test_no_name_of_a_family_stands_outside_its_file() -> None:
    paths = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "jaxfm").rglob("*.py"))}
    assert set(owners().values()) <= set(paths)
    assert names_outside({name: path.read_text(encoding="utf-8") for name, path in paths.items()}) == []


def test_such_a_name_is_found() -> None:
    broken = {
        "jaxfm/tasks/a.py": '"""Of bert."""\nx = "not bert_base"\ny = f"{x} electra"\nz = "BertForMaskedLM"',
        "jaxfm/families/roberta.py": 'a = "roberta"\nb = "xlm-roberta"',
        "jaxfm/hub/b.py": 'import bert\nx = ("bart", "bert-like", "BERT", "BertTokenizer")',
    }
    assert names_outside(broken) == [
        "jaxfm/tasks/a.py:2: bert_base",
        "jaxfm/tasks/a.py:3: electra",
        "jaxfm/tasks/a.py:4: BertForMaskedLM",
        "jaxfm/families/roberta.py:2: xlm-roberta",
    ]
