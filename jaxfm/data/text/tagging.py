"""Tag schemes of token classification: which one a file uses, and any of them as strict BIO.

A tag is `O` or `PREFIX-TYPE`. Each prefix means the same in every scheme that has it, so the entities can be read
without knowing the scheme: B, S and U start one; I, E and L carry one on, or start one where none of their type is
open; E, L, S and U end it (conlleval's reading, Tjong Kim Sang and De Meulder 2003). Hence no entity is lost to a wrong
prefix, and the scheme found matters only for the log and for counting the tags that break it.
"""

# C classes

import collections
import functools
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxfm.errors import UserError

TAG = re.compile(r"O|[BIESLU]-\S(?:.*\S)?", re.DOTALL)
TAG_RULE = "a tag is O or PREFIX-TYPE, such as B-PER, with one of the prefixes B, I, E, S, L, U"

# (tag of a single word, first, inside, last) per scheme. IOB1 writes B only between two touching entities of one type.
_PREFIXES = {"BIO": "BBII", "IOB1": "IIII", "IO": "IIII", "BIOES": "SBIE", "BILOU": "UBIL"}
SCHEMES = tuple(_PREFIXES)

Span = tuple[int, int, str]  # first word, one past the last word, type


@functools.lru_cache(maxsize=4096)
def split_tag(tag: str) -> tuple[str, str]:
    """Returns (prefix, type) of a tag; ("O", "") for O. Raises UserError where it is not a tag."""
    if not TAG.fullmatch(tag):
        raise UserError(f"{tag!r} is not a tag: {TAG_RULE}.")
    return (tag[0], tag[2:])


def detect_scheme(sequences: Iterable[Sequence[str]]) -> str:
    """Returns "BIO", "IOB1", "IO", "BIOES" or "BILOU" for all sequences of one source together.

    E- or S- anywhere: BIOES; L- or U-: BILOU. Only I-: IO. Else BIO against IOB1 is a vote: a B- where IOB1 would write
    I- speaks for BIO, an I- that starts an entity for IOB1; a tie is BIO. Nothing but O is BIO.
    Raises UserError where BIOES and BILOU are mixed.
    """
    seen: set[str] = set()
    for_bio = for_iob1 = 0
    for tags in sequences:
        before = ""
        for tag in tags:
            if tag == "O":
                before = ""
                continue
            prefix, kind = split_tag(tag)
            seen.add(prefix)
            if kind != before:
                for_bio += prefix == "B"
                for_iob1 += prefix == "I"
            before = kind
    if seen & set("ES") and seen & set("LU"):
        raise UserError(
            "the tags mix two schemes: E-/S- belong to BIOES, L-/U- to BILOU. Write all of them in one scheme."
        )
    if seen & set("ES"):
        return "BIOES"
    if seen & set("LU"):
        return "BILOU"
    if "B" not in seen and "I" in seen:
        return "IO"
    return "IOB1" if for_iob1 > for_bio else "BIO"


def entity_spans(tags: Sequence[str]) -> list[Span]:
    """Returns the entities of one tagged sentence, in any scheme, as (start, end, type) in words, `end` exclusive."""
    spans: list[Span] = []
    start, kind = 0, ""  # the open entity; no type: none is open
    for index, tag in enumerate(tags):
        if tag == "O" and not kind:
            continue
        prefix, this = split_tag(tag)
        if kind and (this != kind or prefix in "BSU"):
            spans.append((start, index, kind))
            kind = ""
        if this and not kind:
            start, kind = index, this
        if kind and prefix in "ESLU":
            spans.append((start, index + 1, kind))
            kind = ""
    if kind:
        spans.append((start, len(tags), kind))
    return spans


def write_tags(spans: Iterable[Span], length: int, scheme: str = "BIO") -> list[str]:
    """Returns the tags of a sentence of `length` words for spans in order, none overlapping: inverse of `entity_spans`.

    IO and IOB1 cannot say everything: IO runs touching entities of one type together.
    """
    single, first, inside, last = _PREFIXES[scheme]
    tags = ["O"] * length
    end_before, kind_before = -1, ""
    for start, end, kind in spans:
        assert end_before <= start < end <= length, f"bad span {(start, end, kind)} in {length} words"
        tags[start + 1 : end] = [f"{inside}-{kind}"] * (end - start - 1)
        tags[end - 1] = f"{last}-{kind}"
        tags[start] = f"{first if end - start > 1 else single}-{kind}"
        if scheme == "IOB1" and start == end_before and kind == kind_before:
            tags[start] = f"B-{kind}"
        end_before, kind_before = end, kind
    return tags


class AllowedTags(NamedTuple):
    """Which sequences of tags a scheme allows.

    Attributes:
      start: bool [C], may a sentence start with the tag?
      end: bool [C], may a sentence end with it?
      pairs: bool [C, C], may the tag of the row be followed by the tag of the column?
    """

    start: np.ndarray
    end: np.ndarray
    pairs: np.ndarray


def allowed_tags(labels: Sequence[str]) -> AllowedTags:
    """Returns which sequences of these tags are right in the scheme that they are of, without conlleval's repairs.

    The scheme is read from the labels of each type, so BIO, IO, BIOES and BILOU, and their mixtures, need no name: B, S
    and U start an entity. I, E and L carry on a B or I of their type; where a type has no B they start an entity as
    well. Where a type has E or L, an open entity must go on until one of them. Labels of IOB1 look like those of BIO
    and are read as these. "O" must be one of the labels, so that sentences of any length have an allowed sequence.
    """
    assert "O" in labels, "a tagger has the tag O"
    parts = [split_tag(label) for label in labels]
    prefixes = collections.defaultdict(set)
    for prefix, kind in parts:
        prefixes[kind].add(prefix)
    starts = np.asarray([prefix in "OBSU" or "B" not in prefixes[kind] for prefix, kind in parts])
    unfinished = np.asarray([prefix in "BI" and bool(prefixes[kind] & set("EL")) for prefix, kind in parts])
    carries_on = np.asarray(
        [
            [before in "BI" and prefix in "IEL" and kind == kind_before for prefix, kind in parts]
            for before, kind_before in parts
        ]
    )
    return AllowedTags(starts, ~unfinished, carries_on | (starts & ~unfinished[:, None]))
