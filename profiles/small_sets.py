"""Five small data sets with a fair test split, for profiles/small_data.py: real text where the folder of it is present.

Training examples are the first ones by a hash of their text, so a set is the same everywhere. Each set is a folder with
train, valid and test files; valid is a fifth of the training size, as `data.holdout` would make it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.sources import read_tagged

Record = Mapping[str, Any]
TEST = 300  # examples: the interval of an accuracy of 80 % is then 9 points wide


@dataclasses.dataclass(frozen=True)
class SmallSet:
    """One of the sets.

    Attributes:
      name: of its folder.
      task: "ner" or "classification".
      kind: of a classification.
      metric: by which programs are compared.
      train: training examples, valid not among them.
      records: (folder of real data) -> train, test records in the order of their hash.
      what: for the table of results.
    """

    name: str
    task: str
    kind: str
    metric: str
    train: int
    records: Callable[[pathlib.Path], tuple[Sequence[Record], Sequence[Record]]]
    what: str

    @property
    def config(self) -> str:
        """The config file with which a stranger would start, and its variant."""
        variant = {"single": "files", "multi": "multi", "regression": "regression"}.get(self.kind, "files")
        return f"configs/{self.task}.py:{variant}"


def write_set(chosen: SmallSet, data: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes train.jsonl, valid.jsonl and test.jsonl of a set below `folder`, unless they are there; returns where."""
    target = folder / chosen.name
    if (target / "test.jsonl").is_file():
        return target
    train, test = chosen.records(data)
    held = round(holdout_share(None, chosen.train) * chosen.train)
    parts = {
        "train": train[: chosen.train],
        "valid": train[chosen.train : chosen.train + held],
        "test": test[:TEST],
    }
    for split, records in parts.items():
        files.write_text(target / f"{split}.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))
    return target


def _hashed(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=lambda record: uniform_hash(f"{record['text']}\n{record.get('pair', '')}"))


def _sentences(data: pathlib.Path) -> tuple[list[Record], list[Record]]:
    """Sentences of WikiNEuRal with an entity, as text with entities in characters."""

    def records(split: str) -> Iterator[Record]:
        for sentence in read_tagged(f"conll:{data / 'wikineural-en'}", [split])[split].sentences:
            starts, text = [], ""
            for word in sentence.words:
                starts.append(len(text) + bool(text))
                text = f"{text} {word}".strip()
            entities: list[dict[str, Any]] = []
            for word, tag, start in zip(sentence.words, sentence.tags, starts, strict=True):
                if tag[0] == "B":
                    entities.append({"start": start, "end": start + len(word), "label": tag[2:]})
                elif tag[0] == "I":
                    entities[-1]["end"] = start + len(word)
            if entities:
                yield {"text": text, "entities": entities}

    return _hashed(records("train")), _hashed(records("test"))


def _examples(source: str, kind: str, columns: ExampleColumns, test: str = "test") -> tuple[list[Record], list[Record]]:
    read = read_examples(source, ["train", test], columns=columns, kind=kind)

    def records(split: str) -> Iterator[Record]:
        for example in read[split].examples:
            pair = {} if example.pair is None else {"pair": example.pair}
            yield {"text": example.text, **pair, "label": example.target}

    return _hashed(records("train")), _hashed(records(test))


def _questions(data: pathlib.Path) -> tuple[list[Record], list[Record]]:
    """Short questions of three classes, the rarest of which has one example in twenty, in test too.

    All are of TREC's training split, whose test split has too few of some classes: its first half by the hash gives
    training examples, its second half the others.
    """
    shares = {"HUM": 0.55, "NUM": 0.40, "LOC": 0.05}
    every, _ = _examples(f"tsv:{data / 'trec'}", "single", ExampleColumns("question", "", "coarse_label"))

    def mixed(records: Sequence[Record], size: int) -> list[Record]:
        of_class = {name: [each for each in records if each["label"] == name] for name in shares}
        chosen = [each for name, share in shares.items() for each in of_class[name][: max(round(share * size), 1)]]
        return _hashed(chosen)

    half = len(every) // 2
    train, valid = mixed(every[:half], 60), mixed(every[half:], 11)
    return [*train, *valid], mixed([each for each in every[half:] if each not in valid], TEST)


def _pairs(data: pathlib.Path) -> tuple[list[Record], list[Record]]:
    return _examples(f"tsv:{data / 'snli-subset'}", "single", ExampleColumns())


def _similarity(data: pathlib.Path) -> tuple[list[Record], list[Record]]:
    return _examples(f"tsv:{data / 'stsb'}", "regression", ExampleColumns())


def _reviews(data: pathlib.Path) -> tuple[list[Record], list[Record]]:
    return _examples(f"tsv:{data / 'sst2'}", "single", ExampleColumns(), "valid")


SETS = {
    each.name: each
    for each in (
        SmallSet("sentences", "ner", "", "f1", 45, _sentences, "WikiNEuRal, entities in characters"),
        SmallSet("questions", "classification", "single", "macro_f1", 60, _questions, "TREC, 3 classes, one of 5 %"),
        SmallSet("pairs", "classification", "single", "accuracy", 300, _pairs, "SNLI, pairs, 3 classes"),
        SmallSet("similarity", "classification", "regression", "pearson", 300, _similarity, "STS-B, pairs, a number"),
        SmallSet("reviews", "classification", "single", "accuracy", 2000, _reviews, "SST-2"),
    )
}
