"""What changes in a model's answers where one term of a sentence is exchanged for that of another group.

Each template is filled with each term of each group; all else stays. What is compared is the mean of a number (the
probability of a class, the share of names that are found) over a group's sentences, with the mean of the other groups.
"""

# T templates, K terms, G groups, M numbers, R rounds

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.evaluation.bootstrap import RESAMPLES, SEED
from jaxfm.evaluation.exchange import Gap, group_gaps

LEAST_TERMS = 4
"""Terms of the smallest group from which on terms are what is drawn; of fewer, templates are."""
ROUNDS = 5000
_CHUNK = 2_000_000  # numbers at a time


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What exchanging the terms of one attribute does.

    Attributes:
      attribute: its name.
      unit: what was drawn for intervals and p-values: "terms" or "templates".
      counts: group -> its terms.
      templates: number of templates.
      values: number -> group -> its mean.
      gaps: of each group from the mean of the others, the smallest p first.
    """

    attribute: str
    unit: str
    counts: Mapping[str, int]
    templates: int
    values: Mapping[str, Mapping[str, float]]
    gaps: tuple[Gap, ...]


def exchange(attribute: str, values: Mapping[str, np.ndarray], numbers: Sequence[str], seed: int = SEED) -> Exchange:
    """Returns the gaps between groups of terms.

    With `LEAST_TERMS` terms in each group a permutation exchanges terms between groups, each with all of its sentences,
    and the bootstrap draws terms: what is found holds for terms like these, in these templates. With fewer terms groups
    are exchanged within each template, and the bootstrap draws templates: it holds for these terms alone.

    Args:
      attribute: its name.
      values: group -> [K, T, M], a number of each sentence; K may differ between groups.
      numbers: M names.
      seed: of permutations and bootstrap.
    """
    groups = list(values)
    counts = {group: len(values[group]) for group in groups}
    generator = np.random.default_rng(seed)
    by_terms = min(counts.values()) >= LEAST_TERMS
    drawn = _terms(values, generator) if by_terms else _templates(values, generator)
    observed_MG = np.stack([values[group].mean(axis=(0, 1)) for group in groups], axis=-1)
    templates = next(iter(values.values())).shape[1]
    found = group_gaps(
        observed_MG, *drawn, numbers=numbers, groups=groups, count=min(counts.values()) if by_terms else templates
    )
    means = {number: dict(zip(groups, observed_MG[row].tolist(), strict=True)) for row, number in enumerate(numbers)}
    return Exchange(attribute, "terms" if by_terms else "templates", counts, templates, means, found)


def _terms(values: Mapping[str, np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns means [R, M, G] of groups whose terms are exchanged, and of bootstrap samples of terms."""
    means = [each.mean(axis=1) for each in values.values()]  # [K, M] each
    all_NM, cuts = np.concatenate(means), np.cumsum([len(each) for each in means])[:-1]
    exchanged, resampled = [], []
    for _ in range(ROUNDS):
        parts = np.split(all_NM[generator.permutation(len(all_NM))], cuts)
        exchanged.append([part.mean(axis=0) for part in parts])
    for _ in range(RESAMPLES):
        drawn = [each[generator.integers(0, len(each), len(each))] for each in means]
        resampled.append([part.mean(axis=0) for part in drawn])
    return np.asarray(exchanged).transpose(0, 2, 1), np.asarray(resampled).transpose(0, 2, 1)


def _templates(values: Mapping[str, np.ndarray], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns means [R, M, G] of groups that are exchanged in each template, and of bootstrap samples of templates."""
    mean_TMG = np.stack([each.mean(axis=0) for each in values.values()], axis=-1)
    templates, _, groups = mean_TMG.shape
    exchanged, resampled = [], []
    size = max(1, _CHUNK // mean_TMG.size)
    for first in range(0, ROUNDS, size):
        rounds = min(size, ROUNDS - first)
        order_RTG = np.argsort(generator.random((rounds, templates, groups)), axis=-1)
        shuffled_RTMG = np.take_along_axis(mean_TMG[None], order_RTG[:, :, None, :], axis=-1)
        exchanged.append(shuffled_RTMG.mean(axis=1))
    for _ in range(RESAMPLES):
        resampled.append(mean_TMG[generator.integers(0, templates, templates)].mean(axis=0))
    return np.concatenate(exchanged), np.asarray(resampled)
