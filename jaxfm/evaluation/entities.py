"""Scores of tagged sequences: whole entities as conlleval counts them, and single tags as scikit-learn counts them."""

# N sentences, C types of entity, R rounds (of a bootstrap, say)

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import Prior, Units
from jaxfm.data.text.tagging import Span
from jaxfm.evaluation.classes import Score, add_counts, counts_prior, precision_recall_f1, report, score_table
from jaxfm.observe.tables import Table


@dataclasses.dataclass(frozen=True)
class EntityScores:
    """Exact-match scores of entities; the bare numbers are the micro average, which papers report."""

    precision: float
    recall: float
    f1: float
    support: int
    macro: Score
    weighted: Score
    per_type: dict[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as plain JSON-able dicts."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """Scores of single tags; `micro` is over all tags (so it equals the accuracy), `entity_micro` over all but O."""

    accuracy: float
    micro: Score
    entity_micro: Score
    macro: Score
    weighted: Score
    per_tag: dict[str, Score]

    def to_dict(self) -> dict[str, Any]:
        """Returns the scores as plain JSON-able dicts."""
        return dataclasses.asdict(self)


def count_spans(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], kinds: Sequence[str]
) -> np.ndarray:
    """Returns the entities of each type that are right, predicted and gold in each sentence, float32 [N, 3 C]."""
    place = {kind: index for index, kind in enumerate(kinds)}
    counts = np.zeros((len(gold), 3, len(kinds)), np.float32)
    for count, gold_spans, predicted_spans in zip(counts, gold, predicted, strict=True):
        for part, spans in enumerate((set(gold_spans) & set(predicted_spans), predicted_spans, gold_spans)):
            for _, _, kind in spans:
                count[part, place[kind]] += 1
    return counts.reshape(len(gold), -1)


def sum_entities(kinds: Sequence[str], counts: np.ndarray) -> EntityScores:
    """Scores what `count_spans` counted, over the types that occur."""
    right_C, predicted_C, gold_C = counts.sum(axis=0, dtype=np.float64).reshape(3, -1)
    there = np.flatnonzero(predicted_C + gold_C).tolist()
    per_type, averages = report([kinds[index] for index in there], right_C[there], predicted_C[there], gold_C[there])
    return EntityScores(
        **averages["micro average"],
        macro=averages["macro average"],
        weighted=averages["weighted average"],
        per_type=per_type,
    )


def tagging_metrics(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what `sum_entities` and `score_tokens` find, by rounds; see `jaxfm.evaluation.bootstrap.BootstrapData`.

    Of each sentence it needs the "entities" of `count_spans`, and its "words": how many, how many "right", "loss".
    """
    counts = add_counts(units["entities"], weight_RN)
    precision, recall, f1 = precision_recall_f1(*counts.sum(axis=-1))
    there_RC = counts[1] + counts[2] > 0
    f1_RC = precision_recall_f1(*counts)[2]
    words_R = np.maximum(weight_RN @ units["words"], 1.0)
    return {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "macro_f1": f1_RC.sum(axis=-1) / np.maximum(there_RC.sum(axis=-1), 1),
        "accuracy": weight_RN @ units["right"] / words_R,
        "loss": weight_RN @ units["loss"] / words_R,
    }


def tagging_prior(kinds: int) -> Prior:
    """Returns sentences of one word whose entity is found, missed or invented, one of each type; see `Prior`."""
    counts, weights = counts_prior(kinds)
    units = {
        "entities": counts,
        "words": np.ones(len(weights)),
        "right": np.repeat([1.0, 0.0, 0.0], kinds),
        "loss": np.zeros(len(weights)),
    }
    return Prior(units, weights, ("f1", "precision", "recall", "macro_f1"))


def score_tokens(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> TokenScores:
    """Scores every tag on its own, over the tags that occur in either side.

    Both hold one tag sequence a sentence, of equal lengths. Equals scikit-learn's classification_report with
    zero_division=0.
    """
    pairs = collections.Counter()
    for gold_tags, predicted_tags in _paired(gold, predicted):
        pairs.update(zip(gold_tags, predicted_tags, strict=True))
    right, gold_count, predicted_count = collections.Counter(), collections.Counter(), collections.Counter()
    for (gold_tag, predicted_tag), count in pairs.items():
        gold_count[gold_tag] += count
        predicted_count[predicted_tag] += count
        right[gold_tag] += count * (gold_tag == predicted_tag)
    tags = _tag_order(gold_count | predicted_count)
    outside = [index for index, tag in enumerate(tags) if tag == "O"]
    counts = np.asarray([[count[tag] for tag in tags] for count in (right, predicted_count, gold_count)])
    per_tag, averages = report(tags, *counts)
    _, entity_averages = report(tags[: -len(outside) or None], *np.delete(counts, outside, axis=1))
    return TokenScores(
        accuracy=averages["micro average"]["recall"],
        micro=averages["micro average"],
        entity_micro=entity_averages["micro average"],
        macro=averages["macro average"],
        weighted=averages["weighted average"],
        per_tag=per_tag,
    )


def entity_table(scores: EntityScores, title: str = "Entities") -> Table:
    """Lays out entity scores: a row a type, then the averages."""
    micro = Score(precision=scores.precision, recall=scores.recall, f1=scores.f1, support=scores.support)
    averages = {"micro average": micro, "macro average": scores.macro, "weighted average": scores.weighted}
    return score_table(title, "type", scores.per_type, averages)


def token_table(scores: TokenScores, title: str = "Tokens") -> Table:
    """Lays out tag scores: a row a tag, then the averages (the first equals the accuracy)."""
    averages = {
        "micro average": scores.micro,
        "micro average without O": scores.entity_micro,
        "macro average": scores.macro,
        "weighted average": scores.weighted,
    }
    return score_table(title, "tag", scores.per_tag, averages)


def _paired(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> Iterable[tuple[Sequence[str], Sequence[str]]]:
    assert len(gold) == len(predicted), f"{len(gold)} gold sentences, {len(predicted)} predicted"
    for index, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        assert len(gold_tags) == len(predicted_tags), (
            f"sentence {index}: {len(gold_tags)} gold tags, {len(predicted_tags)} predicted"
        )
        yield gold_tags, predicted_tags


def _tag_order(tags: Iterable[str]) -> list[str]:
    """Types in alphabetical order, B- before I-, O last: the order of the published CoNLL tables."""
    return sorted(tags, key=lambda tag: (tag == "O", tag[2:], tag))
