"""Scores of a split of images: the loss of codes that are always masked alike, and images that are made."""

# E images, n made ones, G cells, R rounds

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.images.codebook import Codebook
from jaxfm.data.images.examples import ImageExample
from jaxfm.observe.image_sheets import Tile, draw_sheet
from jaxfm.observe.tables import Table
from jaxfm.tasks.held_out import HeldOut
from jaxfm.tasks.image_generation.judged import DISTANCE, RECOGNISED, Comparison, Judging
from jaxfm.tasks.image_generation.rows import picture
from jaxfm.tasks.image_generation.spec import ImageGenerationSpec

DIRECTIONS = {"loss": False, "accuracy": True, RECOGNISED: True, DISTANCE: False}
_SHOWN_CLASSES, _SHOWN = 10, 8  # of the sheet: classes, and images of each
_ONE = 0.9  # share of the images of a class that are one image, from which it is said


@dataclasses.dataclass(frozen=True)
class ImageGenerationScorer:
    """A split's images and their rows (implements jaxfm.core.task.Scorer).

    Attributes:
      spec: of the model.
      codebook: what its codes look like.
      error: of the codebook on the split's images, in grey levels.
      examples: the images.
      made: number of the class of each image that is made, int [n].
      rows: of all these.
      judging: a classifier that judges what is made; None: none.
    """

    spec: ImageGenerationSpec
    codebook: Codebook
    error: float
    examples: tuple[ImageExample, ...]
    made: np.ndarray
    rows: HeldOut
    judging: Judging | None

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Loss (nats a masked code) and accuracy of masked codes; with a judge, what it says of the images made."""
        return self._metrics(self.rows.sums(outputs), self._compared(self._codes(outputs)))

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where nearly all images that are made of a class are one image."""
        return self._warnings(self._codes(outputs))

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns the scores, a sheet of what is made, and all that is made."""
        del calibration
        codes, sums = self._codes(outputs), self.rows.sums(outputs)
        found = self._compared(codes)
        metrics = self._metrics(sums, found)
        judged = {} if self.judging is None else self._beside(self.judging)
        scores = {name: each.facts() for name, each in judged.items() if each is not None}
        return Evaluation(
            metrics=metrics,
            scores={**metrics, "made": len(codes), "codebook_error": self.error, "real_images": scores},
            tables=self._tables(metrics, found, judged),
            predictions=self._records(codes, self.rows.scores(outputs)),
            warnings=self._warnings(codes),
            bootstrap_data=self._bootstrap_data(sums),
            group_data=None if found is None else self._judged_data(found),
            plots={"samples": functools.partial(self._draw, codes)} if len(codes) else {},
        )

    def _codes(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the codes of the images that are made, int [n, G]."""
        return np.asarray(self.rows.written(outputs), np.int32).reshape(-1, self.spec.cells)

    def _compared(self, codes_nG: np.ndarray) -> Comparison | None:
        if self.judging is None or not len(codes_nG):
            return None
        pixels = [picture(self.spec, self.codebook, codes) for codes in codes_nG]
        return self.judging.compare(pixels, [self.spec.classes[number] for number in self.made.tolist()])

    def _metrics(self, sums: Mapping[str, np.ndarray], found: Comparison | None) -> dict[str, float]:
        weight = max(float(sums["weight"].sum()), 1.0)
        metrics = {"loss": float(sums["loss"].sum()) / weight, "accuracy": float(sums["right"].sum()) / weight}
        if found is not None:
            metrics |= {RECOGNISED: found.recognised, DISTANCE: found.distance}
        return metrics

    def _beside(self, judging: Judging) -> dict[str, Comparison | None]:
        return {"real images of the split": judging.of_real, "training images": judging.of_training}

    def _warnings(self, codes_nG: np.ndarray) -> tuple[str, ...]:
        alike = []
        for number, name in enumerate(self.spec.classes):
            own = codes_nG[self.made == number]
            if len(own) < 4:
                continue
            _, counts = np.unique(own, axis=0, return_counts=True)
            if counts.max() >= _ONE * len(own):
                alike.append(name)
        if not alike:
            return ()
        listed = ", ".join(alike[:5]) + (" ..." if len(alike) > 5 else "")
        return (f"nearly all images that are made of a class are one image, of: {listed}. Raise task.unmasking.steps, "
                "temperature or order_noise, or train longer.",)  # fmt: skip

    def _bootstrap_data(self, sums: Mapping[str, np.ndarray]) -> BootstrapData:
        return BootstrapData(
            sampling_unit="images",
            units=dict(sums),
            computed=_sums,
            identity=[(each.image.origin, each.labels) for each in self.examples],
            less_is_better=("loss",),
        )

    def _judged_data(self, found: Comparison) -> BootstrapData:
        """Returns the share that is recognised, as a function of the images that are made.

        The distance is no such function: drawn again, an image has copies, and a set with copies lies farther away.
        """
        return BootstrapData(
            sampling_unit="images made",
            units={RECOGNISED: found.right.astype(np.float64)},
            computed=_share,
            identity=[(number, place) for place, number in enumerate(self.made.tolist())],
            right=found.right,
            shares=(RECOGNISED,),
        )

    def _tables(
        self, metrics: Mapping[str, float], found: Comparison | None, judged: Mapping[str, Comparison | None]
    ) -> tuple[Table, ...]:
        known = (len(self.examples), metrics["loss"], metrics["accuracy"], self.error)
        columns = ("images", "loss", "accuracy", "error of the codes (grey levels of 255)")
        tables = [Table("Masked codes (the same ones in every evaluation)", columns, [known])]
        if found is not None:
            rows = [
                (name, len(each.right), each.recognised, None if math.isnan(each.distance) else each.distance)
                for name, each in {"made": found, **judged}.items()
                if each is not None
            ]
            columns = ("", "images", "recognised", "Fréchet distance from the split")
            tables.append(Table("As task.judge sees them", columns, rows))
        return tuple(tables)

    def _records(self, codes_nG: np.ndarray, scores: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields one record an image that is made."""
        for number, codes, score in zip(self.made.tolist(), codes_nG, scores, strict=True):
            yield {"class": self.spec.classes[number], "codes": codes.tolist(), "score": round(float(score), 4)}

    def _draw(self, codes_nG: np.ndarray, path: pathlib.Path) -> None:
        draw_samples(self.spec, self.codebook, codes_nG, self.made, path)


def draw_samples(
    spec: ImageGenerationSpec, codebook: Codebook, codes_nG: np.ndarray, made: Sequence[int] | np.ndarray,
    path: pathlib.Path,
) -> None:  # fmt: skip
    """Draws a sheet with a row a class of the first images that were made of it."""
    tiles = []
    for number, name in list(enumerate(spec.classes))[:_SHOWN_CLASSES]:
        own = codes_nG[np.asarray(made) == number][:_SHOWN]
        blank = np.full((spec.image_size, spec.image_size, spec.channels), 255, np.uint8)
        shown = [picture(spec, codebook, codes) for codes in own]
        tiles += [Tile(pixels, (name,)) for pixels in shown]
        tiles += [Tile(blank, ("",))] * (_SHOWN - len(shown))
    draw_sheet(tiles, path, title="Images that were made, a row a class", columns=_SHOWN)


def _sums(units: Units, weight_RE: np.ndarray) -> dict[str, np.ndarray]:
    total = np.maximum(weight_RE @ units["weight"], 1e-12)
    return {"loss": weight_RE @ units["loss"] / total, "accuracy": weight_RE @ units["right"] / total}


def _share(units: Units, weight_Rn: np.ndarray) -> dict[str, np.ndarray]:
    return {RECOGNISED: weight_Rn @ units[RECOGNISED] / np.maximum(weight_Rn.sum(axis=1), 1e-12)}
