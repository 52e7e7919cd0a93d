"""The shape of the code base, read from its syntax trees: who may import whom, how long things are, what is not used.

Each rule is a function from sources (path -> text) to messages `path:line: rule`. Every rule is run on the repository
and on small made-up sources that break it, so that a rule which can no longer fail is noticed.
"""

import ast
import pathlib
from collections.abc import Callable, Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("jaxfm", "configs", "profiles", "launch", "tests")
FILE_LINES = 500
FUNCTION_LINES = 80
IMPORT_DEPTH = 22  # only ever lowered

# Imports go downward: a module may import from its own room and from those before it. Any other file directly in
# jaxfm/ starts a program and may import all of them. `jaxfm/__init__.py` runs before every module, so it is at the
# bottom; the names that it imports for type checkers alone do not count.
ROOMS = (
    *(
        "config",
        "parallel",
        "observe",
        "analysis",
        "core",
        "models",
        "families",
        "data",
        "hub",
        "formats",
        "evaluation",
        "tasks",
    ),
    *("training", "tuning", "federation", "planning", "serving", "programs"),
)
LOWEST = (
    "",
    "errors",
    "files",
    "schema",
    "adapt_config",
    "augment_config",
    "consolidation_config",
    "decoding_config",
    "distil_config",
    "optim_config",
    "privacy_config",
)
TASK_REGISTRY = "jaxfm.tasks.registry"
# Who may import from another task's folder, and why.
ACROSS_TASKS = {
    ("jaxfm.tasks.replaced_token.task", "jaxfm.tasks.masked_lm.spec"): "its older runs are named as that task's",
}

BANNED_IMPORTS = {
    **dict.fromkeys(("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"), "unpickling can run any code"),
    **dict.fromkeys(("torch", "sentence_transformers"), "jaxfm runs without torch"),
}
BANNED_CALLS = ("eval", "exec")
BANNED_OPTIONS = {
    "trust_remote_code": "code from a model hub is never run",
    "allow_pickle": "unpickling can run any code",
}

Sources = Mapping[str, str]
Rule = Callable[[Sources], list[str]]


def module_name(path: str) -> str:
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(module: str) -> int:
    room = (module.split(".") + [""])[1]
    if room in LOWEST:
        return 0
    return ROOMS.index(room) + 1 if room in ROOMS else len(ROOMS) + 1


def library(sources: Sources) -> dict[str, ast.Module]:
    return {path: ast.parse(text) for path, text in sources.items() if path.startswith("jaxfm/")}


def imports(path: str, tree: ast.Module, modules: set[str]) -> Iterator[tuple[str, int]]:
    """Yields (name, line) of everything imported, however deep in the file; `name` is a module where jaxfm has it."""
    package = module_name(path) if path.endswith("/__init__.py") else module_name(path).rpartition(".")[0]
    if path == "jaxfm/__init__.py":
        tree = ast.Module([node for node in tree.body if ast.unparse(node).split("\n")[0] != "if TYPE_CHECKING:"], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield (inner if inner in modules else source), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno


def import_graph(trees: Mapping[str, ast.Module]) -> dict[str, list[tuple[str, str]]]:
    """Module -> [(imported jaxfm module, "path:line")]."""
    modules = {module_name(path) for path in trees}
    graph: dict[str, list[tuple[str, str]]] = {}
    for path, tree in trees.items():
        graph[module_name(path)] = [
            (name, f"{path}:{line}")
            for name, line in imports(path, tree, modules)
            if name == "jaxfm" or name.startswith("jaxfm.")
        ]
    return graph


def upward_imports(sources: Sources) -> list[str]:
    order = " < ".join(("errors, files", *ROOMS))
    return [
        f"{place}: {module} imports {name}, which lies above it; the order is {order}"
        for module, targets in import_graph(library(sources)).items()
        for name, place in targets
        if rank(name) > rank(module)
    ]


def import_cycles(sources: Sources) -> list[str]:
    graph = import_graph(library(sources))
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        for name, place in graph.get(module, []):
            if name in trail:
                found.append(f"{place}: import cycle {' -> '.join([*trail[trail.index(name) :], name])}")
            elif name not in done:
                visit(name, [*trail, name])
        done.add(module)

    for module in sorted(graph):
        if module not in done:
            visit(module, [module])
    return found


def deep_imports(sources: Sources) -> list[str]:
    """How many modules lie one on the other: a reader of the topmost may have to open all of them."""
    graph = {module: [name for name, _ in found] for module, found in import_graph(library(sources)).items()}
    depths: dict[str, int] = {}

    def depth(module: str) -> int:
        if module not in depths:
            depths[module] = 0  # ends a cycle, which another rule finds
            depths[module] = 1 + max((depth(name) for name in graph[module] if name in graph), default=0)
        return depths[module]

    deepest = max(graph, key=depth, default="")
    if not deepest or depth(deepest) <= IMPORT_DEPTH:
        return []
    path = deepest.replace(".", "/") + ".py"
    return [f"{path}:1: {deepest} lies {depth(deepest)} imports deep; {IMPORT_DEPTH} are allowed"]


def imports_across_tasks(sources: Sources) -> list[str]:
    """A folder with a task.py is that of a task: it alone and the registry import from it; what two use is shared."""
    trees = library(sources)
    tasks = {path.split("/")[2] for path in trees if path.startswith("jaxfm/tasks/") and path.endswith("/task.py")}
    found = []
    for module, targets in import_graph(trees).items():
        own = (module.split(".") + [""] * 3)[2] if module.startswith("jaxfm.tasks.") else ""
        for name, place in targets:
            task = (name.split(".") + [""] * 3)[2] if name.startswith("jaxfm.tasks.") else ""
            if task in tasks and task != own and module != TASK_REGISTRY and (module, name) not in ACROSS_TASKS:
                found.append(f"{place}: {module} imports {name}; move what it needs beside the tasks' folders")
    return found


def long_files(sources: Sources) -> list[str]:
    counts = {path: len(text.splitlines()) for path, text in sources.items()}
    return [
        f"{path}:{FILE_LINES + 1}: the file has {count} lines; split it, {FILE_LINES} are allowed"
        for path, count in counts.items()
        if count > FILE_LINES
    ]


def long_functions(sources: Sources) -> list[str]:
    found = []
    for path, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    found.append(
                        f"{path}:{node.lineno}: {node.name} has {lines} lines; split it, {FUNCTION_LINES} are allowed"
                    )
    return found


def banned_names(sources: Sources) -> list[str]:
    found = []
    for path, tree in library(sources).items():
        for name, line in imports(path, tree, set()):
            if reason := BANNED_IMPORTS.get(name.split(".")[0]):
                found.append(f"{path}:{line}: imports {name}, which is banned: {reason}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
                found.append(
                    f"{path}:{node.lineno}: calls {node.func.id}(), which is banned: text is never run as code"
                )
            for name, value in options(node):
                if name in BANNED_OPTIONS and not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(f"{path}:{value.lineno}: {name} is not False, but {BANNED_OPTIONS[name]}")
    return found


def options(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yields the named values of a call, `f(name=value)`, or of a literal dictionary, `{"name": value}`."""
    if isinstance(node, ast.Call):
        yield from ((keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value, value


def missing_docstrings(sources: Sources) -> list[str]:
    found = []

    def check(path: str, node: ast.Module | ast.ClassDef) -> None:
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            marks = {ast.unparse(mark).rpartition(".")[2] for mark in child.decorator_list}
            if child.name.startswith("_") or marks & {"override", "overload", "setter"}:
                continue
            if not ast.get_docstring(child):
                found.append(f"{path}:{child.lineno}: the public name {child.name} has no docstring")
            if isinstance(child, ast.ClassDef):
                check(path, child)

    for path, tree in library(sources).items():
        if tree.body and not ast.get_docstring(tree):
            found.append(f"{path}:1: the module has no docstring")
        check(path, tree)
    return found


RULES: tuple[Rule, ...] = (
    upward_imports,
    import_cycles,
    deep_imports,
    imports_across_tasks,
    long_files,
    long_functions,
    banned_names,
    missing_docstrings,
)


@pytest.fixture(scope="module")
def repository() -> dict[str, str]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_the_repository_is_read(repository: dict[str, str]) -> None:
    assert {"jaxfm/__init__.py", "jaxfm/errors.py", "tests/test_layout.py"} <= set(repository)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_follows(rule: Rule, repository: dict[str, str]) -> None:
    found = rule(repository)
    assert not found, "\n" + "\n".join(found)


def function(lines: int) -> str:
    return "def f():\n" + "    x = 1\n" * (lines - 1)


DOC = '"""Text."""\n'
# (rule, sources that break it once, the start of the message, a part of its reason)
BROKEN = (
    (upward_imports, {"jaxfm/data/a.py": "import jaxfm.tasks.ner"}, "jaxfm/data/a.py:1:", "imports jaxfm.tasks.ner"),
    (
        upward_imports,
        {"jaxfm/errors.py": "x = 1\nfrom jaxfm.config import Config"},
        "jaxfm/errors.py:2:",
        "errors, fil",
    ),
    (
        upward_imports,
        {"jaxfm/tasks/ner.py": "from jaxfm.programs import train", "jaxfm/programs/train.py": ""},
        "jaxfm/tasks/ner.py:1:",
        "",
    ),
    (upward_imports, {"jaxfm/models/a.py": "from ..data import b"}, "jaxfm/models/a.py:1:", "jaxfm.data"),
    (upward_imports, {"jaxfm/models/__init__.py": "from ..hub import b"}, "jaxfm/models/__init__.py:1:", "jaxfm.hub"),
    (
        upward_imports,
        {"jaxfm/hub/a.py": "def f():\n    from jaxfm.training.fit import g"},
        "jaxfm/hub/a.py:2:",
        "fit",
    ),
    (
        upward_imports,
        {"jaxfm/data/a.py": "m = importlib.import_module('jaxfm.tasks.ner')"},
        "jaxfm/data/a.py:1:",
        "ner",
    ),
    (
        upward_imports,
        {"jaxfm/__init__.py": "from jaxfm.train import train"},
        "jaxfm/__init__.py:1:",
        "jaxfm.train",
    ),
    (
        import_cycles,
        {
            "jaxfm/data/a.py": "from jaxfm.data import b",
            "jaxfm/data/b.py": "from .c import x",
            "jaxfm/data/c.py": "from . import a",
        },
        "jaxfm/data/c.py:1:",
        "jaxfm.data.a -> jaxfm.data.b -> jaxfm.data.c -> jaxfm.data.a",
    ),
    (import_cycles, {"jaxfm/files.py": "import jaxfm.files"}, "jaxfm/files.py:1:", "jaxfm.files -> jaxfm.files"),
    (
        deep_imports,
        {f"jaxfm/data/a{n}.py": f"import jaxfm.data.a{n + 1}" for n in range(IMPORT_DEPTH)}
        | {f"jaxfm/data/a{IMPORT_DEPTH}.py": ""},
        "jaxfm/data/a0.py:1:",
        f"{IMPORT_DEPTH + 1} imports deep",
    ),
    (
        imports_across_tasks,
        {"jaxfm/tasks/a/task.py": "", "jaxfm/tasks/b/task.py": "x = 1\nfrom jaxfm.tasks.a.spec import A"},
        "jaxfm/tasks/b/task.py:2:",
        "imports jaxfm.tasks.a.spec",
    ),
    (
        imports_across_tasks,
        {"jaxfm/tasks/a/task.py": "", "jaxfm/programs/b.py": "from jaxfm.tasks.a import task"},
        "jaxfm/programs/b.py:1:",
        "jaxfm.tasks.a.task",
    ),
    (long_files, {"tests/a.py": "x = 1\n" * 501}, "tests/a.py:501:", "501 lines"),
    (long_functions, {"profiles/a.py": "\n" + function(81)}, "profiles/a.py:2:", "f has 81 lines"),
    (
        long_functions,
        {"jaxfm/a.py": "class A:\n  async " + function(81).replace("    ", "     ")},
        "jaxfm/a.py:2:",
        "81",
    ),
    (banned_names, {"jaxfm/a.py": "import pickle as p"}, "jaxfm/a.py:1:", "imports pickle"),
    (banned_names, {"jaxfm/a.py": "def f():\n    from torch.nn import Linear"}, "jaxfm/a.py:2:", "without torch"),
    (banned_names, {"jaxfm/a.py": "x = eval('1')"}, "jaxfm/a.py:1:", "eval()"),
    (
        banned_names,
        {"jaxfm/a.py": "load(p,\n  trust_remote_code=True)"},
        "jaxfm/a.py:2:",
        "trust_remote_code is not False",
    ),
    (
        banned_names,
        {"jaxfm/a.py": "o = {'trust_remote_code': flag}"},
        "jaxfm/a.py:1:",
        "trust_remote_code is not False",
    ),
    (banned_names, {"jaxfm/a.py": "np.load(p, allow_pickle=True)"}, "jaxfm/a.py:1:", "allow_pickle is not False"),
    (missing_docstrings, {"jaxfm/a.py": "x = 1"}, "jaxfm/a.py:1:", "module"),
    (missing_docstrings, {"jaxfm/a.py": DOC + "def f(): pass"}, "jaxfm/a.py:2:", "public name f"),
    (
        missing_docstrings,
        {"jaxfm/a.py": DOC + f"class A:\n    {DOC}    def f(self): pass"},
        "jaxfm/a.py:4:",
        "public name f",
    ),
)


@pytest.mark.parametrize(
    ("rule", "sources", "place", "reason"), BROKEN, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_rule_finds_the_one_place_that_breaks_it(rule: Rule, sources: Sources, place: str, reason: str) -> None:
    found = rule(sources)
    assert len(found) == 1, found
    assert found[0].startswith(place)
    assert reason in found[0]


def test_every_rule_has_a_source_that_breaks_it() -> None:
    assert {case[0] for case in BROKEN} == set(RULES)


ALLOWED = {
    "jaxfm/__init__.py": DOC,
    "jaxfm/errors.py": DOC + "import os\n",
    "jaxfm/models/encoder.py": DOC + "from jaxfm.config import Config\nfrom . import heads\n",
    "jaxfm/models/heads.py": DOC + "from jaxfm.errors import UserError\nmodel.eval()\n",
    "jaxfm/tasks/a/task.py": DOC + "from jaxfm.tasks.a.spec import A\nfrom jaxfm.tasks.shared.rows import B\n",
    "jaxfm/tasks/registry.py": DOC + "from jaxfm.tasks.a.task import C\n",
    "jaxfm/train.py": DOC + "from jaxfm.training.fit import run\nload(p, trust_remote_code=False)\n",
    "jaxfm/predict.py": DOC + "from jaxfm.programs import train\ndef _private(): pass\n",
    "tests/a.py": "import torch\nimport pickle\n" + function(80),
    "tests/b.py": "x = 1\n" * 500,
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_accepts_what_is_allowed(rule: Rule) -> None:
    assert rule(ALLOWED) == []
