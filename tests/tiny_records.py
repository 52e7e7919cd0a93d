"""Small made records of every kind: words that training alone can tell apart, the same for the same seed."""

import json
import pathlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.data.text.tagging import entity_spans

NAMES = {
    "PER": ("ada", "boole", "curry", "dedekind", "emmy", "frege", "gauss", "hilbert"),
    "LOC": ("arles", "bergen", "cadiz", "delft", "essen", "ferrara", "ghent", "hull"),
}
FILLERS = ("met", "in", "saw", "the", "old", "town", "near", "left", "and", "went", "to", ".")
SIZES = {"train": 60, "valid": 16, "test": 18}

Sentence = tuple[list[str], list[str]]


def sentences(count: int, seed: int) -> list[Sentence]:
    """Sentences of 2 to 18 words with names of one or two words; very different numbers of words."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for _ in range(draw.choice((1, 1, 2, 6))):
            words.append(draw.choice(FILLERS))
            tags.append("O")
            kind = draw.choice(tuple(NAMES))
            for position in "BI"[: draw.choice((1, 2))]:
                words.append(draw.choice(NAMES[kind]))
                tags.append(f"{position}-{kind}")
        made.append((words, tags))
    return made


def write_examples(directory: pathlib.Path, kind: str, *, pairs: bool, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of labelled texts that can be learned: what they name decides; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sizes.items()):
        draw = random.Random(seed)
        lines = []
        for words, tags in sentences(count, seed):
            kinds = [tag[2:] for tag in tags if tag != "O"]
            target: Any = {"single": kinds[0], "multi": sorted(set(kinds)), "regression": len(words) / 4}[kind]
            texts = {"text": " ".join(words), "label": target}
            lines.append(texts | ({"pair": draw.choice(FILLERS)} if pairs else {}))
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return f"jsonl:{directory}"


def write_questions(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of questions that can be learned: the first name of a kind, or none; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    asked = {"PER": "met", "LOC": "went to"}
    for seed, (split, count) in enumerate(sizes.items()):
        draw = random.Random(seed)
        lines = []
        for number, (words, tags) in enumerate(sentences(count, seed)):
            kind = draw.choice(tuple(asked))
            first = tags.index(f"B-{kind}") if f"B-{kind}" in tags else -1
            end = first + 1 + (tags[first + 1 : first + 2] == [f"I-{kind}"])
            start = len(" ".join([*words[:first], ""])) if first > 0 else 0
            text = " ".join(words[first:end])
            answers = {"text": [text], "answer_start": [start]} if first >= 0 else {"text": [], "answer_start": []}
            context = " ".join(words)
            lines.append({"id": f"{split}{number}", "question": asked[kind], "context": context, "answers": answers})
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return f"jsonl:{directory}"


def reversed_pair(draw: random.Random, least: int = 2, most: int = 5) -> tuple[str, str]:
    """A source of a few different words, and the same words in reverse order."""
    words = draw.sample(FILLERS, draw.randint(least, most))
    return " ".join(words), " ".join(reversed(words))


def write_text_pairs(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of sources and targets that can be learned: words in reverse order; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sizes.items()):
        draw = random.Random(seed)
        lines = [dict(zip(("source", "target"), reversed_pair(draw), strict=True)) for _ in range(count)]
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return f"jsonl:{directory}"


def relations(count: int, seed: int) -> list[dict[str, Any]]:
    """Records of two names of a text: the kinds of the names, and their order, decide the relation."""
    draw, made = random.Random(seed), []
    while len(made) < count:
        kinds = [draw.choice(tuple(NAMES)) for _ in range(2)]
        words = [draw.choice(FILLERS[:8]) for _ in range(draw.randrange(3, 12))]
        places = sorted(draw.sample(range(len(words)), 2))
        for place, kind in zip(places, kinds, strict=True):
            words[place] = draw.choice(NAMES[kind])
        starts = [sum(len(word) + 1 for word in words[:place]) for place in places]
        sides = [
            {"start": start, "end": start + len(words[place]), "type": kind}
            for start, place, kind in zip(starts, places, kinds, strict=True)
        ]
        relation = {"PERLOC": "visit(e1,e2)", "LOCPER": "visit(e2,e1)"}.get("".join(kinds), "Other")
        made.append({"text": " ".join(words), "head": sides[0], "tail": sides[1], "relation": relation})
    return made


def write_relations(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of splits of `relations`; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sizes.items()):
        lines = [json.dumps(record) + "\n" for record in relations(count, seed)]
        (directory / f"{split}.jsonl").write_text("".join(lines))
    return f"jsonl:{directory}"


def text_groups(count: int, seed: int) -> list[dict[str, Any]]:
    """Records of persons, of the places of the same numbers and of other places: nothing but training says which."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        one, other, third = draw.sample(range(len(NAMES["PER"])), 3)
        texts = []
        for kind, first, second in (("PER", one, other), ("LOC", one, other), ("LOC", other, third)):
            words = [draw.choice(FILLERS[:8]) for _ in range(draw.randrange(0, 4))]
            texts.append(" ".join([NAMES[kind][first], *words, NAMES[kind][second]]))
        anchor, positive, negative = texts
        made.append({"anchor": anchor, "positive": positive, "negative": negative, "score": draw.choice((1.0, 4.0))})
    return made


def write_groups(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of splits of `text_groups`; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sizes.items()):
        lines = [json.dumps(record) + "\n" for record in text_groups(count, seed)]
        (directory / f"{split}.jsonl").write_text("".join(lines))
    return f"jsonl:{directory}"


def write_nested(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes a folder of sentences whose names of two words have one of another type inside; returns its URI."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(sizes.items()):
        lines = []
        for words, tags in sentences(count, seed):
            spans = [{"start": a, "end": b, "label": kind} for a, b, kind in entity_spans(tags)]
            spans += [
                {"start": one["end"] - 1, "end": one["end"], "label": "LAST"}
                for one in spans
                if one["end"] - one["start"] > 1
            ]
            lines.append({"tokens": words, "entities": spans})
        (directory / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return f"jsonl:{directory}"


def write_images(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES, side: int = 8) -> str:
    """Writes a folder a split and class of PNG files, dark or light ones with noise; returns its URI."""
    from PIL import Image

    for seed, (split, count) in enumerate(sizes.items()):
        draw = np.random.default_rng(seed)
        for number in range(count):
            label = ("dark", "light")[number % 2]
            pixels = draw.integers(0, 100, (side, side, 3)) + (100 if label == "light" else 20)
            path = directory / split / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return f"images:{directory}"


def write_audio(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES, rate: int = 8000) -> str:
    """Writes a folder a split and class of wav files, low or high tones of at most half a second; returns its URI."""
    import soundfile

    for seed, (split, count) in enumerate(sizes.items()):
        draw = np.random.default_rng(seed)
        for number in range(count):
            label = ("high", "low")[number % 2]
            time = np.arange(round(rate * draw.uniform(0.2, 0.5))) / rate
            pitch = draw.uniform(1500, 2500) if label == "high" else draw.uniform(200, 500)
            wave = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.01 * draw.normal(size=len(time))
            path = directory / split / label / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, rate, subtype="PCM_16")
    return f"audio:{directory}"
