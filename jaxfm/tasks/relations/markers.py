"""Which markers a run has, and their rows of the word embedding."""

import collections
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray
from jaxfm.data.records.relations import RelationExample
from jaxfm.errors import UserError
from jaxfm.hub.vocabulary import with_entries
from jaxfm.tasks.relations.spec import AUTO, NONE, PLAIN, TYPED, marker_names

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LISTED = 8  # markers in a note


class Marking(NamedTuple):
    """How entities are marked: `RelationSpec.markers`, and the types that markers are made for."""

    markers: str
    head_types: tuple[str, ...]
    tail_types: tuple[str, ...]


class Grown(NamedTuple):
    """An encoder whose word embedding has rows for markers.

    Attributes:
      encoder: with its `vocab_size`.
      params: path -> array.
      starts: tokens where heads start, one a type, and the same of tails.
      notes: sentences for the log.
    """

    encoder: EncoderConfig
    params: Mapping[str, HostArray]
    starts: tuple[tuple[int, ...], tuple[int, ...]]
    notes: tuple[str, ...]


def choose_marking(asked: str, train: Sequence[RelationExample]) -> tuple[Marking, str]:
    """Returns how entities are marked, and a line for the log.

    Raises UserError where markers with types are asked for and a training pair has none.
    """
    untyped = [each for each in train if not (each.head.type and each.tail.type)]
    if asked == TYPED and untyped:
        raise UserError(
            f"{untyped[0].origin}: an entity has no type, but config.task.markers is typed ({len(untyped):,} of the "
            f"{len(train):,} training pairs). Give its type, or set config.task.markers=plain."
        )
    why = ""
    if asked == AUTO:
        asked = PLAIN if untyped else TYPED
        some = 0 < len(untyped) < len(train)
        why = "the entities have types" if asked == TYPED else "the entities have no types"
        why = f" ({f'{len(untyped):,} of {len(train):,} training pairs have no types' if some else why})"
    types = ((), ())
    if asked == TYPED:
        types = tuple(sorted({each.head.type for each in train})), tuple(sorted({each.tail.type for each in train}))
    said = "none: the text alone is judged, by its first token" if asked == NONE else asked
    return Marking(asked, *types), f"markers: {said}{why}"


def add_markers(
    marking: Marking,
    tokenizer: "PreTrainedTokenizerFast",
    encoder: EncoderConfig,
    params: Mapping[str, HostArray],
) -> Grown:
    """Adds the markers to the tokenizer, which is changed, and rows of the word embedding where it has none for them.

    Markers that are there already, of an earlier run, keep their rows.
    """
    from transformers import AddedToken

    names = marker_names(*marking)
    if not names:
        return Grown(encoder, params, ((), ()), ())
    known = tokenizer.get_vocab()
    new = [name for name in names if name not in known]
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in new], special_tokens=True)
    ids = dict(zip(names, map(int, tokenizer.convert_tokens_to_ids(names)), strict=True))  # type: ignore[arg-type]
    assert len(set(ids.values())) == len(names), "each marker has its number"
    rows, entries = encoder.vocab_size, max(ids.values()) + 1
    listed = ", ".join(new[:_LISTED]) + (f" and {len(new) - _LISTED:,} more" if len(new) > _LISTED else "")
    if not new:
        note = f"markers: the tokenizer and the word embedding have all {len(names)} of them"
    elif entries <= rows:
        note = f"markers: {len(new)} new tokens ({listed}), in rows of the word embedding that no token had"
    else:
        encoder, params = with_entries(encoder, params, entries)
        note = (
            f"markers: {len(new)} new tokens ({listed}); the word embedding grew by {entries - rows:,} rows, from "
            f"{rows:,} to {entries:,}"
        )
    per_side = collections.defaultdict(list)
    for name in names:
        if not name.startswith("[/"):
            per_side[name[1:3]].append(ids[name])
    return Grown(encoder, params, (tuple(per_side["E1"]), tuple(per_side["E2"])), (note,))
