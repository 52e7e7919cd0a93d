"""Chains of tags, in numpy: the best sequence for the words of each sentence (Viterbi 1967).

This is done on the host. A long sentence lies in several windows, perhaps in several rows and batches, and its chain is
whole only once its words have been put together, which happens there. It is cheap: without learned scores the likeliest
tags of most sentences are allowed as they are, and then are the best sequence; all other sentences are decoded
together, a word at a time.
"""

# S sentences, W words, C classes

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jaxfm.data.text.tagging import AllowedTags

# Numbers of the largest array [S, C, C]; more at once gain nothing.
_BLOCK = 1 << 18


@dataclasses.dataclass(frozen=True)
class ChainScores:
    """What the tags of a sentence add to the scores of its words, float64; -inf: not allowed.

    Attributes:
      start: [C] of the first word's tag.
      end: [C] of the last word's tag.
      pairs: [C, C] of a tag (row) that is followed by another (column).
    """

    start: np.ndarray
    end: np.ndarray
    pairs: np.ndarray

    @classmethod
    def of(cls, allowed: AllowedTags) -> "ChainScores":
        """Scores 0 what is allowed."""
        return cls(*(np.where(part, 0.0, -np.inf) for part in allowed))


def constrained(scores_WC: Sequence[np.ndarray], allowed: AllowedTags) -> list[np.ndarray]:
    """Returns for each sentence the allowed sequence [W] of the greatest summed score.

    Args:
      scores_WC: of each sentence [W, C]: logits or log-probabilities, which differ by a number a word.
      allowed: the sequences to choose from.
    """
    best = [sentence.argmax(axis=-1) for sentence in scores_WC]
    broken = [index for index, path in enumerate(best) if not _is_allowed(path, allowed)]
    chain = ChainScores.of(allowed)
    for index, path in zip(broken, viterbi([scores_WC[index] for index in broken], chain), strict=True):
        best[index] = path
    return best


def _is_allowed(path_W: np.ndarray, allowed: AllowedTags) -> bool:
    if not len(path_W):
        return True
    inner = allowed.pairs[path_W[:-1], path_W[1:]].all()
    return bool(inner and allowed.start[path_W[0]] and allowed.end[path_W[-1]])


def viterbi(scores_WC: Sequence[np.ndarray], chain: ChainScores) -> list[np.ndarray]:
    """Returns for each sentence the sequence of classes, int64 [W], whose scores and chain scores sum to most."""
    found = [np.zeros(0, np.int64)] * len(scores_WC)
    for members, padded_SWC, lengths_S in blocks(scores_WC):
        for index, path_W in zip(members, _paths(padded_SWC, lengths_S, chain), strict=True):
            found[index] = path_W
    return found


def _paths(padded_SWC: np.ndarray, lengths_S: np.ndarray, chain: ChainScores) -> list[np.ndarray]:
    longest, (count, _, classes) = int(lengths_S[0]), padded_SWC.shape
    best_SC = chain.start + padded_SWC[:, 0]
    before_WSC = np.zeros((longest, count, classes), np.int32)
    for word in range(1, longest):
        open_ = still_open(lengths_S, word)
        candidates_SCC = best_SC[:open_, :, None] + chain.pairs
        before_WSC[word, :open_] = candidates_SCC.argmax(axis=1)
        best_SC[:open_] = candidates_SCC.max(axis=1) + padded_SWC[:open_, word]
    class_S = (best_SC + chain.end).argmax(axis=1)
    path_SW = np.zeros((count, longest), np.int64)
    for word in reversed(range(longest)):
        open_ = still_open(lengths_S, word)
        path_SW[:open_, word] = class_S[:open_]
        class_S[:open_] = before_WSC[word, np.arange(open_), class_S[:open_]]
    return [path_W[:length] for path_W, length in zip(path_SW, lengths_S, strict=True)]


def log_marginals(scores_WC: Sequence[np.ndarray], chain: ChainScores) -> list[np.ndarray]:
    """Returns for each sentence log p(class of the word | sentence), float64 [W, C], by forward and backward sums."""
    found = [np.zeros(each.shape) for each in scores_WC]
    for members, padded_SWC, lengths_S in blocks(scores_WC):
        forward_SWC, _ = _forward(padded_SWC, lengths_S, chain)
        backward_SWC = np.zeros_like(padded_SWC)
        ends_S = lengths_S - 1
        backward_SWC[np.arange(len(members)), ends_S] = chain.end
        for word in reversed(range(1, int(lengths_S[0]))):
            open_ = still_open(lengths_S, word)
            after_SC = padded_SWC[:open_, word] + backward_SWC[:open_, word]
            backward_SWC[:open_, word - 1] = _log_sum(chain.pairs + after_SC[:, None, :], axis=-1)
        joint_SWC = forward_SWC + backward_SWC
        joint_SWC -= _log_sum(joint_SWC, axis=-1)[..., None]
        for index, marginal_WC, length in zip(members, joint_SWC, lengths_S, strict=True):
            found[index] = marginal_WC[:length]
    return found


def chain_losses(scores_WC: Sequence[np.ndarray], gold: Sequence[np.ndarray], chain: ChainScores) -> list[np.ndarray]:
    """Returns for each sentence float64 [W] whose sum is -log p(gold | sentence), in nats.

    Args:
      scores_WC: of each sentence [W, C].
      gold: its classes [W].
      chain: scores of the transitions.
    """
    found = [np.zeros(len(each)) for each in scores_WC]
    for members, padded_SWC, lengths_S in blocks(scores_WC):
        _, normaliser_SW = _forward(padded_SWC, lengths_S, chain)
        for index, normaliser_W, length in zip(members, normaliser_SW, lengths_S, strict=True):
            path = gold[index]
            score_W = scores_WC[index][np.arange(length), path].astype(np.float64)
            score_W[1:] += chain.pairs[path[:-1], path[1:]]
            score_W[0] += chain.start[path[0]]
            score_W[-1] += chain.end[path[-1]]
            found[index] = normaliser_W[:length] - score_W
    return found


def _forward(padded_SWC: np.ndarray, lengths_S: np.ndarray, chain: ChainScores) -> tuple[np.ndarray, np.ndarray]:
    """Returns log p(class | words up to it) [S, W, C], and the normaliser [S, W] of each word; they sum to log Z.

    The last word's normaliser has the scores of the end, its log-probabilities do not.
    """
    log_probs_SWC, normaliser_SW = np.zeros_like(padded_SWC), np.zeros(padded_SWC.shape[:2])
    for word in range(int(lengths_S[0])):
        open_ = still_open(lengths_S, word)
        if word:
            before_SC = log_probs_SWC[:open_, word - 1]
            into_SC = _log_sum(before_SC[:, :, None] + chain.pairs, axis=1)
        else:
            into_SC = chain.start
        joint_SC = into_SC + padded_SWC[:open_, word]
        normaliser_S = _log_sum(joint_SC, axis=-1)
        log_probs_SWC[:open_, word] = joint_SC - normaliser_S[:, None]
        last_S = lengths_S[:open_] - 1 == word
        with_end_S = _log_sum(joint_SC + chain.end, axis=-1)
        normaliser_SW[:open_, word] = np.where(last_S, with_end_S, normaliser_S)
    return log_probs_SWC, normaliser_SW


def _log_sum(values: np.ndarray, axis: int) -> np.ndarray:
    """Returns log(sum(exp(values))) along an axis, -inf where all are -inf."""
    most = values.max(axis=axis, keepdims=True)
    most = np.where(np.isneginf(most), 0.0, most)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - most).sum(axis=axis)) + np.squeeze(most, axis)


def blocks(scores_WC: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields sentences in portions, the longest first: their indices [S], scores float64 [S, W, C] and lengths [S].

    Scores after the end of a sentence are 0. As the lengths fall, those that have a word `w` are the first of a portion
    (`still_open`), and nothing is computed for the others. Sentences without words are left out.
    """
    lengths = np.asarray([len(sentence) for sentence in scores_WC], np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[: np.count_nonzero(lengths)]
    if not len(order):
        return
    classes = scores_WC[order[0]].shape[-1]
    size = max(_BLOCK // classes**2, 1)
    for first in range(0, len(order), size):
        members = order[first : first + size]
        padded_SWC = np.zeros((len(members), lengths[members[0]], classes))
        for row_WC, index in zip(padded_SWC, members, strict=True):
            row_WC[: lengths[index]] = scores_WC[index]
        yield members, padded_SWC, lengths[members]


def still_open(lengths_S: np.ndarray, word: int) -> int:
    """Returns how many sentences have a word of that index; their lengths fall."""
    return int(np.searchsorted(-lengths_S, -word, "left"))
