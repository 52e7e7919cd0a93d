"""A restored run as a judge of images (`core.judging`); `training.saved_run` opens it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.judging import Judged, JudgesImages
from jaxfm.core.task import Predictor
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.training.evaluation import Evaluator, bucket


def check_judge(predictor: Predictor, task: str, place: str) -> None:
    """Raises UserError, which begins with `place`, unless the predictor of a run of that task judges images."""
    if not isinstance(predictor, JudgesImages):
        raise UserError(
            f"{place} is a run of the task {task}, which does not judge images. Name a run of the task "
            "image_classification."
        )
    if problem := predictor.judge_problem():
        raise UserError(f"{place}: {problem}")


class RunJudge:
    """A run that classifies images (implements core.judging.Judge)."""

    def __init__(self, predictor: Any, graphdef: nnx.GraphDef[Any], params: Any, mesh: Mesh, batch_size: int):
        """Takes a predictor that `check_judge` accepts, and its model restored over a mesh."""
        self._predictor, self._graphdef, self._params = predictor, graphdef, params
        self._mesh, self._batch_size = mesh, batch_size
        self._evaluators: dict[int, Evaluator] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._predictor.labels

    def __call__(self, images: Sequence[np.ndarray]) -> Judged:
        """Judges images."""
        at_once = self._predictor.records_at_once
        found = [self._judged(images[first : first + at_once]) for first in range(0, len(images), at_once)]
        if not found:
            return Judged([], np.zeros((0, 1), np.float32))
        return Judged([label for each in found for label in each.labels], np.concatenate([each[1] for each in found]))

    def _judged(self, images: Sequence[np.ndarray]) -> Judged:
        records = [{"image": StoredImage(f"image {number}", array=each)} for number, each in enumerate(images)]
        encoded = self._predictor.encode(records)
        size = bucket(self._batch_size, len(encoded.rows), self._mesh)
        if size not in self._evaluators:
            self._evaluators[size] = Evaluator(self._predictor.judging_outputs, self._graphdef, self._mesh, size)
        return self._predictor.judged(encoded, self._evaluators[size](self._params, encoded.rows))
