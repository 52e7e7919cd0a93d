"""The pairs that a classifier has most wrong: text and entities, what was asked for and what was predicted."""

# E pairs, C classes

from collections.abc import Sequence

import numpy as np

from jaxfm.data.records.relations import RelationExample
from jaxfm.observe.examples import SHOWN, Mark, View, WrongExample, without_overlaps
from jaxfm.tasks.relations.spec import RelationSpec


def worst_pairs(
    spec: RelationSpec, examples: Sequence[RelationExample], found_EC: np.ndarray, loss_E: np.ndarray
) -> tuple[WrongExample, ...]:
    """Returns what is predicted wrongly, that of the largest loss first, at most `SHOWN`.

    Args:
      spec: of the model.
      examples: with their relations.
      found_EC: probabilities.
      loss_E: of each pair, nats.
    """
    shown = []
    for index in np.argsort(-loss_E, kind="stable").tolist():
        example, row = examples[index], found_EC[index]
        best = int(np.argmax(row))
        if spec.labels[best] == example.relation:
            continue
        facts: tuple[tuple[str, str | float], ...] = (
            ("gold", str(example.relation)),
            ("predicted", spec.labels[best]),
            ("probability", float(row[best])),
            ("of the gold class", float(row[spec.labels.index(str(example.relation))])),
            ("loss", float(loss_E[index])),
        )
        shown.append(WrongExample(example.origin, (View("text", example.text, _marks(example)),), facts))
        if len(shown) == SHOWN:
            break
    return tuple(shown)


def _marks(example: RelationExample) -> tuple[Mark, ...]:
    """Returns both entities; their names say nothing of right or wrong, so both are marked as what is asked about."""
    sides = (("e1", example.head), ("e2", example.tail))
    named = [(f"{name} {entity.type}".strip(), entity) for name, entity in sides]
    return without_overlaps([Mark(entity.start, entity.end, name, "right") for name, entity in named])
