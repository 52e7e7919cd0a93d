"""Scores of a split by MaxSim: the same tables and metrics as of vectors."""

# Q queries, C documents, M groups, K ranks

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxfm.evaluation import maxsim
from jaxfm.tasks.late_interaction.spec import LateInteractionSpec, token_vectors
from jaxfm.tasks.text_groups.scorer import GroupsScorer


@dataclasses.dataclass(frozen=True)
class LateInteractionScorer(GroupsScorer):
    """A split's groups and their texts (implements jaxfm.core.task.Scorer)."""

    spec: LateInteractionSpec

    def rank_all(self, outputs: Mapping[str, np.ndarray], ranks: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the documents of each query, the most similar first, int32 [Q, K], and MaxSim f32 [Q, K]."""
        queries, documents = self._texts(outputs)
        ends = np.cumsum([len(document) for document in documents])
        return maxsim.rank_all(queries, np.concatenate(documents), ends, ranks)

    def similarities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns MaxSim of the two texts of each pair, float64 [M]."""
        queries, documents = self._texts(outputs)
        return np.asarray(
            [maxsim.maxsim(queries[query], documents[document]) for query, document, *_ in self.evaluated.members]
        )

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Warns of vectors that are all the same."""
        found = np.concatenate([part for parts in self._texts(outputs) for part in parts])
        if len(found) > 1 and float(found.std(axis=0).max()) < 1e-6:
            return ("all tokens have the same vector: the model has collapsed (a lower learning rate?)",)
        return ()

    def _texts(self, outputs: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        count = len(self.evaluated.queries)
        found = token_vectors(self.spec, self.evaluated.encoded, outputs, count)
        return found[:count], found[count:]
