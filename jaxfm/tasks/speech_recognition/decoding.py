"""Symbols out of what a model says of each step: greedily, or by a search over prefixes; and when they were said."""

# K steps, N candidates a step, L symbols

import math
from typing import NamedTuple

import numpy as np

from jaxfm.models.ctc import BLANK

LEAST = math.log(1e-3)
"""Log probability below which a symbol is not tried at a step: few are, so most steps take little time."""
_NONE = -math.inf


class Candidates(NamedTuple):
    """What a model says of consecutive steps.

    Attributes:
      ids_KN: the likeliest symbols of each step but the blank, the best first; int.
      log_probs_KN: their log probabilities.
      blank_K: log probability of the blank.
    """

    ids_KN: np.ndarray
    log_probs_KN: np.ndarray
    blank_K: np.ndarray


class Said(NamedTuple):
    """Symbols, and for each the step at which it begins and the one after its last."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def greedy(candidates: Candidates) -> Said:
    """Returns the likeliest symbol of each step, repetitions and blanks left out."""
    best_K = np.where(candidates.blank_K >= candidates.log_probs_KN[:, 0], BLANK, candidates.ids_KN[:, 0])
    starts = np.flatnonzero(np.diff(best_K, prepend=-1))
    ends = [*starts[1:].tolist(), len(best_K)]
    runs = [
        (int(best_K[start]), (start, end)) for start, end in zip(starts.tolist(), ends, strict=True) if best_K[start]
    ]
    return Said(tuple(symbol for symbol, _ in runs), tuple(span for _, span in runs))


class _Prefixes:
    """Prefixes as a tree: number 0 is the empty one."""

    def __init__(self) -> None:
        self.last, self.parent = [BLANK], [-1]
        self.longer: dict[tuple[int, int], int] = {}

    def extended(self, prefix: int, symbol: int) -> int:
        """Returns the number of a prefix with one more symbol."""
        key = prefix, symbol
        if key not in self.longer:
            self.longer[key] = len(self.last)
            self.last.append(symbol)
            self.parent.append(prefix)
        return self.longer[key]

    def symbols(self, prefix: int) -> tuple[int, ...]:
        """Returns a prefix's symbols."""
        found = []
        while prefix:
            found.append(self.last[prefix])
            prefix = self.parent[prefix]
        return tuple(reversed(found))


def prefix_beam(candidates: Candidates, beams: int, least: float = _NONE) -> tuple[tuple[int, ...], float]:
    """Returns the likeliest symbols that a search finds, and their log probability, summed over their alignments.

    Each step keeps the `beams` likeliest prefixes (Graves and Jaitly 2014; Hannun et al. 2014, algorithm 1, without a
    language model). With all symbols as candidates, enough beams and no `least` nothing is left out.

    Args:
      candidates: of the steps.
      beams: prefixes that are kept.
      least: log probability from which a symbol is tried at a step.
    """
    prefixes, many_K = _Prefixes(), (candidates.log_probs_KN >= least).sum(axis=1).tolist()
    # Prefix -> log probability of its alignments that end with a blank, and of those that end with its last symbol.
    kept: dict[int, tuple[float, float]] = {0: (0.0, _NONE)}
    for ids_N, log_probs_N, blank, many in zip(
        candidates.ids_KN.tolist(), candidates.log_probs_KN.tolist(), candidates.blank_K.tolist(), many_K, strict=True
    ):
        after: dict[int, list[float]] = {}
        for prefix, (with_blank, with_symbol) in kept.items():
            both, last = _add(with_blank, with_symbol), prefixes.last[prefix]
            own = after.setdefault(prefix, [_NONE, _NONE])
            own[0] = _add(own[0], both + blank)
            for symbol, log_prob in zip(ids_N[:many], log_probs_N[:many], strict=True):
                if symbol == last:
                    own[1] = _add(own[1], with_symbol + log_prob)
                before = with_blank if symbol == last else both
                if before > _NONE:
                    longer = after.setdefault(prefixes.extended(prefix, symbol), [_NONE, _NONE])
                    longer[1] = _add(longer[1], before + log_prob)
        ranked = sorted(after.items(), key=lambda each: (-_add(*each[1]), each[0]))[:beams]
        kept = {prefix: (ends[0], ends[1]) for prefix, ends in ranked}
    best = max(kept, key=lambda prefix: _add(*kept[prefix]))
    return prefixes.symbols(best), _add(*kept[best])


def _add(one: float, other: float) -> float:
    """Returns log(exp(one) + exp(other))."""
    if one < other:
        one, other = other, one
    return one if other == _NONE else one + math.log1p(math.exp(other - one))


def aligned(candidates: Candidates, ids: tuple[int, ...]) -> Said:
    """Returns symbols with their steps in the likeliest alignment.

    A symbol that is not among the candidates of a step counts there as the least likely of them.
    """
    if not ids:
        return Said((), ())
    steps = len(candidates.blank_K)
    # Blanks and symbols by turns: 2 L + 1 states, of which odd ones are symbols.
    scores_KX = np.repeat(candidates.blank_K[:, None], 2 * len(ids) + 1, axis=1).astype(np.float64)
    for place, symbol in enumerate(ids):
        of_symbol_KN = np.where(candidates.ids_KN == symbol, candidates.log_probs_KN, -np.inf)
        found_K = of_symbol_KN.max(axis=1)
        scores_KX[:, 2 * place + 1] = np.where(found_K > -np.inf, found_K, candidates.log_probs_KN.min(axis=1))
    skips_X = np.zeros(2 * len(ids) + 1, bool)
    skips_X[3::2] = np.asarray(ids[1:]) != np.asarray(ids[:-1])  # from one symbol straight to another
    total_X = np.full(2 * len(ids) + 1, -np.inf)
    total_X[:2] = scores_KX[0, :2]
    came_KX = np.zeros(scores_KX.shape, np.int8)
    for step in range(1, steps):
        ways = np.stack([
            total_X,
            np.concatenate([[-np.inf], total_X[:-1]]),
            np.where(skips_X, np.concatenate([[-np.inf, -np.inf], total_X[:-2]]), -np.inf),
        ])  # fmt: skip
        came_KX[step] = ways.argmax(axis=0)
        total_X = ways.max(axis=0) + scores_KX[step]
    state = len(total_X) - 1 if total_X[-1] >= total_X[-2] else len(total_X) - 2
    spans = [(steps, 0)] * len(ids)
    for step in reversed(range(steps)):
        if state % 2:
            start, end = spans[state // 2]
            spans[state // 2] = (step, max(end, step + 1))
        state -= int(came_KX[step, state])
    return Said(ids, tuple(spans))
