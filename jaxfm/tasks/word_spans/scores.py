"""Scores of entities that may overlap as data: a record a sentence, and what intervals are computed from."""

# S sentences, C classes, W words, K widths

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.text.tagging import Span
from jaxfm.evaluation import entities
from jaxfm.tasks.word_spans.errors import text_and_offsets
from jaxfm.tasks.word_spans.spans import Entities, FoundSpans, SpanRows, gold_classes

DIRECTIONS = {"f1": True, "precision": True, "recall": True, "macro_f1": True, "accuracy": True, "loss": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredSpans:
    """What a model says of a split, and what is counted of it.

    Attributes:
      found: of each sentence.
      predicted: the same, as the source gives entities.
      counts: [S, 3 C] entities right, found and in the data, by type (`entities.count_spans`).
      spans: the same summed.
      right: whether the class of each span is right, all sentences one after the other.
      losses: nats of each span, likewise.
      ends: where each sentence but the last ends among the spans.
    """

    found: list[FoundSpans]
    predicted: list[list[Span]]
    counts: np.ndarray
    spans: entities.EntityScores
    right: np.ndarray
    losses: np.ndarray
    ends: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that may choose a checkpoint."""
        count = max(len(self.losses), 1)
        return {
            "f1": self.spans.f1,
            "precision": self.spans.precision,
            "recall": self.spans.recall,
            "macro_f1": self.spans.macro["f1"],
            "accuracy": float(self.right.sum() / count),
            "loss": float(self.losses.sum(dtype=np.float64) / count),
        }

    @property
    def sentence_losses(self) -> np.ndarray:
        """Nats of each sentence."""
        return np.asarray([part.sum() for part in np.split(self.losses, self.ends)])


@dataclasses.dataclass(frozen=True)
class GoldSpans:
    """The classes of a split's spans, as the data have them.

    Attributes:
      classes: of each span that a window owns, all sentences one after the other.
      unreachable: how many entities no span can say.
    """

    classes: np.ndarray
    unreachable: int


def gold_spans(gold: Sequence[Entities], encoded: SpanRows, index: Mapping[str, int], widths: int) -> GoldSpans:
    """Returns the classes of a split's spans.

    Args:
      gold: entities of each sentence.
      encoded: their rows.
      index: type -> class.
      widths: most words of a span.
    """
    classes, unreachable = [], 0
    for each, owner_WK in zip(gold, encoded.owners, strict=True):
        classes_WK, left = gold_classes(each.in_words, index, len(owner_WK), widths)
        classes.append(classes_WK[owner_WK >= 0])
        unreachable += len(left)
    return GoldSpans(np.concatenate(classes), unreachable)


def span_bootstrap_data(
    sentences: Sequence[TaggedSentence],
    gold: Sequence[Sequence[Span]],
    kinds: Sequence[str],
    counts: np.ndarray,
    right: np.ndarray,
    losses: np.ndarray,
    ends: np.ndarray,
) -> BootstrapData:
    """Returns the metrics as a function of sentences.

    Args:
      sentences: of a split.
      gold: entities of each, as the source gives them.
      kinds: types of entities.
      counts: [S, 3 C] entities right, found and in the data, by type (`entities.count_spans`).
      right: whether the class of each span is right, all sentences one after the other.
      losses: nats of each span, likewise.
      ends: where each sentence but the last ends among the spans.
    """
    sizes = np.diff([0, *ends, len(losses)]).astype(np.float64)
    right_SC, found_SC, gold_SC = np.split(counts, 3, axis=-1)
    return BootstrapData(
        sampling_unit="sentences",
        units={
            "entities": counts,
            "words": sizes,  # here spans: what accuracy and loss are divided by
            "right": np.asarray([part.sum() for part in np.split(right, ends)], np.float64),
            "loss": np.asarray([part.sum() for part in np.split(losses, ends)]),
        },
        computed=entities.tagging_metrics,
        identity=[
            (sentence.marked.text if sentence.marked else sentence.words, tuple(spans))
            for sentence, spans in zip(sentences, gold, strict=True)
        ],
        classes=tuple(kinds),
        less_is_better=("loss",),
        prior=entities.tagging_prior(len(kinds)),
        right=((right_SC == found_SC) & (right_SC == gold_SC)).all(axis=-1),
    )


def nothing_found(counts: np.ndarray, f1: float) -> tuple[str, ...]:
    """Says so where the model finds no entity as it is marked; `counts` are those of `entities.count_spans`."""
    _, found, gold = (int(count) for count in counts.sum(axis=0).reshape(3, -1).sum(axis=-1))
    if f1 > 0 or not gold:
        return ()
    return (
        f"the model finds {'nothing' if not found else 'no entity as it is marked'}: F1 {f1:.4f} "
        f"({gold:,} entities in the data, {found:,} found). Train longer (--config.train.min_steps, "
        "--config.train.epochs), or look at the data: python -m jaxfm.check.",
    )


def span_records(
    sentences: Sequence[TaggedSentence],
    gold: Sequence[Sequence[Span]],
    predicted: Sequence[Sequence[Span]],
    scores: Sequence[Sequence[float]],
) -> Iterator[dict[str, Any]]:
    """Yields one record a sentence: entities right, missed and invented, in characters of its text.

    Args:
      sentences: of a split.
      gold: entities of each, as the source gives them.
      predicted: entities that the model finds in each, likewise.
      scores: of these.
    """
    for sentence, wanted, found, sure in zip(sentences, gold, predicted, scores, strict=True):
        text, offsets = text_and_offsets(sentence)
        score_of = dict(zip(found, sure, strict=True))

        def described(
            spans: set[Span],
            text: str = text,
            offsets: list[tuple[int, int]] = offsets,
            score_of: dict[Span, float] = score_of,
            in_words: bool = sentence.marked is None,
        ) -> list[dict[str, Any]]:
            listed = []
            for start, end, kind in sorted(spans):
                first, last = (offsets[start][0], offsets[end - 1][1]) if in_words else (start, end)
                score = {"score": round(score_of[start, end, kind], 4)} if (start, end, kind) in score_of else {}
                listed.append({"type": kind, "start": first, "end": last, "text": text[first:last], **score})
            return listed

        yield {
            "origin": sentence.origin,
            "correct": set(wanted) == set(found),
            "text": text,
            "right": described(set(wanted) & set(found)),
            "missed": described(set(wanted) - set(found)),
            "invented": described(set(found) - set(wanted)),
        }
