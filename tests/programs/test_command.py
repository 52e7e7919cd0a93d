"""The command `jaxfm` as a user calls it from an empty folder: help, flags in any order, mistakes. No training."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

import jaxfm
from jaxfm.programs import catalog
from jaxfm.programs.usage import WIDTH

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Calls the command once for each list of words, in one process: its imports take longer than all that follows. Flags
# belong to a process, so those of one program are removed before the next one.
RUN_MANY = """
import contextlib, importlib, io, json, sys
from absl import flags
from absl.testing import flagsaver
from jaxfm.programs import catalog, command
for program in catalog.PROGRAMS:  # now: what they import may define flags of other packages, which are to remain
    importlib.import_module(program.module)
results = []
for words in json.load(sys.stdin):
    sys.argv = words
    before, output, errors = set(flags.FLAGS), io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            command.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    results.append((code, output.getvalue(), errors.getvalue()))
json.dump(results, sys.stdout)
"""
KEYS = ["--config.train.steps=5", "--config.log.tensorboard=False"]
# The same call in several orders and spellings.
SAME = {
    "config first": ["train", "--config=configs/ner.py:files", "--config.data.source=conll:x", *KEYS, "--explain"],
    "keys first": ["train", *KEYS, "--explain", "--config.data.source=conll:x", "--config=configs/ner.py:files"],
    "short": ["train", "ner:files", "--data", "conll:x", *KEYS, "--explain"],
    "words last": ["train", "--explain", "--config.train.steps", "5", "--noconfig.log.tensorboard", "--data=conll:x"]
    + ["ner:files"],
    "config apart": ["train", "--data", "conll:x", "--config", "ner:files", "-explain", *KEYS],
}
# Words -> what the message has, in this order. Each ends with code 2.
MISTAKES = {
    ("trian",): ["there is no program 'trian'. Did you mean 'train'?", "`jaxfm --help` lists them"],
    ("train", "ner"): ["--workdir is missing.", "usage: jaxfm train CONFIG"],
    ("train", "--workdir=x"): ["--config is missing.", "usage: jaxfm train CONFIG"],
    ("train", "nerr", "--workdir=x"): ["no config 'nerr' in jaxfm. Did you mean 'ner'?", "usage: jaxfm train"],
    ("train", "ner:fils", "--workdir=x"): ["no variant 'fils'. Did you mean 'files'?"],
    ("train", "ner", "--wrokdir", "x"): ["--wrokdir: there is no such flag. Did you mean '--workdir'?", "usage: jaxfm"],
    ("train", "ner", "--learning_rate=1"): ["Did you mean --config.optim.learning_rate?"],
    ("train", "ner", "--config.train.stepz=1"): ["config.train.stepz: there is no such key.", "'steps'"],
    ("train", "ner", "--noconfig.train.steps"): ["noconfig.train.steps"],
    ("train", "ner", "--workdir"): ["--workdir: its value is missing: --workdir=VALUE."],
    ("train", "ner", "--workdir", "--explain"): ["write --workdir=--explain."],
    ("train", "ner", "runs/x"): ["unexpected argument 'runs/x'"],
    ("train", "--config=ner", "--config=mlm"): ["--config=ner and --config=mlm: there can be one config only."],
    ("predict", "A text.", "--workdir", "nowhere"): ["nowhere"],
    ("predict", "--workdir=nowhere", "--", "--a text"): ["nowhere"],
    ("predict", "-word"): ["-word: there is no such flag.", "A text that begins with a dash stands after --."],
    ("predict", "A text."): ["--workdir is missing.", "usage: jaxfm predict --workdir=DIR"],
    ("evaluate", "--splti=dev"): ["--splti: there is no such flag. Did you mean '--split'?", "usage: jaxfm evaluate"],
    ("export", "--config.train.steps=1"): ["--config.train.steps: there is no such flag."],
    ("completion", "bahs"): ["there is no completion for 'bahs'. Did you mean 'bash'?", "usage: jaxfm completion"],
    ("launch", "slrum"): ["there is no script 'slrum'. Did you mean 'slurm'?", "`jaxfm launch` lists them"],
}
HELPS = [program.name for program in catalog.PROGRAMS if program.name not in ("launch", "version")]


@dataclasses.dataclass(frozen=True)
class Ran:
    code: int | str
    output: str
    errors: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The empty folder from which everything is called."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def ran(folder: pathlib.Path) -> dict[tuple[str, ...], Ran]:
    """What came of each call, by its words."""
    calls = [
        *([], ["--help"], ["version"], ["--version"], ["launch"], ["help", "train"], ["train", "ner", "--help"]),
        *(["train", "nerr", "--help"], ["train", "ner", "--config.train.steps=7", "-h"]),
        *([name, "--help"] for name in HELPS),
        *(map(list, MISTAKES)),
        *SAME.values(),
    ]
    as_module = [[str(ROOT / "jaxfm" / "__main__.py"), *words] for words in (["--help"], ["train", "ner"])]
    done = subprocess.run(
        [sys.executable, "-B", "-c", RUN_MANY],
        input=json.dumps([["/bin/jaxfm", *words] for words in calls] + as_module),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    keys = [*(tuple(words) for words in calls), ("python -m", "--help"), ("python -m", "train", "ner")]
    return {key: Ran(*each) for key, each in zip(keys, json.loads(done.stdout), strict=True)}


def test_without_a_program_all_are_listed(ran: dict[tuple[str, ...], Ran]) -> None:
    assert ran[()] == ran[("--help",)] == Ran(0, catalog.overview("jaxfm") + "\n", "")
    assert ran[("python -m", "--help")].output == catalog.overview("python -m jaxfm") + "\n"


def test_the_version_is_that_of_the_package(ran: dict[tuple[str, ...], Ran]) -> None:
    assert ran[("version",)] == ran[("--version",)] == Ran(0, f"jaxfm {jaxfm.__version__}\n", "")


def test_launch_lists_its_scripts(ran: dict[tuple[str, ...], Ran]) -> None:
    assert ran[("launch",)].code == 0 and f"  {ROOT / 'launch'}\n" in ran[("launch",)].output


@pytest.mark.parametrize("name", HELPS)
def test_every_program_says_how_it_is_used(ran: dict[tuple[str, ...], Ran], name: str) -> None:
    done = ran[(name, "--help")]
    assert (done.code, done.errors) == (0, "")
    doc = catalog.find(name).doc
    assert done.output.startswith(f"{doc[0].upper()}{doc[1:]}.\n\nusage: jaxfm {name}")
    assert "python -m jaxfm." not in done.output
    if name != "completion":
        assert "\nflags:\n  --" in done.output
    for line in done.output.splitlines():
        # absl's own flags are a hundred, and none of anybody's business.
        assert "logtostderr" not in line and "repeat this option" not in line and "[]" not in line
        assert len(line) <= WIDTH or "jaxfm " in line or line.startswith(("  [", "  --")), line


def test_help_of_train_with_a_config_has_all_of_its_keys(ran: dict[tuple[str, ...], Ran]) -> None:
    plain, keyed = ran[("train", "--help")], ran[("train", "ner", "--help")]
    assert keyed.output.startswith(plain.output) and keyed.code == 0
    assert ran[("help", "train")] == plain and "config.train.steps = " not in plain.output
    keys = keyed.output.removeprefix(plain.output)
    assert f"keys of {ROOT / 'configs' / 'ner.py'}:" in keys
    assert "\n[train]\n" in keys and "\n[adapt.lora]\n" in keys and "\nconfig.train.steps = " in keys
    assert "\nconfig.train.steps = 7 " in ran[("train", "ner", "--config.train.steps=7", "-h")].output
    wrong = ran[("train", "nerr", "--help")]
    assert wrong.code == 2 and "Did you mean 'ner'?" in wrong.errors


def test_the_order_and_form_of_the_words_changes_nothing(ran: dict[tuple[str, ...], Ran]) -> None:
    done = {name: ran[tuple(words)] for name, words in SAME.items()}
    first = done["config first"]
    assert (first.code, first.errors) == (0, "")
    assert first.output.startswith(f"config file: {ROOT / 'configs' / 'ner.py'}:files\n")  # nothing of it is in sight
    for line in ("config.train.steps = 5", "config.data.source = 'conll:x'", "config.log.tensorboard = False"):
        assert f"\n{line}  (" in first.output
    assert {name: each == first for name, each in done.items()} == dict.fromkeys(SAME, True)


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_message_with_the_usage(ran: dict[tuple[str, ...], Ran], words: tuple[str, ...]) -> None:
    done = ran[words]
    assert (done.code, done.output) == (2, "") and done.errors.startswith("error: ")
    assert "Traceback" not in done.errors and "python -m" not in done.errors
    at = 0
    for part in MISTAKES[words]:
        at = done.errors.find(part, at)
        assert at >= 0, f"{part!r} is not in {done.errors!r}"


def test_as_a_module_messages_say_so(ran: dict[tuple[str, ...], Ran]) -> None:
    assert "\nusage: python -m jaxfm train CONFIG" in ran[("python -m", "train", "ner")].errors


def test_nothing_is_left_in_the_folder(ran: dict[tuple[str, ...], Ran], folder: pathlib.Path) -> None:
    assert ran and list(folder.iterdir()) == []
