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
from tests.tiny_speech import write_speech

pytestmark = pytest.mark.slow

# What every training is given beside its own flags: as little work as shows that it runs.
BRIEF = ("--config.train.steps=2", "--config.log.tensorboard=False", "--config.eval.batch_size=8")
TRAINS = (["train"], ["seeds"])
CLASSES = ("billing", "delivery", "account", "technical")
# Page -> (run directory that its commands use without having made it, the run that is copied there).
MADE_BEFORE = {
    "docs/classification.md": {"runs/mine": "single", "runs/a": "single", "runs/b": "single", "runs/pairs": "pairs"},
    "docs/explaining.md": {"runs/a": "single"},
    "docs/exporting.md": {"runs/ner": "ner"},
    "docs/howto/probes.md": {"runs/ner": "ner"},
    "docs/ner.md": {"runs/a": "ner", "runs/b": "ner"},
    "docs/retrieval.md": {"runs/ce": "pairs"},
    "docs/trackers.md": {"runs/a": "single", "runs/b": "single"},
    "docs/trust.md": {"runs/full": "single", "runs/lora": "single"},
    "docs/using.md": {"runs/mine": "single", "runs/a": "single", "runs/b": "single", "runs/pairs": "pairs"},
    "README.md": {"runs/ner": "ner", "runs/a": "single", "runs/b": "single"},
}


def write_data(folder: pathlib.Path) -> None:
    """One folder with a file of each kind a split, so that a page's DIR may be any source."""
    folder.mkdir(parents=True)
    tiny.write_corpus(folder, {"train": 24, "valid": 8, "test": 8}, documents=4)
    tiny.write_text(folder, {"train": 400, "valid": 40, "test": 40})
    for path in folder.glob("*.txt"):  # which could be columns too, and a reader of conll: would ask
        path.rename(path.with_suffix(".md"))
    for split, count in (("train", 24), ("valid", 8), ("test", 8)):
        tickets = [
            (f"{split} text {number} about {CLASSES[number % 4]}", CLASSES[number % 4]) for number in range(count)
        ]
        rows = "".join(f"{line},{label}\n" for line, label in tickets)
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
        records = [
            {"text": line, "labels": [label], "entities": [[0, len(split), "SPLIT"]] if number % 2 else []}
            for number, (line, label) in enumerate(tickets)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_visits(folder: pathlib.Path) -> None:
    """Labelled texts of patients, a day each; one patient is in two splits."""
    folder.mkdir()
    patients = {"train": ("p0", "p1", "p2", "p3", "p4", "p5"), "test": ("p1", "p7", "p8", "p9")}
    for (split, own), count, month in zip(patients.items(), (24, 8), (1, 2), strict=True):
        rows = [
            f"{split} text {n} about {CLASSES[n % 2]},{CLASSES[n % 2]},{own[n % len(own)]},2024-0{month}-{n + 1:02}\n"
            for n in range(count)
        ]
        (folder / f"{split}.csv").write_text("".join(["text,label,patient,day\n", *rows]))


def write_search(folder: pathlib.Path) -> None:
    """Pairs of texts, a corpus to search in, queries, and questions with answers."""
    (folder / "PAIRS_OF_TEXTS").mkdir()
    for split, count in (("train", 24), ("valid", 8), ("test", 8)):
        texts = [f"{split} {number} of {CLASSES[number % 4]}" for number in range(count)]
        lines = [json.dumps({"anchor": f"where is {text}", "positive": text}) + "\n" for text in texts]
        (folder / "PAIRS_OF_TEXTS" / f"{split}.jsonl").write_text("".join(lines))
    corpus = [json.dumps({"id": f"d{number}", "text": f"text {number} on fuel and space"}) for number in range(12)]
    (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n")
    (folder / "queries.txt").write_text("fuel\nspace\n")
    (folder / "faq.csv").write_text(
        "id,question,answer\nreturn,Can I send something back?,Yes.\npay,How can I pay?,By card.\n"
    )


def write_photos(folder: pathlib.Path) -> None:
    """Images in a folder a class, one image, and pairs of an image and a text."""
    sizes = {"train": 24, "valid": 8, "test": 8}
    tiny.write_images(folder / "photos", sizes)
    shutil.copy(next((folder / "photos" / "test" / "light").glob("*.png")), folder / "image.png")
    tiny.write_images(folder / "IMAGE_PAIRS" / "pictures", sizes)
    for split in sizes:
        paths = sorted((folder / "IMAGE_PAIRS" / "pictures" / split).rglob("*.png"))
        rows = [f"{path.relative_to(folder / 'IMAGE_PAIRS')},a {path.parent.name} picture\n" for path in paths]
        (folder / "IMAGE_PAIRS" / f"{split}.csv").write_text("".join(["path,caption\n", *rows]))


def write_clips(folder: pathlib.Path) -> None:
    """Clips of sound in a folder a class, one clip, and clips with transcripts."""
    tiny.write_audio(folder / "clips", {"train": 24, "valid": 8, "test": 8})
    shutil.copy(next((folder / "clips" / "test" / "low").glob("*.wav")), folder / "clip.wav")
    write_speech(folder / "talks", {"train": 24, "valid": 8, "test": 8})


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return kept | {"PYTHONPATH": str(ROOT)}


def run(words: list[str], folder: pathlib.Path) -> None:
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    fine = (0, 1) if words[3:4] == ["check"] else (0,)  # 1: it found errors in the made-up data
    assert done.returncode in fine, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


# Name -> config and source of a run that pages use without making it.
EARLIER = {
    "single": ("classification:files", "csv:DIR"),
    "pairs": ("classification:files", "csv:pairs.csv"),
    "ner": ("ner:files", "conll:DIR"),
}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the data, and of the runs that `earlier_run` makes."""
    folder = tmp_path_factory.mktemp("earlier")
    write_data(folder / "DIR")
    pairs = ["sentence1,sentence2,label", *(f"first {n},second {n},{'yes' if n % 2 else 'no'}" for n in range(16))]
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    return folder


def earlier_run(name: str, folder: pathlib.Path) -> pathlib.Path:
    """The run directory of that name of `EARLIER`, trained when it is first asked for."""
    if not (folder / name).exists():
        config, source = EARLIER[name]
        words = ["train", config, f"--data={source}", f"--workdir={name}"]
        run([sys.executable, "-m", "jaxfm", *words, *BRIEF], folder)
    return folder / name


def prepare(page: str, folder: pathlib.Path, earlier: pathlib.Path) -> None:
    """Lays out what a page's commands read."""
    for name in ("configs", "launch", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("DIR", "FOLDER", "OTHER", "REVIEWS"):
        shutil.copytree(earlier / "DIR", folder / name)
    for path in (folder / "REVIEWS").glob("*.csv"):
        path.write_text(path.read_text().replace("text,label", "review,stars"))
    write_visits(folder / "VISITS")
    tiny.write_questions(folder / "QUESTIONS", {"train": 24, "valid": 8, "test": 8})
    tiny.write_text_pairs(folder / "SENTENCES", {"train": 24, "valid": 8, "test": 8})
    (folder / "trec").mkdir()  # apart: a reader of conll: would ask which of .conll and .tsv is meant
    for path in (folder / "DIR").glob("*.csv"):
        tabs = path.read_text().replace("text,label", "text,coarse_label").replace(",", "\t")
        (folder / "trec" / f"{path.stem}.tsv").write_text(tabs)
    tiny.write_relations(folder / "PAIRS", {"train": 24, "valid": 8, "test": 8})
    write_search(folder)
    write_photos(folder)
    write_clips(folder)
    (folder / "lines.txt").write_text("ada met boole in hull .\n\nthe old town\n")
    (folder / "texts.txt").write_text("ada met boole in hull .\nthe old town\n")
    (folder / "test.csv").write_text("text\nA text.\nAnother one.\n")
    (folder / "classes.txt").write_text("0\n7\n")
    (folder / "context.txt").write_text("Daisy Sharp was born in Oslo. Veltronic is led by Hope Banks.\n")
    asked = {"question": "Where was Daisy Sharp born?", "context": "Daisy Sharp was born in Oslo."}
    (folder / "questions.jsonl").write_text(json.dumps(asked) + "\n")
    (folder / "test1.txt").write_text("one line of an evaluation file\n")
    (folder / "test2.jsonl").write_text('{"text": "one record of an evaluation file"}\n')
    for target, source in MADE_BEFORE.get(page, {}).items():
        shutil.copytree(earlier_run(source, earlier), folder / target)


def workdir(command: Command) -> str | None:
    """The run directory that a command trains into."""
    words = program_words(command.words) or []
    flags = " ".join(words).replace("--workdir ", "--workdir=").split()
    found = [word.partition("=")[2] for word in flags if word.startswith("--workdir=")]
    return found[0] if words[1:2] in TRAINS and found else None


def as_run(command: Command, folder: pathlib.Path) -> list[str]:
    """The command with this interpreter, and for trainings with fewer steps."""
    words = program_words(command.words)
    if words is None:  # a launcher, whose training flags stand at its end
        return [str(ROOT / command.words[0]), f"--python={sys.executable}", *command.words[1:], *BRIEF]
    brief = BRIEF if words[1:2] in TRAINS and "--help" not in words else ()
    files = [name for word in words[2:] for name in expanded(word, folder)]
    return [sys.executable, "-m", "jaxfm", words[1], *files, *brief]


def expanded(word: str, folder: pathlib.Path) -> list[str]:
    """What a shell makes of a word: the files of a pattern."""
    if "*" not in word or "=" in word:
        return [word]
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(word))


@pytest.mark.parametrize("page", RUN_PAGES)
def test_the_commands_of_a_page_run_in_their_order(page: str, tmp_path: pathlib.Path, earlier: pathlib.Path) -> None:
    prepare(page, tmp_path, earlier)
    wanted = [command for command in commands(page, text(page)) if not reasons(command)]
    assert wanted
    for command in wanted:
        # A page that shows two ways gives both the same directory: a reader takes one of them.
        if made := workdir(command):
            shutil.rmtree(tmp_path / made, ignore_errors=True)
        run(as_run(command, tmp_path), tmp_path)
