"""The relations of `quickstart`: generated sentences with their entities and what relates these, without a download.

The text is SYNTHETIC, as that of `jaxfm.data.records.quickstart`, whose names and pattern language it takes: a score
shows that training works, and says nothing about real text. The types are those of that corpus, so that a run on it
finds the entities which a run on this one relates. No pattern and no part of a name of one split occurs in another.
"""

from importlib import resources
from typing import Any, NamedTuple

from jaxfm.data.records import quickstart
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.data.text.tagging import entity_spans

SIZES = {"train": 1000, "valid": 150, "test": 300}


class Pattern(NamedTuple):
    """A sentence pattern and its relations: (name, number of the head, number of the tail) among its entities."""

    text: str
    relations: tuple[tuple[str, int, int], ...]


def read_patterns() -> dict[str, list[Pattern]]:
    """Returns split -> patterns of `quickstart_relations.txt`."""
    text = (resources.files("jaxfm.data") / "quickstart_relations.txt").read_text(encoding="utf-8")
    patterns: dict[str, list[Pattern]] = {}
    found: list[Pattern] = []
    for line in text.splitlines():
        if line.startswith("["):
            found = patterns.setdefault(line.strip("[]"), [])
        elif line.strip() and not line.startswith("#"):
            sentence, _, named = line.partition(" |")
            relations = [part.split() for part in named.split(";") if part.strip()]
            found.append(Pattern(sentence, tuple((name, int(head), int(tail)) for name, head, tail in relations)))
    assert patterns.keys() == SPLIT_NAMES.keys()
    return patterns


def build(seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Returns split -> records {"tokens", "entities", "relations"}, positions counting words; of `seed` alone.

    Raises UserError when the package Faker is not installed.
    """
    corpus = {}
    for split, patterns in read_patterns().items():
        filled = quickstart.fill_patterns([each.text for each in patterns], split, SIZES[split], seed)
        corpus[split] = [_record(words, tags, patterns[number]) for number, (words, tags) in filled]
    return corpus


def _record(words: list[str], tags: list[str], pattern: Pattern) -> dict[str, Any]:
    entities = [{"start": start, "end": end, "type": kind} for start, end, kind in entity_spans(tags)]
    relations = [{"head": head, "tail": tail, "label": name} for name, head, tail in pattern.relations]
    return {"tokens": words, "entities": entities, "relations": relations}
