"""Images that a model made beside real ones, as a classifier sees them: what they show, how far they lie apart."""

# n images

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxfm.core.judging import Judge, Judged
from jaxfm.evaluation.frechet import frechet_distance

RECOGNISED, DISTANCE = "recognised", "frechet"


@dataclasses.dataclass(frozen=True, eq=False)
class RealImages:
    """Real images with their own pixels, not those of their codes.

    Attributes:
      pixels: uint8 [H, W, C] of each.
      classes: name of the class of each.
    """

    pixels: Sequence[np.ndarray]
    classes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a judge says of some images: the row of a table.

    Attributes:
      images: how many.
      recognised: share of them taken for the class that they are, or were asked to be.
      distance: Fréchet distance of their features from those of the split's real images; NaN where it has none.
    """

    images: int
    recognised: float
    distance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Judging:
    """A judge, and the real images that what is made is compared with.

    Attributes:
      judge: the classifier.
      real: images of the split.
      training: some training images; None where a finished run is evaluated: its distance is that of other real images.
    """

    judge: Judge
    real: RealImages
    training: RealImages | None

    def compare(self, pixels: Sequence[np.ndarray], classes: Sequence[str]) -> Comparison:
        """Judges images that were made for classes."""
        return self._compared(self.judge(pixels), classes)

    @functools.cached_property
    def of_real(self) -> Comparison:
        """The split's own images, whose distance from themselves says nothing."""
        return dataclasses.replace(self._compared(self._real, self.real.classes), distance=float("nan"))

    @functools.cached_property
    def of_training(self) -> Comparison | None:
        """The training images."""
        if self.training is None:
            return None
        return self._compared(self.judge(self.training.pixels), self.training.classes)

    @functools.cached_property
    def _real(self) -> Judged:
        return self.judge(self.real.pixels)

    def _compared(self, found: Judged, classes: Sequence[str]) -> Comparison:
        right = [said == wanted for said, wanted in zip(found.labels, classes, strict=True)]
        distance = frechet_distance(found.features, self._real.features)
        return Comparison(len(right), float(np.mean(right)) if right else float("nan"), distance)
