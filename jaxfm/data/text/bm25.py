"""Ranking by the words that a query and a text share: BM25, by the library bm25s. The one module that knows it.

Robertson and Zaragoza 2009 with k1 = 1.5 and b = 0.75, in the form of Lucene (Kamphuis et al. 2020): the baseline that
a trained encoder has to beat, and a first source of hard negatives.
"""

# N texts of the corpus, K ranks

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxfm.errors import UserError, did_you_mean, install_hint

K1, B = 1.5, 0.75
STOP_WORDS = ("none", "en")
_WORD = re.compile(r"\w+")


def words_of(text: str, stop_words: frozenset[str] = frozenset()) -> list[str]:
    """Returns the runs of letters and digits of a text in lower case; those in `stop_words` are left out."""
    return [word for word in _WORD.findall(text.lower()) if word not in stop_words]


class Bm25:
    """A corpus, indexed by its words; texts go by their numbers, from 0.

    Attributes:
      count: number of texts, N.
    """

    def __init__(self, texts: Iterable[str], stop_words: str = "none"):
        """Indexes the texts, which are read once and not kept.

        Args:
          texts: of the corpus; one without words is never found.
          stop_words: "none", which suits any language, or "en": English function words count as nothing.

        Raises:
          UserError: no text has a word; the package bm25s is absent; an unknown kind of stop words.
        """
        library = _library()
        if stop_words not in STOP_WORDS:
            raise UserError(f"stop_words={stop_words}: {did_you_mean(stop_words, STOP_WORDS)}")
        from bm25s.stopwords import STOPWORDS_EN

        self._stop_words = frozenset(STOPWORDS_EN if stop_words == "en" else ())
        numbers: dict[str, int] = {}
        rows = [[numbers.setdefault(word, len(numbers)) for word in words_of(text, self._stop_words)] for text in texts]
        self.count = len(rows)
        if not numbers:
            raise UserError(f"none of the {self.count:,} texts of the corpus has a word: BM25 has nothing to go by.")
        self._numbers = numbers
        # Numbers of words in the place of words, as a whole corpus of strings would take ten times the memory.
        self._index = library.BM25(k1=K1, b=B, method="lucene")
        self._index.index((rows, numbers), show_progress=False, create_empty_token=False)

    def scores(self, query: str) -> np.ndarray:
        """Returns the score of each text, f32 [N]: 0 for one that shares no word with the query."""
        known = [self._numbers[word] for word in words_of(query, self._stop_words) if word in self._numbers]
        if not known:
            return np.zeros(self.count, np.float32)
        return np.asarray(self._index.get_scores_from_ids(known), np.float32)

    def top(self, queries: Sequence[str], k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns numbers, int32 [Q, K], and scores, f32 [Q, K], of the best texts: of one score the lower number.

        `among`: the numbers of the texts that may be found, in order; None: all. Scores do not depend on it.
        Raises UserError unless k is from 1 to the number of these texts.
        """
        count = self.count if among is None else len(among)
        if not 1 <= k <= count:
            raise UserError(f"k={k}: must be from 1 to the {count:,} texts of the corpus.")
        indices = np.zeros((len(queries), k), np.int32)
        scores = np.zeros((len(queries), k), np.float32)
        for row, query in enumerate(queries):
            found_N = self.scores(query)
            indices[row] = _best(found_N, k) if among is None else among[_best(found_N[among], k)]
            scores[row] = found_N[indices[row]]
        return indices, scores


def _best(scores_N: np.ndarray, k: int) -> np.ndarray:
    """Returns the numbers of the k highest scores in order, of equal ones the lower number first."""
    if k < len(scores_N):
        least = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        above, equal = np.flatnonzero(scores_N > least), np.flatnonzero(scores_N == least)
        chosen = np.concatenate([above, equal[: k - len(above)]])
    else:
        chosen = np.arange(len(scores_N))
    return chosen[np.lexsort((chosen, -scores_N[chosen]))]


def _library() -> Any:
    try:
        import bm25s
    except ImportError:
        raise UserError(f"BM25 needs the package bm25s: {install_hint('retrieval')}.") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every step of its own
    return bm25s
