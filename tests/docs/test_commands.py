"""The commands of the pages: programs, flags, keys and variants exist; each command is run or has a reason not to be.

What is run is in test_commands_run.py.
"""

import collections
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.schema import describe
from jaxfm.tasks import registry
from tests.docs.documented import NOT_RUN, RUN_PAGES, program_words, reasons, shown
from tests.docs.pages import COMMANDS as BEGINNINGS
from tests.docs.pages import ROOT, Command, all_commands, commands, inline_code, pages, text

# What these pages say of commands and keys was true when it was written.
HISTORY = ("CHANGELOG.md", "profiles/NOTES.md")
COMMANDS = [command for command in all_commands() if command.page not in HISTORY]
INLINE = [
    Command(tuple(shlex.split(code)), page, line)
    for page in pages()
    if page not in HISTORY
    for code, line in inline_code(text(page))
    if BEGINNINGS.match(code) and " -" in code and not re.search(r"\.\.\.|\[|FILE|VARIANT|PROGRAM", code)
]


def _launched_by(script: str) -> tuple[str, ...]:
    """The programs that a script of launch/ starts, whose flags stand each after a --."""
    if "drift_" in script:
        return "jaxfm.drift", "jaxfm.train"
    named = {"workers": "jaxfm.search", "federated": "jaxfm.federated"}
    return (next((program for part, program in named.items() if part in script), "jaxfm.train"),)


def _parts(words: Sequence[str]) -> list[list[str]]:
    """The words after each --."""
    found: list[list[str]] = [[]]
    for word in words:
        found = [*found, []] if word == "--" else [*found[:-1], [*found[-1], word]]
    return found[1:]


LAUNCHED = [
    Command(("python", "-m", program, *words), command.page, command.line)
    for command in COMMANDS
    if command.words[0].startswith("launch/")
    for program, words in zip(_launched_by(command.words[0]), _parts(command.words), strict=False)
]
# A wrong command -> a part of the message.
WRONG = {
    "jaxfm train ner:fils --workdir runs/x": "'fils'",
    "jaxfm train ner --workdir runs/x --config.train.step=5": "config.train.step:",
    "jaxfm train ner --workdir runs/x --config.train.epochs=-1": "-1",
    "jaxfm train classification --workdir runs/x --config.task.overlap=3": "overlap",
    "jaxfm predict --workdir runs/x --inputs=a.txt": "inputs",
    "jaxfm predicts --workdir runs/x": "no program 'predicts'",
    "python -m jaxfm.export --workdir=runs/x runs/y": "'runs/y'",
}


@pytest.fixture(scope="module")
def messages() -> dict[tuple[str, ...], str]:
    """The words of each command of jaxfm's programs -> what is wrong with them, "" for right ones."""
    wrong = [Command(tuple(shlex.split(line)), "made up", 1) for line in WRONG]
    asked = {
        command.words: words
        for command in (*COMMANDS, *INLINE, *LAUNCHED, *wrong)
        if (words := program_words(command.words))
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.parse_commands"],
        input=json.dumps(list(asked.values())),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(asked, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(
    ("found", "least"), [(COMMANDS, 60), (INLINE, 4), (LAUNCHED, 5)], ids=("blocks", "text", "launched")
)
def test_programs_accept_the_commands_of_the_pages(
    found: list[Command], least: int, messages: dict[tuple[str, ...], str]
) -> None:
    checked = [command for command in found if command.words in messages]
    assert len(checked) >= least
    wrong = [f"{command.where}: {messages[command.words]}" for command in checked if messages[command.words]]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("line", WRONG)
def test_programs_refuse_a_wrong_command(line: str, messages: dict[tuple[str, ...], str]) -> None:
    assert WRONG[line] in messages[tuple(shlex.split(line))]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "make"], ids=lambda command: command.where)
def test_targets_of_make_exist(command: Command) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for word in command.words[1:] if "=" not in word} <= set(targets)


def test_flags_of_launchers_and_of_measurements_exist() -> None:
    checked = 0
    for command in COMMANDS:
        words = list(command.words)
        if words[0].startswith(("launch/", "profiles/")):
            script, rest = ROOT / words[0], words[1:]
        elif shown(command).startswith("python -m profiles."):
            script, rest = ROOT / f"{words[2].replace('.', '/')}.py", words[3:]
        else:
            continue
        source = script.read_text(encoding="utf-8") + (ROOT / "launch" / "lib.sh").read_text(encoding="utf-8")
        source += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "profiles").glob("*.py"))
        own = rest[: rest.index("--")] if "--" in rest else rest
        for word in own:
            if key := re.match(r"--config\.([\w.]+)=", word):
                registry.check_key(key[1])
            elif flag := re.match(r"--([\w-]+)", word):
                assert re.search(rf"[\"'\s(|-]{re.escape(flag[1])}\b", source), f"{command.where}: {word}"
                checked += 1
    assert checked > 50


def test_every_command_is_run_or_has_one_reason_not_to_be() -> None:
    unlisted = [
        f"{command.where}: {command}" for command in COMMANDS if not reasons(command) and command.page not in RUN_PAGES
    ]
    assert not unlisted, "list the page in RUN_PAGES or the command in NOT_RUN:\n" + "\n".join(unlisted)
    used = collections.Counter(why for command in COMMANDS for why in reasons(command))
    assert set(used) == set(NOT_RUN.values()), "a reason that no command has any more"


def test_pages_that_are_run_have_commands() -> None:
    assert set(RUN_PAGES) <= {command.page for command in COMMANDS if not reasons(command)}


def test_keys_that_the_text_names_exist() -> None:
    groups = {key.name.partition(".")[0] for key in describe(Config()) if "." in key.name} | {"task"}
    files = ("conll", "jsonl", "json", "csv", "tsv", "txt", "parquet", "py", "md", "size", "steps()",
             "onnx", "onnx_data", "stablehlo")  # fmt: skip
    checked, wrong = 0, []
    for page in sorted(set(pages()) - set(HISTORY)):
        for code, line in inline_code(text(page)):
            found = re.match(r"(?:--)?(?:config\.)?(\w+)\.([\w.]+)(?:=.*)?$", code)
            if not found or found[1] not in groups or found[2] in files:
                continue
            try:
                registry.check_key(f"{found[1]}.{found[2]}")
                checked += 1
            except UserError as error:
                wrong.append(f"{page}:{line}: {code}: {error}")
    assert checked > 100
    assert not wrong, "\n".join(wrong)


def test_a_command_goes_on_after_a_backslash_and_ends_at_its_comment() -> None:
    page = "    python -m jaxfm.train --config=configs/ner.py \\\n        --workdir=runs/x   # why\n    see report.md\n"
    (found,) = commands("made_up.md", page)
    assert found.words == ("python", "-m", "jaxfm.train", "--config=configs/ner.py", "--workdir=runs/x")
    assert found.where == "made_up.md:1"


def test_where_the_output_goes_is_no_part_of_a_command() -> None:
    (found,) = commands("made_up.md", "    jaxfm completion bash > ~/.local/share/jaxfm\n")
    assert found.words == ("jaxfm", "completion", "bash")


def test_every_way_to_call_a_program_is_recognized() -> None:
    wanted = ["jaxfm", "predict", "--workdir=runs/x"]
    for command in (
        "jaxfm predict",
        ".venv-3.11/bin/jaxfm predict",
        "python -m jaxfm.predict",
        "python -m jaxfm predict",
    ):
        assert program_words([*command.split(), "--workdir=runs/x"]) == wanted
    assert program_words([".venv-3.11/bin/python", "-m", "jaxfm.predict", "--workdir=runs/x"]) == wanted
    assert program_words(["make", "ner"]) is None
    assert program_words(["python", "-m", "profiles.start"]) is None
