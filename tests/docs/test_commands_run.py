"""The commands of the pages run, in the order of each page, on little data and for a few steps."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from tests import tiny
from tests.docs.documented import RUN_PAGES, program_words, reasons
from tests.docs.pages import ROOT, Command, commands, text

pytestmark = pytest.mark.slow

# What every training is given beside its own flags: as little work as shows that it runs.
BRIEF = ("--config.train.steps=2", "--config.log.tensorboard=False", "--config.eval.batch_size=8")
CLASSES = ("billing", "delivery", "account", "technical")
# Page -> (run directory that its commands use without having made it, the run that is copied there).
MADE_BEFORE = {
    "docs/classification.md": {"runs/mine": "single", "runs/a": "single", "runs/b": "single", "runs/pairs": "pairs"},
    "docs/ner.md": {"runs/a": "ner", "runs/b": "ner"},
    "docs/trust.md": {"runs/full": "single", "runs/lora": "single"},
    "docs/using.md": {"runs/mine": "single", "runs/a": "single", "runs/b": "single", "runs/pairs": "pairs"},
    "README.md": {"runs/ner": "ner", "runs/a": "single", "runs/b": "single"},
}


def write_data(folder: pathlib.Path) -> None:
    """One folder with a file of each kind a split, so that a page's DIR may be any source."""
    folder.mkdir(parents=True)
    tiny.write_corpus(folder, {"train": 24, "valid": 8, "test": 8}, documents=4)
    tiny.write_text(folder, {"train": 400, "valid": 40, "test": 40})
    for split, count in (("train", 24), ("valid", 8), ("test", 8)):
        tickets = [(f"text {number} about {CLASSES[number % 4]}", CLASSES[number % 4]) for number in range(count)]
        rows = "".join(f"{line},{label}\n" for line, label in tickets)
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
        records = [
            {"text": line, "labels": [label], "entities": [[0, 4, "WORD"]] if number % 2 else []}
            for number, (line, label) in enumerate(tickets)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (folder / f"{split}.tsv").write_text(
            "".join(f"{line}\t{label}\n" for line, label in [("text", "coarse_label"), *tickets])
        )


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(ROOT)}


def run(words: list[str], folder: pathlib.Path) -> None:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    fine = (0, 1) if "jaxfm.check" in words else (0,)  # 1: it found errors in the made-up data
    assert done.returncode in fine, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def earlier_runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Runs that pages use without making them: of single texts, of pairs, and of named entities."""
    folder = tmp_path_factory.mktemp("earlier")
    write_data(folder / "DIR")
    pairs = ["sentence1,sentence2,label", *(f"first {n},second {n},{'yes' if n % 2 else 'no'}" for n in range(16))]
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    train = [sys.executable, "-m", "jaxfm.train", *BRIEF]
    sources = {"single": "csv:DIR", "pairs": "csv:pairs.csv"}
    for name, source in sources.items():
        config = f"--config={ROOT}/configs/classification.py:files"
        run([*train, config, f"--config.data.source={source}", f"--workdir={name}"], folder)
    run([*train, f"--config={ROOT}/configs/ner.py:files", "--config.data.source=conll:DIR", "--workdir=ner"], folder)
    return folder


def prepare(page: str, folder: pathlib.Path, earlier: pathlib.Path) -> None:
    """Lays out what a page's commands read."""
    for name in ("configs", "launch", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("DIR", "FOLDER", "OTHER", "REVIEWS", "trec"):
        shutil.copytree(earlier / "DIR", folder / name)
    for path in (folder / "REVIEWS").glob("*.csv"):
        path.write_text(path.read_text().replace("text,label", "review,stars"))
    (folder / "lines.txt").write_text("ada met boole in hull .\n\nthe old town\n")
    (folder / "test.csv").write_text("text\nA text.\nAnother one.\n")
    (folder / "test1.txt").write_text("one line of an evaluation file\n")
    (folder / "test2.jsonl").write_text('{"text": "one record of an evaluation file"}\n')
    for target, source in MADE_BEFORE.get(page, {}).items():
        shutil.copytree(earlier / source, folder / target)


def workdir(command: Command) -> str | None:
    """The run directory that a command trains into."""
    words = program_words(command.words) or [""]
    flags = " ".join(words).replace("--workdir ", "--workdir=").split()
    found = [word.partition("=")[2] for word in flags if word.startswith("--workdir=")]
    return found[0] if words[0] == "train" and found else None


def as_run(command: Command) -> list[str]:
    """The command with this interpreter, and for trainings with fewer steps."""
    words = program_words(command.words)
    if words is None:  # a launcher, whose training flags stand at its end
        return [str(ROOT / command.words[0]), f"--python={sys.executable}", *command.words[1:], *BRIEF]
    program, rest = words[0], words[1:]
    if program in ("train", "seeds"):
        rest = [*rest, *BRIEF]
    return [sys.executable, "-m", f"jaxfm.{program}", *rest]


@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_commands_of_a_page_run_in_their_order(
    page: str, tmp_path: pathlib.Path, earlier_runs: pathlib.Path
) -> None:
    prepare(page, tmp_path, earlier_runs)
    wanted = [command for command in commands(page, text(page)) if not reasons(command)]
    assert wanted
    for command in wanted:
        # A page that shows two ways gives both the same directory: a reader takes one of them.
        if made := workdir(command):
            shutil.rmtree(tmp_path / made, ignore_errors=True)
        run(as_run(command), tmp_path)
