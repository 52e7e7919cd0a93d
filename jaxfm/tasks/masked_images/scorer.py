"""Scores of held-out images of which the same patches are always hidden."""

# S segments (images in a row), E images, N rows, R rounds, V values of a patch

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.images.examples import ImageExample
from jaxfm.data.images.rows import ImageRows
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.masked_images.pictures import SHOWN_IMAGES, draw_reconstructions
from jaxfm.tasks.masked_images.spec import MaskedImagesSpec

DIRECTIONS = {"loss": False}


@dataclasses.dataclass(frozen=True)
class MaskedImagesScorer:
    """A split of images (implements jaxfm.core.task.Scorer)."""

    spec: MaskedImagesSpec
    examples: tuple[ImageExample, ...]
    rows: ImageRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Mean squared error of a value of a hidden patch, in units of the target."""
        error_E, patches_E = self._of_images(outputs)
        return {"loss": float(error_E.sum() / max(patches_E.sum(), 1))}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where nothing but the mean of each patch is learnt yet."""
        loss = self.metrics(outputs)["loss"]
        if not self.spec.normalize_target or loss < 1.0:
            return ()
        return (f"the loss is {loss:.3f}; 1 is what predicting the mean of each patch would give.",)

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the loss, pictures of what was predicted, and the images that were predicted worst."""
        del calibration
        metrics = dict(self.metrics(outputs))
        error_E, patches_E = self._of_images(outputs)
        mean_E = error_E / np.maximum(patches_E, 1)
        unit = "of a patch less its mean, over its deviation" if self.spec.normalize_target else "of pixels"
        table = Table(
            f"Hidden patches ({self.spec.ratio:.0%} of each image)",
            ("images", "hidden patches", f"mean squared error ({unit})"),
            [(len(error_E), int(patches_E.sum()), metrics["loss"])],
        )
        return Evaluation(
            metrics=metrics,
            scores=metrics,
            tables=(table,),
            predictions=self._records(mean_E),
            bootstrap_data=BootstrapData(
                "images",
                {"error": error_E.astype(np.float64), "patches": patches_E.astype(np.float64)},
                _mean_error,
                [example.origin for example in self.examples],
                less_is_better=("loss",),
            ),
            plots=self._pictures(outputs),
            wrong=tuple(
                WrongExample(
                    self.examples[index].origin,
                    (View("image", self.examples[index].image.origin),),
                    (("loss", float(mean_E[index])),),
                )
                for index in np.argsort(-mean_E, kind="stable")[:SHOWN].tolist()
            ),
        )

    def _of_images(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sum of errors and the number of hidden patches of each image [E]."""
        row, segment = self.rows.example_locations.T
        return outputs["error"][row, segment], outputs["hidden_patches"][row, segment]

    def _pictures(self, outputs: Mapping[str, np.ndarray]) -> dict[str, Callable[[pathlib.Path], None]]:
        if "predicted" not in outputs:
            return {}
        chosen = range(min(SHOWN_IMAGES, len(self.examples)))
        return {"reconstructions": functools.partial(draw_reconstructions, self.rows, outputs, chosen)}

    def _records(self, mean_E: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields one record an image: where it was read, and its mean error."""
        for example, loss in zip(self.examples, mean_E.tolist(), strict=True):
            yield {"origin": example.origin, "image": example.image.origin, "loss": round(float(loss), 4)}


def _mean_error(images: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    return {"loss": (weight_RN @ images["error"]) / np.maximum(weight_RN @ images["patches"], 1.0)}
