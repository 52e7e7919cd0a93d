"""Trains spaCy with its own defaults on one of the sets of profiles/small_sets.py; prints its scores as JSON.

  PYTHON profiles/spacy_reference.py FOLDER --task=ner --seed=0        (PYTHON: of an environment that has spaCy)

The config is that of `spacy init config --lang en --pipeline ner` (or textcat, textcat_multilabel), for a CPU: word
vectors and weights are learned from the training examples alone, an evaluation every 200 updates, and training stops
1,600 updates after the best. Two texts of a pair are joined by a line break. spaCy has no regression.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import spacy  # pyright: ignore[reportMissingImports]
from spacy.cli.init_config import init_config  # pyright: ignore[reportMissingImports]
from spacy.cli.train import train  # pyright: ignore[reportMissingImports]
from spacy.tokens import DocBin  # pyright: ignore[reportMissingImports]


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def text_of(row: dict[str, Any]) -> str:
    """Returns what is read of an example."""
    return row["text"] + (f"\n{row['pair']}" if row.get("pair") is not None else "")


def to_docs(rows: list[dict[str, Any]], task: str, labels: list[str]) -> DocBin:
    """Returns the examples as spaCy trains on them."""
    blank, docs = spacy.blank("en"), DocBin()
    for row in rows:
        doc = blank.make_doc(text_of(row))
        if task == "ner":
            spans = (doc.char_span(e["start"], e["end"], e["label"], alignment_mode="expand") for e in row["entities"])
            doc.ents = spacy.util.filter_spans([span for span in spans if span is not None])
        else:
            doc.cats = {label: float(label == row["label"]) for label in labels}
        docs.add(doc)
    return docs


def scores(nlp: Any, rows: list[dict[str, Any]], task: str) -> dict[str, float]:
    """Returns F1 of entities in characters, or accuracy and macro-F1, in percent."""
    if task == "ner":
        gold = {(i, e["start"], e["end"], e["label"]) for i, row in enumerate(rows) for e in row["entities"]}
        docs = enumerate(nlp.pipe(row["text"] for row in rows))
        found = {(i, ent.start_char, ent.end_char, ent.label_) for i, doc in docs for ent in doc.ents}
        return {"f1": 200 * len(gold & found) / max(len(gold) + len(found), 1)}
    wanted = [row["label"] for row in rows]
    given = [max(doc.cats, key=doc.cats.get) for doc in nlp.pipe(text_of(row) for row in rows)]
    each = []
    for name in sorted({*wanted, *given}):
        right = sum(a == b == name for a, b in zip(wanted, given, strict=True))
        each.append(200 * right / (wanted.count(name) + given.count(name)))
    accuracy = 100 * sum(a == b for a, b in zip(wanted, given, strict=True)) / len(wanted)
    return {"accuracy": accuracy, "macro_f1": sum(each) / len(each)}


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--task", choices=("ner", "textcat"), default="ner")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = {split: read(arguments.folder / f"{split}.jsonl") for split in ("train", "valid", "test")}
    labels = sorted({row["label"] for row in rows["train"]}) if arguments.task == "textcat" else []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for split in ("train", "valid"):
            to_docs(rows[split], arguments.task, labels).to_disk(folder / f"{split}.spacy")
        init_config(lang="en", pipeline=[arguments.task], optimize="efficiency", silent=True).to_disk(folder / "c.cfg")
        overrides = {
            "paths.train": str(folder / "train.spacy"),
            "paths.dev": str(folder / "valid.spacy"),
            "system.seed": arguments.seed,
        }
        start = time.perf_counter()
        train(folder / "c.cfg", folder / "out", overrides=overrides)
        seconds = time.perf_counter() - start
        nlp = spacy.load(folder / "out" / "model-best")
        result = {split: scores(nlp, rows[split], arguments.task) for split in ("valid", "test")}
    print(json.dumps({"scores": result, "seconds": round(seconds, 1), "spacy": spacy.__version__}))


if __name__ == "__main__":
    main()
