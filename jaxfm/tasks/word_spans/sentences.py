"""Sentences whose spans of words are scored: what is refused of them, and a line for the log."""

from collections.abc import Iterable, Mapping, Sequence

from jaxfm.data.records.sources import TaggedSentence, TaggedSplit
from jaxfm.data.records.tagged_builder import OVERLAPPING
from jaxfm.errors import UserError
from jaxfm.tasks.word_spans.spans import SpanRows, crossing_pair, entities_of, gold_classes


def refuse_crossing(sentences: Iterable[TaggedSentence], allowing: str) -> None:
    """Raises UserError for entities that overlap, neither of them inside the other.

    `allowing` is the value of the key `task.overlaps` with which they may.
    """
    for sentence in sentences:
        pair = crossing_pair(entities_of(sentence).in_words) if sentence.overlapping else None
        if pair is not None:
            shown = " and ".join(f"{' '.join(sentence.words[start:end])!r} ({kind})" for start, end, kind in pair)
            raise UserError(
                f"{sentence.origin}: the entities {shown} cross: they overlap, and neither is inside the other. "
                f"Correct their borders, or set config.task.overlaps={allowing!r}, with which entities may cross."
            )


def spans_note(
    found: TaggedSplit,
    sentences: Sequence[TaggedSentence],
    index: Mapping[str, int],
    max_width: int,
    encoded: SpanRows,
) -> str:
    """Returns a line for the log: how many entities overlap, and how many can never be found, and why.

    Args:
      found: what was read of the split.
      sentences: the same, in words as the model reads them.
      index: type -> its class.
      max_width: most words of a span.
      encoded: the rows of the sentences.
    """
    total = cut = 0
    wide: list[str] = []
    for sentence, owner_WK in zip(sentences, encoded.owners, strict=True):
        spans = entities_of(sentence).in_words
        total += len(spans)
        _, left = gold_classes(spans, index, len(sentence.words), max_width)
        wide += [sentence.origin] * len(left)
        cut += sum(0 < end - start <= max_width and owner_WK[start, end - start - 1] < 0 for start, end, _ in spans)
    overlapping = sum(len(sentence.overlapping) for sentence in sentences)
    head = found.note.partition(";")[0]
    more = [text for text in found.repairs if OVERLAPPING not in text]
    note = f"{head}; {total:,} entities in all, {overlapping:,} of them inside or across another"
    note += "".join(f"; {text}" for text in more)
    if wide:
        note += (
            f"; {len(wide):,} can never be found: of more than {max_width} words (task.max_width), or with the "
            f"words of another entity (first: {wide[0]})"
        )
    if cut:
        note += f"; {cut:,} lie whole in no window: set a greater task.overlap or data.window"
    return note
