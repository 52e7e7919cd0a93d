"""Pairs as groups: how well a model ranks the second texts of each first text (reranking, answer selection)."""

# E examples, Q first texts (queries)

from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.core.evaluation import BootstrapData
from jaxfm.data.records.examples import Example
from jaxfm.evaluation import ranking
from jaxfm.tasks.classification.spec import ClassifierSpec

CUTOFFS: Mapping[str, Sequence[int]] = {"ndcg": (10,), "mrr": (10,)}
METRICS = (*(f"{name}@{k}" for name, cutoffs in CUTOFFS.items() for k in cutoffs), ranking.MAP, ranking.FIRST)


def can_rank(spec: ClassifierSpec) -> bool:
    """Returns whether a pair has one score that ranks it: its number, or the probability of the last of two classes."""
    return spec.pairs and (spec.kind == "regression" or (spec.kind == "single" and len(spec.labels) == 2))


def ranking_of_pairs(spec: ClassifierSpec, examples: Sequence[Example], score_E: np.ndarray) -> BootstrapData | None:
    """Returns the ranking metrics as a function of the first texts; None where no first text has what is to be ranked.

    A candidate is relevant where it is of the last class; a number is a grade, of which the split's least one is 0.
    First texts whose candidates are all of one class or number are left out: every order of them is right.

    Args:
      spec: of a model that `can_rank`.
      examples: with their targets.
      score_E: of each pair, the higher the better; where one is NaN there is no ranking.
    """
    if not can_rank(spec) or np.isnan(score_E).any():
        return None
    grade_E = _grades(spec, examples)
    members = _members(examples, grade_E)
    if not members:
        return None
    judged = [ranking.judge_group(score_E[numbers], grade_E[numbers]) for numbers in members.values()]
    identity = [
        (text, tuple(sorted((str(examples[number].pair), float(grade_E[number])) for number in numbers)))
        for text, numbers in members.items()
    ]
    return ranking.ranking_data(judged, identity, CUTOFFS)


def best_scores(spec: ClassifierSpec, examples: Sequence[Example], score_E: np.ndarray) -> np.ndarray:
    """Returns the best score of each first text that `ranking_of_pairs` counts, float64 [Q], in its order."""
    if not can_rank(spec):
        return np.zeros(0)
    members = _members(examples, _grades(spec, examples))
    return np.asarray([score_E[numbers].max() for numbers in members.values()], np.float64)


def undefined_rankings(spec: ClassifierSpec, examples: Sequence[Example]) -> dict[str, str]:
    """Returns ranking metric -> why these examples give it no value; empty where they do, or where none is meant."""
    if not can_rank(spec) or _members(examples, _grades(spec, examples)):
        return {}
    what = "numbers" if spec.kind == "regression" else "classes"
    why = f"is not defined: no first text of the {len(examples):,} pairs has several second texts of different {what}"
    return dict.fromkeys(METRICS, why)


def _grades(spec: ClassifierSpec, examples: Sequence[Example]) -> np.ndarray:
    """Returns what each pair is worth, float64 [E], from 0."""
    if spec.kind == "single":
        return np.asarray([example.target == spec.labels[-1] for example in examples], np.float64)
    grade_E = np.asarray([example.target for example in examples], np.float64)
    return grade_E - grade_E.min() if len(grade_E) else grade_E


def _members(examples: Sequence[Example], grade_E: np.ndarray) -> dict[str, list[int]]:
    """Returns first text -> numbers of its pairs, of the first texts whose pairs differ in their grade."""
    members: dict[str, list[int]] = {}
    for number, example in enumerate(examples):
        members.setdefault(example.text, []).append(number)
    return {text: numbers for text, numbers in members.items() if len(set(grade_E[numbers].tolist())) > 1}
