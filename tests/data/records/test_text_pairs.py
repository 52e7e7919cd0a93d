"""Pairs of texts of every form of source, and what is refused."""

import gzip
import json
import pathlib
import re
from typing import Any

import pytest

from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.text_pairs import PairColumns, TextPair, read_text_pairs
from jaxfm.errors import UserError


def read(source: str, **options: Any) -> dict[str, list[TextPair]]:
    return {split: list(found.pairs) for split, found in read_text_pairs(source, None, **options).items()}


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else open(path, "w", encoding="utf-8")
    with opened as file:
        file.write(text)
    return path


def refusal(source: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(source, **options)
    return str(caught.value)


def test_tables_and_objects_give_the_same_pairs(tmp_path: pathlib.Path) -> None:
    pairs = [("one two", "two one"), ("three four", "four three"), ("five", "six")]
    write(tmp_path / "tsv/train.tsv", "source\ttarget\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    lines = "".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in pairs)
    write(tmp_path / "jsonl/train.jsonl.gz", lines)
    write(tmp_path / "lines/train.en.txt", "".join(f"{a}\n" for a, _ in pairs))
    write(tmp_path / "lines/train.de.txt.gz", "".join(f"{b}\n" for _, b in pairs))
    write(tmp_path / "wmt/train.en", "".join(f"{a}\n" for a, _ in pairs))
    write(tmp_path / "wmt/train.de", "".join(f"{b}\n" for _, b in pairs))
    languages = PairColumns("en", "de")
    for source, columns in (
        ("tsv", PairColumns()),
        ("jsonl", PairColumns()),
        ("lines", languages),
        ("wmt", languages),
    ):
        scheme = "lines" if source == "wmt" else source
        found = read(f"{scheme}:{tmp_path / source}", columns=columns)["train"]
        assert [(pair.source, *pair.targets) for pair in found] == pairs, source
        assert ":2" in found[1].origin or ":3" in found[1].origin
    nested = "".join(json.dumps({"translation": {"en": a, "de": b}}) + "\n" for a, b in pairs)
    write(tmp_path / "nested/train.jsonl", nested)
    columns = PairColumns("translation.en", "translation.de")
    assert [pair.targets[0] for pair in read(f"jsonl:{tmp_path / 'nested'}", columns=columns)["train"]] == [
        target for _, target in pairs
    ]


def test_sentences_are_joined_references_kept_and_controls_read(tmp_path: pathlib.Path) -> None:
    records = [
        {"source": ["A first.", "A second. "], "target": ["short", "shorter"], "style": "dry", "words": ["a", "b"]},
        {"source": "one", "target": "two", "style": None},
    ]
    write(tmp_path / "train.jsonl", "\n".join(map(json.dumps, records)))
    first, second = read(f"jsonl:{tmp_path}", columns=PairColumns(controls=("style", "words")))["train"]
    assert first.source == "A first. A second." and first.targets == ("short", "shorter")
    assert first.controls == {"style": "dry", "words": "a, b"} and second.controls == {}
    note = read_text_pairs(f"jsonl:{tmp_path}", ("train",))["train"].note
    assert note == f"train: 2 pairs of texts, 1 with several references from {tmp_path / 'train.jsonl'}"


def test_a_share_of_the_sources_is_held_out(tmp_path: pathlib.Path) -> None:
    lines = "".join(json.dumps({"source": f"word {n % 40}", "target": f"t{n}"}) + "\n" for n in range(80))
    write(tmp_path / "train.jsonl", lines)
    found = read(f"jsonl:{tmp_path}", holdout=0.2)
    train, valid = ({pair.source for pair in found[split]} for split in ("train", "valid"))
    assert not train & valid and 12 <= len(found["valid"]) <= 20 and len(found["train"]) + len(found["valid"]) == 80
    assert found == read(f"jsonl:{tmp_path}", holdout=0.2)


def test_quickstart_has_one_right_target() -> None:
    found = read("quickstart")
    assert {split: len(pairs) for split, pairs in found.items()} == {"train": 6000, "valid": 200, "test": 400}
    targets = {split: {pair.targets[0] for pair in pairs} for split, pairs in found.items()}
    assert not targets["train"] & (targets["valid"] | targets["test"])
    for pair in found["test"]:
        year, month, day = map(int, pair.targets[0].split("-"))
        assert str(year) in pair.source and str(day) in pair.source and 1 <= month <= 12
    assert found == read("quickstart")


BAD: dict[str, tuple[dict[str, str], str, str]] = {
    "empty target": ({"train.jsonl": '{"source": "a", "target": "b"}\n{"source": "a", "target": " "}\n'}, "jsonl", ""),
    "empty source": ({"train.jsonl": '{"source": "a", "target": "b"}\n{"source": "", "target": "b"}\n'}, "jsonl", ""),
    "no reference": ({"train.jsonl": '{"source": "a", "target": "b"}\n{"source": "a", "target": []}\n'}, "jsonl", ""),
    "number": ({"train.jsonl": '{"source": "a", "target": "b"}\n{"source": "a", "target": 3}\n'}, "jsonl", ""),
    "no column": ({"train.jsonl": '{"source": "a", "aim": "b"}\n'}, "jsonl", ""),
    "lines differ": ({"train.en.txt": "a\nb\nc\n", "train.de.txt": "a\nb\n"}, "lines", "de"),
    "one language": ({"train.en.txt": "a\n"}, "lines", ""),
    "two tests": (
        {f"test{year}.{language}.txt": "a\n" for year in (2016, 2017) for language in ("en", "de")},
        "lines",
        "",
    ),
    "empty line": ({"train.en.txt": "a\nb\n", "train.de.txt": "a\n\n"}, "lines", "de"),
    "which is which": ({"train.en.txt": "a\n", "train.de.txt": "a\n"}, "lines", ""),
}
SAID = {
    "empty target": r"train\.jsonl:2: the target in 'target' is empty\. Leave the record out, or correct it\.",
    "empty source": r"train\.jsonl:2: the source in 'source' is empty\.",
    "no reference": r"train\.jsonl:2: the target in 'target' is empty\.",
    "number": r"train\.jsonl:2: 3 in 'target' is of type int, but must be text\.",
    "no column": r"no column for the target .*columns: 'source', 'aim'\): set data\.label_column\.",
    "lines differ": r"train\.de\.txt: ends after line 2, but train\.en\.txt goes on: line n of one file goes with",
    "one language": r"no two files such as train\.en\.txt and train\.de\.txt",
    "two tests": r"test2016 and .*test2017 could be the split 'test': say which, as lines:train=.*test=",
    "empty line": r"train\.de\.txt:2 \(and train\.en\.txt\): the target in 'de' is empty",
    "which is which": r"which of 'de', 'en' is the source, and which the target\? Set data\.text_column",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_are_refused_with_their_place(tmp_path: pathlib.Path, name: str) -> None:
    files, scheme, target = BAD[name]
    for file, text in files.items():
        write(tmp_path / file, text)
    columns = PairColumns("en", target) if target else PairColumns()
    message = refusal(f"{scheme}:{tmp_path}", columns=columns)
    assert re.search(SAID[name], message), message


def test_named_sets_of_lines(tmp_path: pathlib.Path) -> None:
    for name in ("train", "test2016", "test2017"):
        for language in ("en", "de"):
            write(tmp_path / f"{name}.{language}.txt", f"{name} {language}\n")
    source = f"lines:train={tmp_path}/train,test={tmp_path}/test2017"
    found = read(source, columns=PairColumns("de", "en"))
    assert found["test"][0].source == "test2017 de" and found["test"][0].targets == ("test2017 en",)
    message = refusal(f"lines:train={tmp_path}/nothing")
    assert "there are no two files" in message and "holds test2016.de.txt" in message
    assert "given twice" in refusal(f"lines:test={tmp_path}/test2016,test={tmp_path}/test2017")
    assert refusal(f"{source}", columns=PairColumns("de", "en", ("style",))).endswith(
        "config.task.controls='style' is absent. Columns: 'de', 'en'."
    )


def test_dialogues_give_the_next_turn_of_a_speaker(tmp_path: pathlib.Path) -> None:
    turns = [{"speaker": name, "text": f"turn {n}"} for n, name in enumerate(("USER", "SYSTEM") * 3)]
    records = [{"turns": [*turns, {"speaker": "USER", "text": f"{n}"}]} for n in range(20)]
    write(tmp_path / "train.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    options = DialogueOptions(2, " | ", "SYSTEM")
    found = read(f"dialogue:{tmp_path}", dialogue=options, holdout=0.2)
    first = found["train"][0]
    assert first.targets == ("turn 1",) and first.source == "turn 0"
    assert found["train"][1].source == "turn 1 | turn 2" and found["train"][1].targets == ("turn 3",)
    of = {split: {pair.origin.partition("[")[0] for pair in pairs} for split, pairs in found.items()}
    assert not of["train"] & of["valid"] and len(of["valid"]) == 4
    message = refusal(f"dialogue:{tmp_path}", columns=PairColumns("text"))
    assert message.endswith("has no columns to choose from, but 'text' is asked for.")


def test_real_translations_and_summaries(shared_data: pathlib.Path) -> None:
    folder = shared_data / "multi30k-en-de"
    source = f"lines:train={folder}/train,valid={folder}/valid,test={folder}/test2016"
    found = read(source, columns=PairColumns("en", "de"))
    assert {split: len(pairs) for split, pairs in found.items()} == {"train": 29000, "valid": 1014, "test": 1000}
    assert found["train"][0].source == "Two young, White males are outside near many bushes."
    summaries = read(f"jsonl:{shared_data / 'scitldr-a'}")
    assert [len(summaries[split]) for split in ("train", "valid", "test")] == [1992, 619, 618]
    assert max(len(pair.targets) for pair in summaries["test"]) > 1
