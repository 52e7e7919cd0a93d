"""Scores of tagged sequences: whole entities as conlleval counts them, and single tags as scikit-learn counts them."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from jaxfm.data.tagging import entity_spans
from jaxfm.observe.tables import Cell, Table


class Score(TypedDict):
    """Fractions of 1 and the number of gold items behind them; a division by zero counts as 0."""

    precision: float
    recall: float
    f1: float
    support: int


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


def score_entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """Scores predicted entities: right only where type, start and end all agree.

    Both hold one BIO sequence a sentence, of equal lengths. Equals seqeval 1.2.2 in its default mode.
    """
    right, gold_count, predicted_count = collections.Counter(), collections.Counter(), collections.Counter()
    for gold_tags, predicted_tags in _paired(gold, predicted):
        gold_spans, predicted_spans = entity_spans(gold_tags), entity_spans(predicted_tags)
        gold_count.update(kind for _, _, kind in gold_spans)
        predicted_count.update(kind for _, _, kind in predicted_spans)
        right.update(kind for _, _, kind in set(gold_spans) & set(predicted_spans))
    kinds = sorted(gold_count | predicted_count)
    per_type = {kind: _score(right[kind], predicted_count[kind], gold_count[kind]) for kind in kinds}
    micro = _score(right.total(), predicted_count.total(), gold_count.total())
    return EntityScores(**micro, macro=_macro(per_type), weighted=_weighted(per_type), per_type=per_type)


def score_tokens(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> TokenScores:
    """Scores every tag on its own, over the tags that occur in either side.

    Same input as `score_entities`; equals scikit-learn's classification_report with zero_division=0.
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
    per_tag = {tag: _score(right[tag], predicted_count[tag], gold_count[tag]) for tag in tags}
    micro = _score(right.total(), predicted_count.total(), gold_count.total())
    outside = "O"
    return TokenScores(
        accuracy=micro["recall"],
        micro=micro,
        entity_micro=_score(
            right.total() - right[outside],
            predicted_count.total() - predicted_count[outside],
            gold_count.total() - gold_count[outside],
        ),
        macro=_macro(per_tag),
        weighted=_weighted(per_tag),
        per_tag=per_tag,
    )


def entity_table(scores: EntityScores, title: str = "Entities") -> Table:
    """Lays out entity scores: a row a type, then the averages."""
    micro = Score(precision=scores.precision, recall=scores.recall, f1=scores.f1, support=scores.support)
    averages = {"micro average": micro, "macro average": scores.macro, "weighted average": scores.weighted}
    return _score_table(title, "type", scores.per_type, averages)


def token_table(scores: TokenScores, title: str = "Tokens") -> Table:
    """Lays out tag scores: a row a tag, then the averages (the first equals the accuracy)."""
    averages = {
        "micro average": scores.micro,
        "micro average without O": scores.entity_micro,
        "macro average": scores.macro,
        "weighted average": scores.weighted,
    }
    return _score_table(title, "tag", scores.per_tag, averages)


def _score_table(title: str, what: str, items: Mapping[str, Score], averages: Mapping[str, Score]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (name, score["precision"], score["recall"], score["f1"], score["support"])
        for name, score in (*items.items(), *averages.items())
    ]
    return Table(title, (what, "precision", "recall", "F1", "support"), tuple(rows), footer=len(averages))


def _paired(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> Iterable[tuple[Sequence[str], Sequence[str]]]:
    assert len(gold) == len(predicted), f"{len(gold)} gold sentences, {len(predicted)} predicted"
    for index, (gold_tags, predicted_tags) in enumerate(zip(gold, predicted, strict=True)):
        assert len(gold_tags) == len(predicted_tags), (
            f"sentence {index}: {len(gold_tags)} gold tags, {len(predicted_tags)} predicted"
        )
        yield gold_tags, predicted_tags


def _score(right: int, predicted: int, gold: int) -> Score:
    return Score(
        precision=right / predicted if predicted else 0.0,
        recall=right / gold if gold else 0.0,
        f1=2 * right / (predicted + gold) if predicted + gold else 0.0,
        support=gold,
    )


def _macro(items: Mapping[str, Score]) -> Score:
    return _average(items, {name: 1 for name in items})


def _weighted(items: Mapping[str, Score]) -> Score:
    return _average(items, {name: score["support"] for name, score in items.items()})


def _average(items: Mapping[str, Score], weights: Mapping[str, int]) -> Score:
    total = sum(weights.values()) or 1  # nothing to average: 0, as everywhere else here

    def mean(values: Mapping[str, float]) -> float:
        return sum(value * weights[name] for name, value in values.items()) / total

    return Score(
        precision=mean({name: score["precision"] for name, score in items.items()}),
        recall=mean({name: score["recall"] for name, score in items.items()}),
        f1=mean({name: score["f1"] for name, score in items.items()}),
        support=sum(score["support"] for score in items.values()),
    )


def _tag_order(tags: Iterable[str]) -> list[str]:
    """Types in alphabetical order, B- before I-, O last: the order of the published CoNLL tables."""
    return sorted(tags, key=lambda tag: (tag == "O", tag[2:], tag))
