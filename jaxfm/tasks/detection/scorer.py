"""Scores of a split of images with objects: average precision as COCO counts it, and the loss."""

# E images, R rounds

import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.images.boxes import BoxedExample
from jaxfm.data.images.rows import ImageRows
from jaxfm.errors import install_hint
from jaxfm.evaluation import average_precision
from jaxfm.evaluation.average_precision import AveragePrecision, FoundObjects, mistakes
from jaxfm.observe.box_pictures import GOLD, RIGHT, WRONG, with_boxes
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.observe.image_sheets import Tile, draw_sheet
from jaxfm.observe.tables import Table
from jaxfm.tasks.detection.objective import DetectionLoss, ImageSums, total_loss
from jaxfm.tasks.detection.results import above, found_objects, gold_objects, losses, per_image, told
from jaxfm.tasks.detection.spec import BOXES, NAME, DetectionSpec

LOSS = "loss"


def directions() -> dict[str, bool]:
    """Returns metrics that may choose a checkpoint -> is more better?"""
    known = dict.fromkeys(average_precision.METRICS, True) if average_precision.is_installed() else {}
    return {**known, LOSS: False}


@dataclasses.dataclass(frozen=True)
class DetectionScorer:
    """A split's images and their rows (implements jaxfm.core.task.Scorer)."""

    spec: DetectionSpec
    weights: DetectionLoss
    examples: tuple[BoxedExample, ...]
    rows: ImageRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Average precision where it can be counted, and the loss of all images as one batch."""
        found = self._found(outputs)
        precision = self._precision(found)
        own = self._own_metrics(found)
        return {**(precision.metrics if precision else {}), LOSS: _loss(self._losses(outputs), self.weights), **own}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Says so where average precision is not counted."""
        del outputs
        if average_precision.is_installed():
            return ()
        return (f"only the loss is scored; average precision needs pycocotools: {install_hint('detection')}.",)

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing is fitted."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, those of each class, the images with most amiss, and a sheet of these."""
        del calibration
        found, sums = self._found(outputs), self._losses(outputs)
        precision, own = self._precision(found), self._own_metrics(found)
        metrics = {**(precision.metrics if precision else {}), LOSS: _loss(sums, self.weights), **own}
        worst = self._worst(found, sums)
        return Evaluation(
            metrics=metrics,
            scores={**metrics, "classes": self._class_scores(precision)},
            tables=(*self._tables(metrics, precision), *own_metrics_table(own)),
            predictions=self._records(found),
            warnings=self.warnings(outputs),
            bootstrap_data=self._bootstrap(sums),
            plots={"worst_errors": functools.partial(self._draw, found, worst)} if worst else {},
            wrong=tuple(example for _, example in worst),
        )

    def _found(self, outputs: Mapping[str, np.ndarray]) -> list[FoundObjects]:
        logits, boxes = per_image(self.rows, outputs["logits"]), per_image(self.rows, outputs[BOXES])
        return [found_objects(logits[at], boxes[at], example.size) for at, example in enumerate(self.examples)]

    def _precision(self, found: Sequence[FoundObjects]) -> AveragePrecision | None:
        if not average_precision.is_installed():
            return None
        gold = [gold_objects(self.spec, example) for example in self.examples]
        return average_precision.average_precision(gold, found, len(self.spec.labels))

    def _losses(self, outputs: Mapping[str, np.ndarray]) -> ImageSums:
        return losses(self.spec, self.examples, self.rows, outputs, self.weights)

    def _own_metrics(self, found: Sequence[FoundObjects]) -> dict[str, float]:
        """Returns registered metrics of lists of (label, box), gold and named."""
        gold = [list(zip(each.labels, each.boxes.tolist(), strict=True)) for each in self.examples]
        named = [[(one["label"], one["box"]) for one in self._named(each)] for each in found]
        return own_metrics(NAME, gold, named)

    def _named(self, found: FoundObjects) -> list[dict[str, Any]]:
        return told(self.spec, above(found, self.spec.threshold))

    def _class_scores(self, precision: AveragePrecision | None) -> dict[str, float | None]:
        if precision is None:
            return {}
        values = zip(self.spec.labels, precision.classes.tolist(), strict=True)
        return {label: None if np.isnan(value) else value for label, value in values}

    def _tables(self, metrics: Mapping[str, float], precision: AveragePrecision | None) -> list[Table]:
        counts = {label: 0 for label in self.spec.labels}
        for example in self.examples:
            for index in example.learned:
                counts[example.labels[index]] += 1
        tables = [Table("Objects", ("metric", "value"), list(metrics.items()))]
        if precision is not None:
            rows = [(label, counts[label], value) for label, value in self._class_scores(precision).items()]
            tables.append(Table("Average precision of each class", ("class", "objects", "ap"), rows))
        return tables

    def _bootstrap(self, sums: ImageSums) -> BootstrapData:
        units = {name: np.asarray(values, np.float64) for name, values in sums._asdict().items()}
        identity = [(each.origin, each.labels, each.boxes.tolist()) for each in self.examples]
        computed = functools.partial(_drawn_loss, weights=self.weights)
        return BootstrapData("images", units, computed, identity, self.spec.labels, less_is_better=(LOSS,))

    def _worst(self, found: Sequence[FoundObjects], sums: ImageSums) -> list[tuple[int, WrongExample]]:
        """Returns number and facts of images in which something is missed or wrong, that of most loss first."""
        each = [_loss(ImageSums(*(values[at] for values in sums)), self.weights) for at in range(len(self.examples))]
        shown: list[tuple[int, WrongExample]] = []
        for at in np.argsort(-np.asarray(each), kind="stable").tolist():
            if len(shown) == SHOWN:
                break
            example, named = self.examples[at], above(found[at], self.spec.threshold)
            missed, wrong = mistakes(gold_objects(self.spec, example), named)
            if missed or wrong:
                facts = (
                    ("missed", ", ".join(example.labels[index] for index in missed) or "nothing"),
                    ("wrong", ", ".join(self.spec.labels[named.classes[index]] for index in wrong) or "nothing"),
                    (LOSS, each[at]),
                )
                shown.append((at, WrongExample(example.origin, (View("image", example.image.origin),), facts)))
        return shown

    def _draw(
        self, found: Sequence[FoundObjects], worst: Sequence[tuple[int, WrongExample]], path: pathlib.Path
    ) -> None:
        """Draws the worst images: objects in white, what was named in green where it is right, in red elsewhere."""
        tiles = []
        for at, facts in worst:
            example, named = self.examples[at], above(found[at], self.spec.threshold)
            _, wrong = mistakes(gold_objects(self.spec, example), named)
            height, width = example.size
            scale = np.asarray([width, height, width, height])
            boxes = [(box / scale, GOLD) for box in example.boxes]
            boxes += [(box / scale, WRONG if number in wrong else RIGHT) for number, box in enumerate(named.boxes)]
            said = dict(facts.facts)
            lines = tuple(f"{name}: {said[name]}" for name in ("missed", "wrong") if said[name] != "nothing")
            tiles.append(Tile(with_boxes(self.rows.image(at), boxes), lines))
        draw_sheet(tiles, path, title="Worst images: objects white, found green, found wrongly red")

    def _records(self, found: Sequence[FoundObjects]) -> Iterator[dict[str, Any]]:
        """Yields one record an image: where it was read, its objects, and those that were named."""
        for example, each in zip(self.examples, found, strict=True):
            gold = [
                {"label": label, "box": [round(value, 2) for value in box]}
                for label, box in zip(example.labels, example.boxes.tolist(), strict=True)
            ]
            yield {
                "origin": example.origin,
                "image": example.image.origin,
                "gold": gold,
                "predicted": self._named(each),
            }


def _loss(sums: ImageSums, weights: DetectionLoss) -> float:
    added = ImageSums(*(np.asarray(values, np.float64).sum() for values in sums))  # type: ignore[arg-type]
    return float(total_loss(added, weights))


def _drawn_loss(images: Units, weight_RN: np.ndarray, *, weights: DetectionLoss) -> dict[str, np.ndarray]:
    """Returns the loss of each round of drawn images [R]."""
    sums = ImageSums(**{name: weight_RN @ values for name, values in images.items()})  # type: ignore[arg-type]
    return {LOSS: np.asarray(total_loss(sums, weights))}
