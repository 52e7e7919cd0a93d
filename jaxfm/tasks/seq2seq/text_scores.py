"""Scores of texts that a model has written."""

from collections.abc import Mapping, Sequence

METRICS: tuple[str, ...] = ()


def text_scores(
    texts: Sequence[str], references: Sequence[Sequence[str]], sources: Sequence[str]
) -> tuple[dict[str, float], dict[str, Mapping[str, float]]]:
    """Returns the scores of texts, and of baselines by their name."""
    return {}, {}
