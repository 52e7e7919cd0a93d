"""Tagged sentences to the files that labelling tools and other libraries read: the way back from `sources.read_tagged`.

A format is a function here and an entry in WRITERS. Formats of characters get the text as it was read, or words joined
by spaces where the source has words alone; formats of words get the words that sentences have.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.spans import CharSpan
from jaxfm.data.text.tagging import entity_spans, write_tags

# Label Studio's names of the parts of a labelling configuration of texts with entities.
_FROM, _TO = "label", "text"


@dataclasses.dataclass(frozen=True)
class Writer:
    """A format that sentences are written in.

    Attributes:
      write: writes the sentences of one split; takes them, a folder, the split's name and the tag scheme.
      words: whether it has words, so that an entity that ends inside one takes the whole word.
      schemes: whether its tags may be of any scheme.
      source: what reads it again, "conll:" of `conll:DIR`.
      doc: for --help.
    """

    write: Callable[[Sequence[TaggedSentence], pathlib.Path, str, str], None]
    words: bool
    schemes: bool
    source: str
    doc: str


def text_and_spans(sentence: TaggedSentence) -> tuple[str, list[CharSpan]]:
    """Returns a sentence's text and its entities in characters; words alone are joined by spaces."""
    if sentence.marked:
        return sentence.marked.text, list(sentence.marked.spans)
    ends = list(itertools.accumulate(len(word) + 1 for word in sentence.words))
    starts = [end - len(word) - 1 for end, word in zip(ends, sentence.words, strict=True)]
    spans = [(starts[first], ends[last - 1] - 1, kind) for first, last, kind in entity_spans(sentence.tags)]
    return " ".join(sentence.words), spans


def tagged_line(sentence: TaggedSentence, document: int, *, in_text: bool) -> dict[str, Any]:
    """Returns a sentence as a record of `jsonl:`, its entities in characters of its text or as tags of its words."""
    if not in_text:
        return {"tokens": list(sentence.words), "ner_tags": list(sentence.tags), "document": document}
    text, spans = text_and_spans(sentence)
    return {"text": text, "entities": [{"start": a, "end": b, "label": kind} for a, b, kind in spans]} | {
        "document": document
    }


def documents(sentences: Iterable[TaggedSentence]) -> Iterator[list[TaggedSentence]]:
    """Yields the sentences of each document."""
    for _, own in itertools.groupby(sentences, key=lambda sentence: sentence.document):
        yield list(own)


def write_conll(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT.conll: word and tag with a tab between them, an empty line after each sentence.

    Documents of several sentences begin with a line -DOCSTART-.
    """
    found = list(documents(sentences))
    marked = any(len(own) > 1 for own in found)
    with open(folder / f"{split}.conll", "w", encoding="utf-8", newline="\n") as file:
        for own in found:
            if marked:
                file.write("-DOCSTART-\tO\n\n")
            for sentence in own:
                tags = write_tags(entity_spans(sentence.tags), len(sentence.words), scheme)
                rows = (f"{word}\t{tag}\n" for word, tag in zip(sentence.words, tags, strict=True))
                file.write("".join(rows) + "\n")


def write_conllu(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT.conllu: the ten columns of CoNLL-U, the tag in the last one (`ner=B-PER`).

    Where the text is known, its comment stands above, and SpaceAfter=No where two words touch.
    """
    found = list(documents(sentences))
    marked = any(len(own) > 1 for own in found)
    with open(folder / f"{split}.conllu", "w", encoding="utf-8", newline="\n") as file:
        for number, own in enumerate(found, start=1):
            if marked:
                file.write(f"# newdoc id = {number}\n")
            for sentence in own:
                text, _ = text_and_spans(sentence)
                file.write(f"# text = {' '.join(text.split())}\n" + "".join(_conllu_rows(sentence, scheme)) + "\n")


def _conllu_rows(sentence: TaggedSentence, scheme: str) -> Iterator[str]:
    tags = write_tags(entity_spans(sentence.tags), len(sentence.words), scheme)
    offsets = sentence.marked.offsets if sentence.marked else None
    for at, (word, tag) in enumerate(zip(sentence.words, tags, strict=True)):
        touches = offsets is not None and at + 1 < len(offsets) and offsets[at][1] == offsets[at + 1][0]
        misc = f"ner={tag}{'|SpaceAfter=No' if touches else ''}"
        yield "\t".join([str(at + 1), word, *["_"] * 7, misc]) + "\n"


def write_tokens(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT.jsonl: {"tokens": [...], "ner_tags": [...]} a sentence, as data sets of the hub have them."""
    _write_lines(
        folder / f"{split}.jsonl",
        (
            {
                "tokens": list(sentence.words),
                "ner_tags": write_tags(entity_spans(sentence.tags), len(sentence.words), scheme),
                "document": sentence.document,
            }
            for sentence in sentences
        ),
    )


def write_spans(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT.jsonl: {"text": ..., "entities": [{"start", "end", "label"}]} a sentence, also read by Prodigy."""
    del scheme
    _write_lines(
        folder / f"{split}.jsonl",
        (
            {
                "text": text,
                "entities": [{"start": a, "end": b, "label": kind} for a, b, kind in spans],
                "document": number,
            }
            for text, spans, number in _texts(sentences)
        ),
    )


def write_doccano(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT.jsonl: {"text": ..., "label": [[start, end, type], ...]} a sentence, which doccano imports."""
    del scheme
    rows = ({"text": text, "label": [list(span) for span in spans]} for text, spans, _ in _texts(sentences))
    _write_lines(folder / f"{split}.jsonl", rows)


def write_label_studio(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT.json: an array of Label Studio's tasks with one annotation each."""
    del scheme
    tasks = [
        {
            "data": {"text": text},
            "annotations": [{"result": [_result(text, *span) for span in spans]}],
        }
        for text, spans, _ in _texts(sentences)
    ]
    with open(folder / f"{split}.json", "w", encoding="utf-8", newline="\n") as file:
        json.dump(tasks, file, ensure_ascii=False, indent=1)
        file.write("\n")


def _result(text: str, start: int, end: int, kind: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "text": text[start:end], "labels": [kind]}
    return {"from_name": _FROM, "to_name": _TO, "type": "labels", "value": value}


def write_brat(sentences: Sequence[TaggedSentence], folder: pathlib.Path, split: str, scheme: str) -> None:
    """Writes SPLIT/doc_N.txt and .ann: a document each, a sentence a line, an entity a line T1, T2 ...

    A line end inside a sentence becomes a space, as a line is a sentence there; offsets stay.
    """
    del scheme
    (folder / split).mkdir()
    found = list(documents(sentences))
    width = len(str(len(found)))
    for number, own in enumerate(found, start=1):
        text, lines = "", []
        for sentence in own:
            part, spans = text_and_spans(sentence)
            part = "".join(" " if character in "\r\n" else character for character in part)
            for start, end, kind in spans:
                surface = part[start:end]
                lines.append(f"T{len(lines) + 1}\t{kind} {len(text) + start} {len(text) + end}\t{surface}\n")
            text += f"{part}\n"
        path = folder / split / f"doc_{number:0{width}}"
        # As bytes: offsets count every character, so no line end may be changed.
        path.with_suffix(".txt").write_bytes(text.encode())
        path.with_suffix(".ann").write_bytes("".join(lines).encode())


WRITERS: Mapping[str, Writer] = {
    "conll": Writer(write_conll, True, True, "conll:", "word and tag a line"),
    "conllu": Writer(write_conllu, True, True, "conll:", "CoNLL-U, the tag in its last column"),
    "tokens": Writer(write_tokens, True, True, "jsonl:", "JSON lines of tokens and ner_tags"),
    "jsonl": Writer(write_spans, False, False, "jsonl:", "JSON lines of text and entities in characters"),
    "brat": Writer(write_brat, False, False, "brat:", "brat's .txt and .ann files"),
    "doccano": Writer(write_doccano, False, False, "jsonl:", "doccano's JSON lines"),
    "label_studio": Writer(write_label_studio, False, False, "jsonl:", "Label Studio's JSON"),
}


def _texts(sentences: Iterable[TaggedSentence]) -> Iterator[tuple[str, list[CharSpan], int]]:
    for sentence in sentences:
        yield *text_and_spans(sentence), sentence.document


def _write_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
