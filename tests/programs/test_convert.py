"""Tagged sentences in the form of another tool: what is written, said and refused."""

import json
import pathlib
import subprocess
import sys

import pytest

from jaxfm.data.records.sources import read_tagged
from jaxfm.data.records.tagged_writing import WRITERS
from jaxfm.errors import UserError
from jaxfm.programs.convert import convert
from tests import tiny


def overlapping(folder: pathlib.Path) -> str:
    folder.mkdir()
    row = {"text": "Bank of Oslo opened.", "entities": [[0, 12, "ORG"], [8, 12, "LOC"]]}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    return f"jsonl:{folder}"


@pytest.mark.parametrize("to", WRITERS)
def test_every_form_is_read_again(to: str, tmp_path: pathlib.Path) -> None:
    source = f"conll:{tmp_path / 'corpus'}"
    tiny.write_corpus(tmp_path / "corpus", {"train": 8, "valid": 4})
    said = convert(source, tmp_path / "out", to)
    assert list(said) == ["train", "valid"] and said["train"][0].startswith("train: 8 sentences")
    again, before = (read_tagged(each, None) for each in (f"{WRITERS[to].source}{tmp_path / 'out'}", source))
    for split, found in before.items():
        assert [(each.words, each.tags) for each in again[split].sentences] == [
            (each.words, each.tags) for each in found.sentences
        ]


def test_what_a_form_cannot_say_is_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "Oslobank opened.", "entities": [[0, 4, "LOC"]]}) + "\n")
    said = convert(f"jsonl:{tmp_path}", tmp_path / "out", "conll", scheme="BIOES")
    assert said["train"][1] == "1 entities start or end inside a word and take the whole word"
    assert (tmp_path / "out" / "train.conll").read_text().splitlines()[0] == "Oslobank\tS-LOC"
    said = convert(f"conll:{tmp_path / 'out'}", tmp_path / "back", "brat")
    assert said["train"][1] == "the source has words, no text: they are joined by spaces"


def test_overlaps_are_refused_or_the_longest_is_kept(tmp_path: pathlib.Path) -> None:
    source = overlapping(tmp_path / "data")
    with pytest.raises(
        UserError, match=r"train: 1 entities that overlap a longer one left out \(first: .*train.jsonl:1\)"
    ):
        convert(source, tmp_path / "out", "conll")
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out", "jsonl", overlaps="longest")
    (row,) = map(json.loads, (tmp_path / "out" / "train.jsonl").read_text().splitlines())
    assert row["entities"] == [{"start": 0, "end": 12, "label": "ORG"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "brad"}, "--to=brad: Did you mean 'brat'"),
        ({"to": "conll", "scheme": "BIOE"}, "--scheme=BIOE: Did you mean 'BIOES'"),
        ({"to": "brat", "scheme": "BIOES"}, "--scheme=BIOES: brat has entities in characters, no tags"),
        ({"to": "conll", "splitter": "find"}, "--splitter=find: Did you mean 'fine'"),
        ({"to": "conll", "overlaps": "first"}, "--overlaps=first: "),
    ],
)
def test_what_is_refused(options: dict[str, str], message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError) as caught:
        convert(overlapping(tmp_path / "data"), tmp_path / "out", **options)
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_the_command(tmp_path: pathlib.Path) -> None:
    tiny.write_corpus(tmp_path / "corpus", {"train": 4})

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "jaxfm.convert", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    done = call("conll:corpus", "--to=brat", "--output=out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "written: out; it is read as brat:out"
    assert (tmp_path / "out" / "train" / "doc_1.ann").is_file()
    again = call("conll:corpus", "--to=brat", "--output=out")
    assert again.returncode == 2 and "out" in again.stderr and "Traceback" not in again.stderr
    missing = call("conll:corpus", "--to=brat")
    assert missing.returncode == 2 and "give one source, --to and --output" in missing.stderr
