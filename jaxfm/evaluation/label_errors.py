"""Labels that are probably wrong, with what they should be: of records, of sets of classes, of entities."""

# N labels, W words, C classes

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxfm.core.labels import LabelledRecord
from jaxfm.data.text.tagging import Span, entity_spans, write_tags
from jaxfm.evaluation.confident_learning import (
    MARGIN,
    NOISE_RATE,
    confident_joint,
    find_errors,
    find_label_set_errors,
    label_quality,
    suggested_classes,
)

NO_LABEL = "(none)"
OTHER_CLASS, OTHER_CLASSES = "other class", "other classes"
MISSING, NO_ENTITY, OTHER_TYPE, OTHER_BOUNDARIES, OTHER_ENTITIES = (
    "missing entity",
    "not an entity",
    "other type",
    "other boundaries",
    "other entities",
)


@dataclasses.dataclass(frozen=True)
class LabelError:
    """A label that is probably wrong.

    Attributes:
      split: of the record.
      record: its number in the split.
      origin: where it was read.
      kind: what is wrong, a few words.
      given: the class, the classes, or the entities as type and words.
      suggested: what it probably is.
      quality: of the label, 0 to 1; of an entity that of its worst word.
      classes: of a record: what is suggested.
      given_spans: of words: the entities that are tagged, (first word, one past the last, type).
      spans: of words: those that are suggested in their place.
    """

    split: str
    record: int
    origin: str
    kind: str
    given: str
    suggested: str
    quality: float
    classes: tuple[str, ...] = ()
    given_spans: tuple[Span, ...] = ()
    spans: tuple[Span, ...] = ()


@dataclasses.dataclass(frozen=True)
class SplitErrors:
    """What confident learning says of the labels of a split.

    Attributes:
      labels: their number: records, words, or classes of records.
      suspect: labels that are probably wrong.
      noise: estimated share of wrong labels.
      errors: the worst first.
      confusions: (given, true, estimated number), the most frequent first.
    """

    labels: int
    suspect: int
    noise: float
    errors: tuple[LabelError, ...]
    confusions: tuple[tuple[str, str, int], ...]


def find_label_errors(
    split: str,
    records: Sequence[LabelledRecord],
    probabilities: Sequence[np.ndarray],
    class_names: Sequence[str],
    *,
    words: bool,
    method: str = NOISE_RATE,
    score: str = MARGIN,
) -> SplitErrors:
    """Finds labels of a split that are probably wrong.

    Args:
      split: its name.
      records: with their classes.
      probabilities: [W, C] of each record, by models that were not trained on it.
      class_names: of the classes; of words tags in strict BIO.
      words: whether classes are tags of words.
      method: one of `confident_learning.FILTERS`.
      score: one of `confident_learning.SCORES`.
    """
    if not words and records[0].classes.dtype == bool:
        return _of_label_sets(split, records, np.concatenate(probabilities), class_names, method, score)
    labels_N: np.ndarray = np.concatenate([record.classes for record in records])
    probabilities_NC = np.concatenate(probabilities)
    joint = confident_joint(labels_N, probabilities_NC)
    found_N = find_errors(labels_N, probabilities_NC, method, joint)
    quality_N = label_quality(labels_N, probabilities_NC, score)
    if words:
        errors = _of_words(split, records, probabilities, class_names, found_N, quality_N)
    else:
        best_N = suggested_classes(labels_N, probabilities_NC)
        errors = (
            LabelError(
                split,
                number,
                records[number].origin,
                OTHER_CLASS,
                class_names[int(labels_N[number])],
                class_names[int(best_N[number])],
                float(quality_N[number]),
                (class_names[int(best_N[number])],),
            )
            for number in np.flatnonzero(found_N).tolist()
        )
    confusions = [
        (class_names[given], class_names[true], int(joint.joint[given, true]))
        for given, true in np.argwhere(joint.joint > 0).tolist()
        if given != true
    ]
    return SplitErrors(len(labels_N), int(found_N.sum()), joint.noise, _ranked(errors), _frequent(confusions))


def _of_label_sets(
    split: str,
    records: Sequence[LabelledRecord],
    probabilities_NC: np.ndarray,
    class_names: Sequence[str],
    method: str,
    score: str,
) -> SplitErrors:
    present_NC = np.concatenate([record.classes for record in records])
    found_NC = find_label_set_errors(present_NC, probabilities_NC, method)
    quality_NC, confusions, wrong = np.empty(probabilities_NC.shape), [], 0
    for index, name in enumerate(class_names):
        present_N = present_NC[:, index].astype(np.int64)
        both = np.stack([1.0 - probabilities_NC[:, index], probabilities_NC[:, index]], axis=1)
        quality_NC[:, index] = label_quality(present_N, both, score)
        joint = confident_joint(present_N, both).joint
        wrong += int(joint[0, 1] + joint[1, 0])
        pairs = ((NO_LABEL, name, int(joint[0, 1])), (name, NO_LABEL, int(joint[1, 0])))
        confusions += [pair for pair in pairs if pair[2]]

    def errors() -> Iterator[LabelError]:
        for number in np.flatnonzero(found_NC.any(axis=1)).tolist():
            suggested = tuple(_named(present_NC[number] ^ found_NC[number], class_names))
            given = ", ".join(_named(present_NC[number], class_names)) or NO_LABEL
            quality = float(quality_NC[number][found_NC[number]].min())
            said = ", ".join(suggested) or NO_LABEL
            yield LabelError(
                split, number, records[number].origin, OTHER_CLASSES, given, said, quality, suggested
            )  # fmt: skip

    labels = present_NC.size
    return SplitErrors(labels, int(found_NC.sum()), wrong / max(labels, 1), _ranked(errors()), _frequent(confusions))


def _of_words(
    split: str,
    records: Sequence[LabelledRecord],
    probabilities: Sequence[np.ndarray],
    class_names: Sequence[str],
    found_N: np.ndarray,
    quality_N: np.ndarray,
) -> Iterator[LabelError]:
    """Yields the entities of words that are probably wrong, with what the likeliest tags say in their place."""
    ends = np.cumsum([len(record.classes) for record in records])
    for number, (record, found_W, quality_W) in enumerate(
        zip(records, np.split(found_N, ends[:-1]), np.split(quality_N, ends[:-1]), strict=True)
    ):
        if not found_W.any():
            continue
        words = record.row["tokens"]
        given = entity_spans(_tags(record.classes, class_names))
        likeliest = entity_spans(_tags(probabilities[number].argmax(axis=1), class_names))
        for start, end, own, other in changed_regions(given, likeliest):
            if not found_W[start:end].any():
                continue
            quality = float(quality_W[start:end][found_W[start:end]].min())
            said = (described_spans(own, words), described_spans(other, words))
            yield LabelError(
                split, number, record.origin, kind_of(own, other), *said, quality, (), tuple(own), tuple(other)
            )  # fmt: skip


def changed_regions(given: Sequence[Span], other: Sequence[Span]) -> Iterator[tuple[int, int, list[Span], list[Span]]]:
    """Yields stretches of words where two lists of entities differ: (first word, one past the last, of one, of other).

    Entities that overlap, of either list, are in one stretch. Both lists are in order, and no entity of one overlaps
    another one of it.
    """
    both = sorted([(span, 0) for span in given] + [(span, 1) for span in other])
    start, open_end = 0, -1
    sides: tuple[list[Span], list[Span]] = ([], [])
    for span, side in both:
        if span[0] >= open_end:
            if sides[0] != sides[1]:
                yield start, open_end, *sides
            start, sides = span[0], ([], [])
        sides[side].append(span)
        open_end = max(open_end, span[1])
    if sides[0] != sides[1]:
        yield start, open_end, *sides


def kind_of(given: Sequence[Span], suggested: Sequence[Span]) -> str:
    """Returns in words what is wrong with entities."""
    if not given or not suggested:
        return NO_ENTITY if given else MISSING
    if len(given) == len(suggested) == 1:
        same = given[0][:2] == suggested[0][:2]
        return OTHER_TYPE if same else OTHER_BOUNDARIES if given[0][2] == suggested[0][2] else OTHER_ENTITIES
    return OTHER_ENTITIES


def described_spans(spans: Sequence[Span], words: Sequence[str]) -> str:
    """Returns entities in words: "PER Ada Lovelace, LOC London"."""
    return ", ".join(f"{kind} {' '.join(words[start:end])}" for start, end, kind in spans) or NO_LABEL


def corrected_tags(tags: Sequence[str], errors: Sequence[LabelError]) -> list[str]:
    """Returns tags in strict BIO with the suggested entities in place of the given ones of these errors."""
    wrong = {span for error in errors for span in error.given_spans}
    spans = [span for span in entity_spans(tags) if span not in wrong]
    return write_tags(sorted([*spans, *(span for error in errors for span in error.spans)]), len(tags))


def _tags(classes_W: np.ndarray, class_names: Sequence[str]) -> list[str]:
    return [class_names[int(index)] for index in classes_W]


def _named(present_C: np.ndarray, class_names: Sequence[str]) -> list[str]:
    return [name for name, is_present in zip(class_names, present_C, strict=True) if is_present]


def _ranked(errors: Iterator[LabelError]) -> tuple[LabelError, ...]:
    return tuple(sorted(errors, key=lambda error: (error.quality, error.record)))


def _frequent(confusions: Sequence[tuple[str, str, int]]) -> tuple[tuple[str, str, int], ...]:
    return tuple(sorted(confusions, key=lambda each: -each[2]))
