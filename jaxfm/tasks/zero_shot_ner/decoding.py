"""From the best label of each span to entities, and the threshold. Training, evaluation and prediction decode here."""

# N rows, T tokens, K widths, S spans of a sentence

from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.data.text.tagging import Span
from jaxfm.evaluation.classes import precision_recall_f1
from jaxfm.tasks.word_spans.spans import FoundSpans, SpanRows, choose
from jaxfm.tasks.zero_shot_ner.spec import USUAL_THRESHOLD, ZeroShotNerSpec

_LEAST = 1e-3  # spans less likely than this are never entities


def find_entities(
    spec: ZeroShotNerSpec, encoded: SpanRows, outputs: Mapping[str, np.ndarray], threshold: float
) -> list[FoundSpans]:
    """Returns the entities of each sentence.

    A span is a candidate where its likeliest label reaches the threshold; `spec.overlaps` says which of those that
    overlap stay, the surest first. So entities of a higher threshold are among those of a lower one.

    Args:
      spec: of the model.
      encoded: the sentences.
      outputs: "score" and "label" [N, T, K] (`ZeroShotNerObjective.outputs`).
      threshold: a probability.
    """
    found = []
    scores, labels = encoded.per_span(outputs["score"]), encoded.per_span(outputs["label"])
    for sentence, (logits_S, label_S) in enumerate(zip(scores, labels, strict=True)):
        score_S = sigmoid(logits_S)
        candidate = np.flatnonzero(score_S >= threshold)
        spans_S2 = encoded.spans(sentence)[candidate]
        # By logits: probabilities near 1 are all the same number.
        kept = candidate[choose(spans_S2, logits_S[candidate], spec.overlaps)]
        where = encoded.spans(sentence)[kept].tolist()
        spans = [(first, end, spec.labels[kind]) for (first, end), kind in zip(where, label_S[kept], strict=True)]
        found.append(FoundSpans(spans, score_S[kept].tolist()))
    return found


def fit_threshold(found: Sequence[FoundSpans], gold: Sequence[Sequence[Span]]) -> float:
    """Returns the probability with the best F1 of entities, half-way between two scores; the usual one without any.

    Args:
      found: entities of each sentence, of a low threshold.
      gold: entities in the data, in words.
    """
    scores, right = [], []
    for spans, wanted in zip(found, gold, strict=True):
        known = set(wanted)
        scores += spans.scores
        right += [span in known for span in spans.spans]
    if not any(right):
        return USUAL_THRESHOLD
    order = np.argsort(-np.asarray(scores), kind="stable")
    sorted_scores, right_counts = np.asarray(scores)[order], np.cumsum(np.asarray(right)[order])
    _, _, f1 = precision_recall_f1(
        right_counts.astype(np.float64),
        np.arange(1.0, len(order) + 1),
        np.full(len(order), float(sum(len(set(each)) for each in gold))),
    )
    following = np.append(sorted_scores[1:], -1.0)
    f1 = np.where(sorted_scores > following, f1, -1.0)  # equal scores are on one side
    best = int(f1.argmax())
    return float((sorted_scores[best] + max(following[best], 0.0)) / 2)


def candidates(spec: ZeroShotNerSpec, encoded: SpanRows, outputs: Mapping[str, np.ndarray]) -> list[FoundSpans]:
    """Returns what `find_entities` finds with the lowest threshold: what one is fitted to."""
    return find_entities(spec, encoded, outputs, _LEAST)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities of logits."""
    with np.errstate(over="ignore"):
        return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
