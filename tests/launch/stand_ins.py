"""Stand-ins for the programs that the launch scripts call: they record their arguments and answer as the test says."""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / "launch"
ROOT = LAUNCH.parent
FLAGS = ("--config=configs/ner.py", "--workdir=/data/runs/ner")
# What a shell on the way, or the one at the end, would change if it were not quoted.
ODD_FLAGS = ("--config=a b.py", "--workdir=$HOME/it's; touch *", '--config.data.source=conll:"x"\\n$(X) `y` {z} %s')

# What the launch scripts themselves need of a machine, beside the programs they are about.
SYSTEM = ("bash", "cat", "dirname", "mkdir", "sed", "sleep")

# A call takes the first rule whose words are all among its arguments (as parts of them), and of that rule the next
# reply; the last reply is given again and again. A call without a rule says nothing and ends with 0.
PROGRAM = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
name = pathlib.Path(__file__).name
with open(here / "calls.jsonl", "a") as calls:
    calls.write(json.dumps([name, sys.argv[1:], sys.stdin.read()]) + "\\n")
path = here / "rules.json"
rules = json.loads(path.read_text()) if path.exists() else []
for rule in rules:
    if rule["name"] == name and all(any(word in given for given in sys.argv[1:]) for word in rule["words"]):
        stdout, stderr, code = rule["replies"][0]
        if len(rule["replies"]) > 1:
            del rule["replies"][0]
            path.write_text(json.dumps(rules))
        sys.stdout.write(stdout)
        sys.stderr.write(stderr)
        sys.exit(code)
"""


@dataclasses.dataclass
class Call:
    name: str
    arguments: list[str]
    stdin: str

    @property
    def line(self) -> list[str]:
        return [self.name, *self.arguments]


@dataclasses.dataclass
class Outcome:
    code: int
    stdout: str
    stderr: str
    calls: list[Call]

    def all(self, *words: str) -> list[Call]:
        """The calls that have each of these words among their arguments, as parts of them."""
        return [call for call in self.calls if all(any(word in given for given in call.arguments) for word in words)]


class StandIns:
    def __init__(self, folder: pathlib.Path, *names: str):
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.rules: list[dict] = []
        # Nothing else is on PATH: a machine may have the real programs, and credentials for them.
        for name in SYSTEM:
            (self.folder / name).symlink_to(str(shutil.which(name)))
        for name in names:
            program = self.folder / name
            program.write_text(PROGRAM.format(python=sys.executable))
            program.chmod(0o755)

    def reply(self, name: str, *words: str, replies: list[tuple[str, str, int]]) -> None:
        """Adds a rule; replies are (stdout, stderr, exit code)."""
        self.rules.append({"name": name, "words": words, "replies": replies})

    def run(self, script: str, *arguments: str, cwd: pathlib.Path | None = None, without: str = "") -> Outcome:
        """Runs a launch script; `without` hides a program, as if it were not installed."""
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        (self.folder / "rules.json").write_text(json.dumps(self.rules))
        hidden = self.folder / without if without else None
        if hidden:
            hidden.rename(self.folder.parent / without)
        interpreter = [sys.executable] if script.endswith(".py") else [str(self.folder / "bash")]
        done = subprocess.run(
            [*interpreter, str(LAUNCH / script), *arguments],
            env={"PATH": str(self.folder), "HOME": str(self.folder.parent)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=cwd,
        )
        if hidden:
            (self.folder.parent / without).rename(hidden)
        record = self.folder / "calls.jsonl"
        lines = record.read_text().splitlines() if record.exists() else []
        return Outcome(done.returncode, done.stdout, done.stderr, [Call(*json.loads(line)) for line in lines])


def commands(dry_run: str) -> list[list[str]]:
    """The commands that a dry run printed, as lists of words."""
    return [shlex.split(line) for line in dry_run.splitlines()]


def received(command: str, program: str, folder: pathlib.Path) -> list[str]:
    """The arguments that `program` gets when a shell in `folder` runs the command."""
    path = folder / program
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)
