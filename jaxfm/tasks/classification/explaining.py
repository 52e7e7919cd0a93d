"""What the classes, labels or numbers of texts are due to."""

# E examples, C classes

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.core.explained import Explained, Target
from jaxfm.evaluation.calibration import probabilities
from jaxfm.tasks.classification.spec import ClassifierSpec, EncodedExamples, encodings
from jaxfm.tasks.explaining import baseline_token, token_places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What makes probabilities of the outputs.
PROBABILITY = {"single": "softmax", "multi": "sigmoid", "regression": ""}
_TEXTS_PER_CALL = 1024


def explained_examples(
    spec: ClassifierSpec,
    tokenizer: "PreTrainedTokenizerFast",
    records: Sequence[Mapping[str, str]],
    encoded: EncodedExamples,
    results: Sequence[Mapping[str, Any]],
    outputs_EC: np.ndarray,
    calibration: Mapping[str, float],
) -> list[Explained]:
    """Returns of each text, or pair, its likeliest class, each label that holds, or its number as targets.

    Args:
      spec: of the classifier.
      tokenizer: of the run.
      records: {"text"} or {"text", "pair"}.
      encoded: their rows.
      results: of the records.
      outputs_EC: what the model says of each.
      calibration: of the alternatives.
    """
    kind, baseline = PROBABILITY[spec.kind], baseline_token(tokenizer)
    texts = [(record["text"], record.get("pair")) for record in records]
    pieces = [
        encoding
        for first in range(0, len(texts), _TEXTS_PER_CALL)
        for encoding in encodings(spec, tokenizer, texts[first : first + _TEXTS_PER_CALL])
    ]
    found_EC = outputs_EC if not kind else probabilities(outputs_EC, calibration, spec.kind)
    explained = []
    for record, result, encoding, found_C, (row, segment, start) in zip(
        records, results, pieces, found_EC, encoded.rows.example_locations.tolist(), strict=True
    ):
        tokens = token_places(encoding, ("text", "pair"), row, start)
        chosen = [int(np.argmax(found_C))]
        if spec.kind == "multi":
            chosen = np.flatnonzero(found_C >= spec.threshold).tolist()
        ranked = {spec.labels[each]: float(found_C[each]) for each in np.argsort(-found_C, kind="stable").tolist()}
        read = np.arange(len(encoding.ids) if spec.pooling == "mean" else 1) + start
        reads = np.stack([np.full(len(read), row), read], axis=-1)
        targets = []
        for number in chosen if tokens else []:
            label = spec.labels[number]
            others = {name: each for name, each in ranked.items() if kind == "softmax" and name != label}
            places = np.asarray([[row, segment, number]])
            targets.append(Target({"label": label}, places, np.ones(1), reads, others))
        explained.append(Explained(result, record, tuple(targets), tokens, baseline, judged=bool(kind)))
    return explained
