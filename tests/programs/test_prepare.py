"""The program `python -m jaxfm.prepare` as a user runs it: messages, exit codes, a kill."""

import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxfm.data.corpora.shards import ShardedRows
from jaxfm.errors import UserError
from jaxfm.programs import prepare as program
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
OF_THE_RUN = ("report.json", "report.md", ".verified.json", ".lock")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tokenizer and a corpus of two files, 1.3 MB: a second or two of work."""
    folder = tmp_path_factory.mktemp("prepare")
    tiny.write_tokenizer(folder / "tokenizer")
    draw = random.Random(0)
    words = [*tiny.FILLERS, *tiny.NAMES["PER"], *tiny.NAMES["LOC"]]
    (folder / "corpus").mkdir()
    for name in ("train.a.txt", "train.b.txt"):
        lines = (" ".join(draw.choices(words, k=draw.choice((5, 20, 60)))) for _ in range(5_000))
        (folder / "corpus" / name).write_text("\n".join(lines) + "\n")
    (folder / "corpus" / "valid.txt").write_text("ada met boole\nthe old town\n")
    return folder


def command(folder: pathlib.Path, output: pathlib.Path, *flags: str) -> list[str]:
    words = [sys.executable, "-m", "jaxfm.prepare", f"--input=text:{folder / 'corpus'}", f"--output={output}"]
    return [*words, f"--tokenizer=dir:{folder / 'tokenizer'}", "--row_length=32", *flags]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in OF_THE_RUN
    }


@pytest.mark.slow
def test_a_killed_preparation_goes_on_to_the_same_bytes(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = ("--shard_megabytes=0.04", "--deduplicate=exact")
    whole = run(command(folder, tmp_path / "whole", *flags, "--workers=1"))
    assert whole.returncode == 0, whole.stderr
    assert re.search(r"finished: [\d,]+ documents .* rows of 32 tokens", whole.stdout)

    output = tmp_path / "killed"
    records = output / "parts"
    with subprocess.Popen(
        command(folder, output, *flags, "--workers=2"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 100
        while len(list(records.glob("*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (output / "manifest.json").exists()
    time.sleep(0.5)  # its workers end too
    kept = {
        path.name.removesuffix(".json"): (output / path.name.removesuffix(".json")).stat().st_mtime_ns
        for path in records.glob("*.json")
    }
    assert len(kept) >= 3

    again = run(command(folder, output, *flags, "--workers=2"))
    assert again.returncode == 0, again.stderr
    assert f"goes on: {len(kept)} finished shards are kept" in again.stdout
    assert {name: (output / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(output) == contents(tmp_path / "whole")
    assert ShardedRows(output).fingerprint() == ShardedRows(tmp_path / "whole").fingerprint()


def test_mistakes_are_one_message_and_exit_code_2(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "out"
    usual = command(folder, output)
    for words, message in (
        ([*usual[:3], *usual[4:]], r"--input is missing\.\nusage: "),
        ([*usual, "--row_length=3"], "row_length: is 3, but must be at least 8"),
        ([*usual, "--rwo_length=3"], "rwo_length"),
    ):
        done = run(words)
        assert done.returncode == 2, done.stderr
        assert re.search(message, done.stderr) and "Traceback" not in done.stderr
    assert not output.exists()


def test_bad_input_is_said_once(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    tokenizer = f"dir:{folder / 'tokenizer'}"
    corpus = f"text:{folder / 'corpus'}"
    for source, uri, options, message in (
        (f"text:train={tmp_path / 'empty.txt'}", tokenizer, {}, "is empty"),
        (f"text:train={tmp_path / 'binary.txt'}", tokenizer, {}, r"binary\.txt:\d+: "),
        (corpus, tokenizer, {"split": "tset"}, "unknown split 'tset'.*Did you mean 'test'"),
        (corpus, tokenizer, {"split": "testb"}, r"no split 'test'.*'train', 'valid'"),
        (corpus, "dir:/no/such", {}, "tokenizer: 'dir:/no/such'"),
        ("txet:x", tokenizer, {}, "txet"),
        (corpus, tokenizer, {"contamination": ("no.txt",)}, "no.txt: no such file"),
    ):
        with pytest.raises(UserError, match=message):
            program.prepare(source, tmp_path / "out", uri, **options)
        assert not (tmp_path / "out").exists()


def test_what_is_held_out_is_part_of_the_settings(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source, tokenizer = f"text:train={folder / 'corpus' / 'valid.txt'}", f"dir:{folder / 'tokenizer'}"
    program.prepare(source, tmp_path / "out", tokenizer)
    with pytest.raises(UserError, match="source: .*valid.txt .train.' -> .*holdout 0.001"):
        program.prepare(source, tmp_path / "out", tokenizer, holdout=0.001)
