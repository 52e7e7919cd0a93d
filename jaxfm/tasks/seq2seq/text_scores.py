"""Scores of what a model has written, beside those of systems that only copy."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxfm.errors import UserError
from jaxfm.evaluation.generation import METRICS, baseline_texts, generation_scores

EXACT = "exact_match"
RANKED = tuple(name for name in METRICS if name not in (EXACT, "length_ratio"))  # more of them is better
Tokens = Callable[[str], Sequence[Any]]


def missing_packages() -> str:
    """Returns why BLEU, chrF and ROUGE cannot be computed here; "" where they can."""
    try:
        generation_scores(["a"], [["a"]])
    except UserError as error:
        return f"{error} Without them what is written is scored by exact match alone."
    return ""


def exact_matches(written: Sequence[Sequence[Any]], references: Sequence[Sequence[str]], tokens: Tokens) -> list[bool]:
    """Returns whether tokens are those of a reference, for each text: what a tokenizer drops makes no difference."""
    return [
        any(list(text) == list(tokens(target)) for target in targets)
        for text, targets in zip(written, references, strict=True)
    ]


def text_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns `generation_scores` but for exact match; empty without texts, and without the packages for them."""
    if not texts:
        return {}
    try:
        found = generation_scores(texts, references)
    except UserError:
        return {}
    return {name: value for name, value in found.items() if name != EXACT}


def baselines(
    sources: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokens
) -> dict[str, dict[str, float]]:
    """Returns name -> scores of copying the source, or the beginning of it; empty without sources."""
    if not sources:
        return {}
    found = {}
    for name, texts in baseline_texts(sources).items():
        exact = exact_matches([tokens(text) for text in texts], references, tokens)
        found[name] = {EXACT: sum(exact) / len(exact), **text_scores(texts, references)}
    return found
