"""Scores of a split of labelled images; see jaxfm.evaluation.classes for what is counted."""

# C classes, E images

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.data.images.examples import ImageExample
from jaxfm.data.images.rows import ImageRows
from jaxfm.observe.examples import WrongExample
from jaxfm.tasks.image_classification.errors import sheet, worst_images
from jaxfm.tasks.image_classification.spec import NAME, ImageClassifierSpec
from jaxfm.tasks.segment_scorer import SegmentClassScorer


@dataclasses.dataclass(frozen=True)
class ImageClassifierScorer(SegmentClassScorer):
    """A split's images and their rows (implements jaxfm.core.task.Scorer)."""

    spec: ImageClassifierSpec
    examples: tuple[ImageExample, ...]
    rows: ImageRows

    task = NAME
    medium = "image"

    def name_of(self, example: ImageExample) -> str:
        """See `SegmentClassScorer`."""
        return example.image.origin

    def worst(self, found_EC: np.ndarray, loss_E: np.ndarray) -> tuple[tuple[WrongExample, ...], Mapping[str, Any]]:
        """See `SegmentClassScorer`; the plot is a sheet of pictures."""
        worst = worst_images(self.spec, self.examples, found_EC, loss_E)
        return tuple(example for _, example in worst), sheet(worst, self.rows)
