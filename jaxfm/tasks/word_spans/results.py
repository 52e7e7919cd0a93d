"""Entities found in a text as a result: a JSON value, and lines for a person."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfm.data.text.packing import PackedRows
from jaxfm.tasks.record_words import Words
from jaxfm.tasks.word_spans.spans import FoundSpans, SpanRows


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as words, and the packed rows of those words."""

    texts: tuple[Words, ...]
    encoded: SpanRows

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows


def span_result(text: Words, found: FoundSpans | None = None) -> dict[str, Any]:
    """Returns {"text", "entities": [{"type", "text", "start", "end", "score"}]}.

    Entities are in order of their starts, the longer first. Where a record had words, the result has them too
    ("tokens"), and each entity its first word and the one after its last ("start_word", "end_word").
    """
    entities = []
    pairs = [] if found is None else zip(found.spans, found.scores, strict=True)
    for (first, end, kind), score in sorted(pairs, key=lambda each: (each[0][0], -each[0][1])):
        start, stop = text.offsets[first][0], text.offsets[end - 1][1]
        entity = {"type": kind, "text": text.text[start:stop], "start": start, "end": stop}
        if text.given is not None:
            entity |= {"start_word": first, "end_word": end}
        entities.append(entity | {"score": round(score, 4)})
    given = {} if text.given is None else {"tokens": list(text.given)}
    return {"text": text.text, **given, "entities": entities}


def span_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns the text, then a line an entity: characters, type, score, text; one inside another is moved in."""
    found, open_ends = [], []
    for entity in result["entities"]:
        open_ends = [end for end in open_ends if end > entity["start"]]
        found.append(
            f"  {entity['start']:>5}-{entity['end']:<5} {entity['type']:<12} {entity['score']:.3f}  "
            f"{'  ' * len(open_ends)}{entity['text']}"
        )
        open_ends.append(entity["end"])
    return [result["text"], *(found or ["  (no entities)"])]
