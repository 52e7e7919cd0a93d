"""From the scores of spans to entities. Training, evaluation and prediction all decode here, so they agree."""

# S spans, C classes

from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.evaluation.calibration import probabilities
from jaxfm.tasks.nested_ner.spec import NestedNerSpec
from jaxfm.tasks.word_spans.spans import NO_ENTITY, FoundSpans, SpanRows, choose


def find_entities(
    spec: NestedNerSpec, encoded: SpanRows, logits: Sequence[np.ndarray], calibration: Mapping[str, float]
) -> list[FoundSpans]:
    """Returns the entities of each sentence.

    A span is a candidate where its likeliest type that is an entity reaches the threshold; `spec.overlaps` says which
    of those that overlap stay, the surest first. Calibration changes scores, and never what is found.

    Args:
      spec: of the model.
      encoded: the sentences.
      logits: of the owned spans of each sentence [S, C] (`SpanRows.per_span`).
      calibration: that the run fitted.
    """
    found = []
    for sentence, logits_SC in enumerate(logits):
        probabilities_SC = probabilities(logits_SC, {})
        class_S = 1 + probabilities_SC[:, NO_ENTITY + 1 :].argmax(axis=-1)
        score_S = np.take_along_axis(probabilities_SC, class_S[:, None], axis=-1)[:, 0]
        candidate = np.flatnonzero(score_S >= spec.threshold)
        spans_S2 = encoded.spans(sentence)[candidate]
        kept = candidate[choose(spans_S2, score_S[candidate], spec.overlaps)]
        calibrated_SC = probabilities(logits_SC[kept], calibration)
        where = encoded.spans(sentence)[kept].tolist()
        spans = [(first, end, spec.labels[kind]) for (first, end), kind in zip(where, class_S[kept], strict=True)]
        scores = np.take_along_axis(calibrated_SC, class_S[kept][:, None], axis=-1)[:, 0].tolist()
        found.append(FoundSpans(spans, scores))
    return found
