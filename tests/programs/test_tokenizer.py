"""The program `python -m jaxfm.tokenizer` as a user runs it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxfm.data.corpora.tokenizer_training import train_tokenizer
from jaxfm.errors import UserError
from jaxfm.programs.tokenizer import learn_tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [f"document {i} of the corpus, with some words" for i in range(60)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corpus").mkdir()
    lines = [json.dumps({"body": text, "n": i}) for i, text in enumerate(TEXTS)]
    (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(lines))
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jaxfm.tokenizer", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})


def test_the_program_writes_what_the_function_does(folder):
    done = run(
        f"--input=jsonl:{folder}/corpus",
        "--text_column=body",
        "--vocab_size=280",
        f"--output={folder}/made",
        "--kind=bpe",
        "--lowercase",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "train: 1 file, 0.0 MB"
    assert lines[-2] == "read 60 documents, 0.0 MB: choosing the pieces"
    assert lines[-1] == f"written: {folder}/made (280 pieces)"
    train_tokenizer(TEXTS, kind="bpe", vocab_size=280, lowercase=True, output=folder / "same")
    for path in (folder / "same").iterdir():
        assert path.read_bytes() == (folder / "made" / path.name).read_bytes()


def test_bad_input_ends_with_2_and_one_message(folder):
    done = run(f"--input=jsonl:{folder}/corpus", "--vocab_size=300", f"--output={folder}/made")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {folder}/corpus/a.jsonl:1: no column for the text (looked for text, content")
    assert done.stderr.count("\n") == 1
    done = run(f"--input=jsonl:{folder}/corpus", f"--output={folder}/made")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: --vocab_size is missing.")
    assert not (folder / "made").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"has no split 'test'; there is: train"),
        ({"split": "tset"}, r"unknown split 'tset'.* Did you mean 'test'"),
        ({"kind": "wp"}, r"kind='wp'"),
        ({"output": "corpus"}, r"corpus: is there already"),
        ({"vocab_size": 50}, r"vocab_size=50 is too small"),
        ({"text_column": "n"}, r"a\.jsonl:1: 0 in 'n' is of type int, but must be text"),
        ({"source": "jsonl:nowhere"}, r"jsonl:nowhere: no such file or folder"),
    ],
)
def test_what_is_refused_leaves_nothing(folder, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    values = {"source": "jsonl:corpus", "output": "made", "vocab_size": 300, "text_column": "body"} | options
    with pytest.raises(UserError, match=message):
        learn_tokenizer(values.pop("source"), values.pop("output"), **values)
    assert [path.name for path in folder.iterdir()] == ["corpus"]


def test_a_vocabulary_that_the_text_cannot_fill_is_smaller(folder, capsys):
    size = learn_tokenizer(f"jsonl:{folder}/corpus", folder / "made", vocab_size=5000, text_column="body")
    assert 150 < size < 400
