"""Which pairs of a text's entities are judged: of one sentence, of types that were related in training."""

import dataclasses
import itertools
from collections.abc import Sequence

from jaxfm.data.records.relation_forms import Entity
from jaxfm.data.records.relations import RelationExample
from jaxfm.data.text.sentences import sentences_of
from jaxfm.errors import UserError
from jaxfm.tasks.relations.spec import TYPED, RelationSpec


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pairs of a text.

    Attributes:
      pairs: each with its sentence as the text.
      shifts: where the sentence of each begins in the text.
      unrelated_types: number of ordered pairs of one sentence left out, as their types were never related in training.
    """

    pairs: tuple[RelationExample, ...]
    shifts: tuple[int, ...]
    unrelated_types: int


def candidates_of(spec: RelationSpec, text: str, entities: Sequence[Entity], origin: str) -> Candidates:
    """Returns all ordered pairs of different entities of one sentence whose types were related in training.

    Without types in training all pairs are taken. Where the head always came first in training (the class then says the
    direction), so it does here, and each two entities are one pair. The model reads the sentence alone.

    Raises UserError naming `origin` for an entity without a type where markers have types.
    """
    known = set(zip(spec.pair_heads, spec.pair_tails, strict=True))
    if spec.markers == TYPED:
        types = ", ".join(dict.fromkeys((*spec.pair_heads, *spec.pair_tails)))
        for entity in entities:
            if not entity.type:
                raise UserError(
                    f"{origin}: the entity {text[entity.start : entity.end]!r} has no type, but the markers of this "
                    f"model have types. Give its type, one of {types}."
                )
    pairs: list[RelationExample] = []
    shifts: list[int] = []
    unrelated = 0
    different = list(dict.fromkeys(entities))
    for start, end in sentences_of(text, [entity[:2] for entity in different]):
        inside = sorted(each for each in different if start <= each.start and each.end <= end)
        for head, tail in itertools.permutations(inside, 2):
            if head[:2] == tail[:2] or (spec.head_first and head.start > tail.start):
                continue
            if known and head.type and tail.type and (head.type, tail.type) not in known:
                unrelated += 1
                continue
            moved = [each._replace(start=each.start - start, end=each.end - start) for each in (head, tail)]
            pairs.append(RelationExample(text[start:end], moved[0], moved[1], None, origin))
            shifts.append(start)
    return Candidates(tuple(pairs), tuple(shifts), unrelated)


def type_problem(spec: RelationSpec, types: Sequence[str]) -> str:
    """Returns why no two entities of these types are ever judged; "" where some are."""
    known = list(zip(spec.pair_heads, spec.pair_tails, strict=True))
    if not known or any(head in types and tail in types for head, tail in known):
        return ""
    related = ", ".join(f"{head} to {tail}" for head, tail in known[:10])
    more = f" and {len(known) - 10:,} more" if len(known) > 10 else ""
    return (
        f"it finds entities of the types {', '.join(types)}, but no two of these were related in training, which has "
        f"{related}{more}. Take a run whose types have the same names."
    )
