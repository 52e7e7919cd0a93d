"""What a tagger says of a text, as a tagged sentence: pseudo-labels."""

from collections.abc import Mapping
from typing import Any

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.spans import MarkedText
from jaxfm.tasks.record_words import Words


def predicted_sentence(result: Mapping[str, Any], splitter: str) -> TaggedSentence:
    """Returns a result of the predictor as a sentence, its words those that the predictor took.

    `splitter` is that of the run, which makes words of a raw text; the text needs one word at least.
    """
    words = Words.of_record(result, splitter)
    starts = {start: word for word, (start, _) in enumerate(words.offsets)}
    ends = {end: word for word, (_, end) in enumerate(words.offsets)}
    tags = ["O"] * len(words.offsets)
    for entity in result["entities"]:
        first, last = starts[entity["start"]], ends[entity["end"]]
        tags[first : last + 1] = [f"B-{entity['type']}", *[f"I-{entity['type']}"] * (last - first)]
    spans = tuple((entity["start"], entity["end"], entity["type"]) for entity in result["entities"])
    marked = None if words.given is not None else MarkedText(words.text, spans, tuple(words.offsets))
    return TaggedSentence(
        tuple(words.text[start:end] for start, end in words.offsets), tuple(tags), 0, "predicted", marked
    )
