"""Scores of a split by the vectors of its texts."""

# Q queries, C documents, M groups, E embedding, K ranks

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxfm.evaluation import ranking
from jaxfm.tasks.text_groups.scorer import GroupsScorer


@dataclasses.dataclass(frozen=True)
class EmbeddingScorer(GroupsScorer):
    """A split's groups and their texts (implements jaxfm.core.task.Scorer)."""

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Warns of vectors that are all the same."""
        queries_QE, documents_CE = self.evaluated.vectors(outputs)
        both = np.concatenate([queries_QE, documents_CE])
        if len(both) > 1 and float(both.std(axis=0).max()) < 1e-6:
            return ("all texts have the same vector: the model has collapsed (a lower learning rate?)",)
        return ()

    def similarities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the similarity of the two texts of each pair, float64 [M]."""
        queries_QE, documents_CE = self.evaluated.vectors(outputs)
        first, second = np.asarray([members[:2] for members in self.evaluated.members], np.int64).T
        return np.einsum("me,me->m", queries_QE[first].astype(np.float64), documents_CE[second].astype(np.float64))

    def rank_all(self, outputs: Mapping[str, np.ndarray], ranks: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the documents of each query, the most similar first, int32 [Q, K], and similarities f32 [Q, K]."""
        return ranking.rank_all(*self.evaluated.vectors(outputs), ranks)
