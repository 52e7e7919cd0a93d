"""Results of a trained run traced back to words and patches, of one record or of many together."""

# N rows, T tokens, W words

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset
from jaxfm.core.explained import PROBABILITIES, SCORES, Explained
from jaxfm.core.task import ExplainsResults, Predictor, ReadsNeighbours
from jaxfm.data.text.short_rows import short_row
from jaxfm.errors import UserError
from jaxfm.models.each_layer import attention_problem
from jaxfm.training.attribution import INTEGRATED, ROLLOUT, STEPS, Attribution, Shares
from jaxfm.training.record_vectors import RecordVectors
from jaxfm.training.saved_run import Restored

MOST_EXPLAINED = 2048  # tokens of rows of one text: an explanation computes each of them 32 times a target, both ways
_AT_ONCE = 256  # records
_BLANK = {"text": "", "origin": "between two records"}


class Rows(NamedTuple):
    """Records that are computed together.

    Attributes:
      rows: what is computed.
      explained: of each record.
    """

    rows: Dataset
    explained: list[Explained]


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """What the result of a record is due to.

    Attributes:
      explained: the record's result, targets and words.
      shares: of each target.
    """

    explained: Explained
    shares: Sequence[Shares]

    def to_dict(self) -> dict[str, Any]:
        """Returns {"result", "targets"} as JSON values; see `Model.explain`."""
        return {"result": dict(self.explained.result), "targets": [self._target(each) for each in self.shares]}

    def _target(self, found: Shares) -> dict[str, Any]:
        words = zip(self.explained.words(), found.shares.tolist(), strict=True)
        return {
            **found.target.of,
            "number": round(found.number, 4),
            "without": round(found.without, 4),
            "words": [
                {"field": field, "start": start, "end": end, "share": round(share, 4)}
                for (field, start, end), share in words
            ],
            "alternatives": [
                {"label": label, "score": round(score, 4)} for label, score in found.target.alternatives.items()
            ],
        }


class Explainer:
    """Explains what a predictor finds, by the parameters of a run."""

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        restored: Restored,
        evaluate: Callable[[Dataset], Mapping[str, np.ndarray]],
        mesh: Mesh,
        batch_size: int,
    ):
        """Takes what a model is made of; `name` begins messages.

        Raises UserError where results of the task, or of this model, are not explained.
        """
        if not isinstance(predictor, ExplainsResults):
            raise UserError(f"{name} are not explained.")
        if problem := predictor.explain_problem():
            raise UserError(f"{name}: {problem}")
        self._name, self._explains, self._restored, self._evaluate = name, predictor, restored, evaluate
        self._mesh, self._batch_size = mesh, batch_size
        self._blank_between = isinstance(predictor, ReadsNeighbours) and predictor.reads_neighbours
        self._attributions: dict[tuple[int, int], Attribution] = {}

    def check(self, method: str) -> None:
        """Raises UserError where a method has no meaning for this model."""
        if method == ROLLOUT and (problem := attention_problem(self._explains.spec.encoder)):  # type: ignore[attr-defined]
            raise UserError(f"--method={ROLLOUT}: {problem} Take another method.")

    def prepared(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Rows]:
        """Yields records encoded and computed, as many as are explained together."""
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, _AT_ONCE)):
            yield self._prepared(chunk)

    def _prepared(self, chunk: Sequence[Mapping[str, Any]]) -> Rows:
        step = 1
        if self._blank_between and len(chunk) > 1:  # or records would be read with their neighbours
            chunk, step = [each for record in chunk for each in (record, _BLANK)], 2
        encoded = self._explains.encode_explained(chunk)
        rows = short_row(encoded.rows)
        return Rows(rows, self._explains.explained(encoded, self._evaluate(rows))[::step])

    def layer_vectors(self, records: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """Returns a vector a record and layer, f32 [L + 1, N, D]; see `training.record_vectors`.

        Raises UserError for a record without a word.
        """
        vectors, parts = RecordVectors(self._restored.graphdef, self._mesh, self._batch_size), []
        for rows, explained in self.prepared(records):
            tokens = [[(token.row, token.place) for token in each.tokens] for each in explained]
            if not all(tokens):
                number = sum(part.shape[1] for part in parts) + [*map(bool, tokens)].index(False) + 1
                raise UserError(f"record {number}: has no word, so there is no vector of it. Leave it out.")
            parts.append(vectors(self.params, rows, tokens))
        return np.concatenate(parts, axis=1)

    def attribution(self, explained: Sequence[Explained], steps: int = STEPS) -> Attribution:
        """Returns what computes attributions of such records."""
        baseline = explained[0].baseline
        if (baseline, steps) not in self._attributions:
            outputs, graphdef = self._explains.explained_outputs, self._restored.graphdef
            made = Attribution(outputs, graphdef, self._mesh, self._batch_size, baseline, steps)
            self._attributions[baseline, steps] = made
        return self._attributions[baseline, steps]

    @property
    def params(self) -> Any:
        """Of the model."""
        return self._restored.params

    def __call__(
        self, records: Iterable[Mapping[str, Any]], method: str = INTEGRATED, of: str = SCORES, steps: int = STEPS
    ) -> Iterator[Explanation]:
        """Yields what each record's result is due to, in order.

        Args:
          records: as the predictor reads them.
          method: one of `training.attribution.METHODS`.
          of: "scores" (the logits) or "probabilities".
          steps: of integrated gradients.
        """
        self.check(method)
        for rows, explained in self.prepared(records):
            found = self.attribution(explained, steps)(self.params, rows, explained, method, of)
            yield from map(Explanation, explained, found)

    def one(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the explanation of one record's probabilities by integrated gradients; see `Model.explain`.

        Raises UserError for a text of more than 2,048 tokens.
        """
        encoded = self._explains.encode_explained([record])
        if (tokens := (rows := short_row(encoded.rows)).volume.per_row * len(rows)) > MOST_EXPLAINED:
            raise UserError(
                f"{record['origin']}: takes rows of {tokens:,} tokens; texts of up to {MOST_EXPLAINED:,} are "
                "explained. Take a part of it."
            )
        (found,) = self([record], INTEGRATED, PROBABILITIES)
        described = found.to_dict()
        name = "probability" if found.explained.judged else "score"
        described["targets"] = [
            {name if key == "number" else key: value for key, value in target.items()}
            for target in described["targets"]
        ]
        return described
