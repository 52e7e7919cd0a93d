"""A generated corpus of entities inside entities, for a first run and for comparisons: its scores say nothing of text.

Each entity of a sentence is made by a pattern, such as `University of LOC`, whose parts are entities again, up to three
deep. Some places and names occur outside the training split alone.
"""

import random

from jaxfm.data.records.sources import TaggedSentence, TaggedSplit
from jaxfm.data.records.spans import flat_spans
from jaxfm.data.text.tagging import Span, write_tags

SIZES = {"train": 600, "valid": 150, "test": 200}
_SEEN = 0.7  # share of the names that training has
_PLACES = (
    "Rome Oslo Kyoto Lima Quito Dakar Delft Essen Ghent Hull Turin Porto Sofia Riga Leeds Cork Bergen Malaga Lyon Graz "
    "Basel Tampere Aarhus Lagos Accra Cusco Osaka Busan Perth Derby"
).split()
_FIRST = (
    "Ada Alan Emmy Carl David Grace Hedy Ivan Jane Kurt Lise Mary Niels Olga Paul Rosa Sofie Tycho Vera Wanda".split()
)
_LAST = (
    "Lovelace Turing Noether Gauss Hilbert Hopper Lamarr Pavlov Goodall Weber Meitner Curie Bohr Ladyzhen Erdos Luxem "
    "Brahe Rubin Boole Frege"
).split()
_NAMES = {"PLACE": _PLACES, "FIRST": _FIRST, "LAST": _LAST}
# Patterns of each type, the more words the rarer; capitals are types again, or a name of such a list.
_PATTERNS = {
    "LOC": ("PLACE", "PLACE", "North PLACE", "the port of LOC"),
    "PER": ("FIRST LAST", "FIRST", "FIRST LAST"),
    "ORG": ("University of LOC", "Bank of LOC", "LOC Chamber Orchestra", "PER Foundation", "Friends of ORG"),
    "ROLE": ("mayor of LOC", "director of the ORG", "treasurer of the ORG", "secretary of PER"),
}
_SENTENCES = (
    "PER met the ROLE .",
    "the ORG hired PER from LOC .",
    "in LOC the ROLE opened a museum .",
    "yesterday the ORG and the ORG signed a treaty .",
    "the ROLE thanked PER in LOC .",
    "nobody in the office had heard of it .",
)


def build(seed: int = 0) -> dict[str, list[tuple[list[str], list[Span]]]]:
    """Returns for each split its sentences: words and entities (first word, one past the last, type), in order."""
    draw = random.Random(seed)
    corpus = {}
    for split, size in SIZES.items():
        share = _SEEN if split == "train" else 1.0
        known: dict[str, list[str]] = {name: [*every[: round(share * len(every))]] for name, every in _NAMES.items()}
        corpus[split] = [_sentence(draw, known) for _ in range(size)]
    return corpus


def read() -> dict[str, TaggedSplit]:
    """Returns the corpus as the splits of a source."""
    splits = {}
    for split, sentences in build().items():
        read = []
        for number, (words, spans) in enumerate(sentences):
            flat, overlapping = flat_spans(spans)
            tags, origin = write_tags(flat, len(words)), f"quickstart/{split}[{number}]"
            read.append(TaggedSentence(tuple(words), tuple(tags), number, origin, overlapping=tuple(overlapping)))
        splits[split] = TaggedSplit(tuple(read), "BIO", f"{split}: {len(read)} sentences from quickstart (synthetic)")
    return splits


def _sentence(draw: random.Random, names: dict[str, list[str]]) -> tuple[list[str], list[Span]]:
    words, spans = [], []
    for part in draw.choice(_SENTENCES).split():
        _add(part, draw, names, words, spans)
    return words, sorted(spans)


def _add(part: str, draw: random.Random, names: dict[str, list[str]], words: list[str], spans: list[Span]) -> None:
    """Adds a word, a name, or an entity with its parts."""
    if part in names:
        words.append(draw.choice(names[part]))
    elif part in _PATTERNS:
        start = len(words)
        for inner in draw.choice(_PATTERNS[part]).split():
            _add(inner, draw, names, words, spans)
        spans.append((start, len(words), part))
    else:
        words.append(part)
