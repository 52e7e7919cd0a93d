"""Images that a model made beside real ones, as a classifier sees them: what they show, how far they lie apart."""

# n images

import dataclasses
import functools
import math
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
    """What a judge says of some images.

    Attributes:
      right: bool [n], whether each is taken for the class that it is, or was asked to be.
      distance: Fréchet distance of their features from those of the split's real images; NaN where it has none.
    """

    right: np.ndarray
    distance: float

    @property
    def recognised(self) -> float:
        """The share of them that is taken for its class."""
        return float(self.right.mean()) if len(self.right) else float("nan")

    def facts(self) -> dict[str, float]:
        """Returns the numbers that there are, as JSON values."""
        known = {"images": len(self.right), RECOGNISED: self.recognised, DISTANCE: self.distance}
        return {name: value for name, value in known.items() if not math.isnan(value)}


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
        return Comparison(np.asarray(right, bool), frechet_distance(found.features, self._real.features))
