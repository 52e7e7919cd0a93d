"""Entity scores of tag sequences, as seqeval takes them."""

from collections.abc import Sequence

from jaxfm.data.text.tagging import entity_spans
from jaxfm.evaluation.entities import EntityScores, count_spans, sum_entities


def score_entities(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """Scores predicted entities: right only where type, start and end all agree."""
    kinds = sorted({tag[2:] for tags in (*gold, *predicted) for tag in tags if tag != "O"})
    return sum_entities(
        kinds, count_spans(*([entity_spans(tags) for tags in each] for each in (gold, predicted)), kinds)
    )
