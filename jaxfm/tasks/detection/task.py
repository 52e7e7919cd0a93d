"""The task `detection`: a source of images with boxes to an objective, rows and scores."""

# E images, M most objects of an image, Q detection tokens

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import with_own
from jaxfm.core.initial import HostArray, ImageLayout, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.images.boxed_sources import largest, read_boxed
from jaxfm.data.images.boxes import BoxedExample, BoxedSplit
from jaxfm.data.images.rows import ImageRows
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.evaluation import average_precision
from jaxfm.families.registry import detector_family
from jaxfm.models.boxes import MatchingCosts
from jaxfm.models.inputs.augmentation import Augmentation
from jaxfm.schema import replaced
from jaxfm.tasks.detection.objective import DetectionLoss, DetectionObjective
from jaxfm.tasks.detection.predictor import DetectionPredictor
from jaxfm.tasks.detection.results import targets
from jaxfm.tasks.detection.scorer import LOSS, DetectionScorer, directions
from jaxfm.tasks.detection.spec import BOXES, LABELS, NAME, DetectionConfig, DetectionSpec
from jaxfm.tasks.image_checks import check_images
from jaxfm.tasks.image_options import Reading
from jaxfm.tasks.image_rows import (
    image_rows,
    kept_examples,
    most_in_a_row,
    of_segments,
    read_rows,
    with_statistics,
)
from jaxfm.tasks.media_options import DEFAULTS

FEWEST_IMAGES = 10_000
"""For a start from scratch, below which detectors of this kind learn nothing."""
_USUAL_TOKENS = 100  # Fang et al. 2021
# Classes where no data says how many.
_SOME_CLASSES = ("one", "other")


@dataclasses.dataclass(frozen=True)
class DetectionTask:
    """A model of objects over one source (implements jaxfm.core.task.Task)."""

    objective: DetectionObjective
    examples: Mapping[str, tuple[BoxedExample, ...]]
    datasets: Mapping[str, ImageRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, directions())

    def scorer(self, split: str) -> DetectionScorer:
        """Returns what scores a split."""
        return DetectionScorer(self.objective.spec, self.objective.weights, self.examples[split], self.datasets[split])

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json."""
        write_spec(workdir, NAME, self.objective.spec)


class DetectionDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = DetectionConfig
    defaults = {**DEFAULTS, "train.batch_size": 64, "optim.learning_rate": 5e-4}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> DetectionObjective:
        """Builds model and loss without data, for shapes alone."""
        reading = _reading(config, encoder, None)
        spec = _spec(config, reading, _SOME_CLASSES, segments=1, objects=reading.encoder.patches.detection_tokens)
        return DetectionObjective(spec, _weights(config), _augmentation(config))

    def create(self, config: Config, initial: Initial) -> tuple[DetectionTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, too few images for a start from scratch, a box that breaks a rule, an image that
            cannot be decoded, more objects in an image than detection tokens.
        """
        reading = _reading(config, initial.encoder, initial.images)
        read = _read(config, None)
        _check_size(config, read)
        _check_objects(read, reading.encoder.patches.detection_tokens)
        labels, head_note = read["train"].classes, "heads: new"
        fits = "box_head/kernel" in initial.params and set(labels) <= set(initial.labels)
        if fits:
            labels, head_note = initial.labels, "heads: loaded, their classes have those of the data"
        rows = read_rows(reading, read, config)
        reading, pixel_notes = with_statistics(reading, rows["train"])
        segments = max(map(most_in_a_row, rows.values())) if config.data.packed else 1
        spec = _spec(config, reading, labels, segments=segments, objects=max(1, largest({"": read["train"]})[0]))
        examples = {split: kept_examples(found.examples, rows[split]) for split, found in read.items()}
        used = ("encoder/", "classes/", "boxes/", "box_head/", *(("head/",) if fits else ()))
        notes = (
            *initial.notes,
            *initial.left_over(used),
            f"{head_note}, {len(labels)} classes, {spec.tokens} detection tokens an image",
            *(found.note for found in read.values()),
            *(note for found in rows.values() for note in found.notes),
            *pixel_notes,
        )
        metric = average_precision.AP if average_precision.is_installed() else LOSS
        metric = metric if config.eval.metric == AUTO_METRIC else config.eval.metric
        objective = DetectionObjective(spec, _weights(config), _augmentation(config))
        datasets = {split: _with_targets(spec, examples[split], found) for split, found in rows.items()}
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        params = _params(params, initial.encoder, reading.encoder)
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        return DetectionTask(objective, examples, datasets, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = _reading(config, initial.encoder, initial.images)
        read = _read(config, None)
        found = check_images({split: each.examples for split, each in read.items()}, reading, "multi")
        few = [Finding("ok", "objects", f"at most {largest(read)[0]} objects an image")]
        for check, what in (
            (lambda: _check_size(config, read), "number of images"),
            (lambda: _check_objects(read, reading.encoder.patches.detection_tokens), "objects"),
        ):
            try:
                check()
            except UserError as error:
                few.append(Finding("error", what, str(error), "see the message"))
        return DataCheck(found.tables, (*found.findings, *few))

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> DetectionSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(DetectionSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: DetectionSpec, config: Config, source: str, split: str
    ) -> DetectionTask:
        """Builds the task of a trained run over one split of (other) images with boxes, for evaluation."""
        del workdir
        read = _read(replaced(config, {"data.source": source}), (split,), spec.labels)
        _check_objects(read, spec.tokens)
        ((split, found),) = read.items()
        rows = image_rows(spec, [each.image for each in found.examples], broken=config.task.broken_images)
        examples = kept_examples(found.examples, rows)
        datasets = {split: _with_targets(spec, examples, rows)}
        objective = DetectionObjective(spec, _weights(config))
        return DetectionTask(objective, {split: examples}, datasets, (found.note, *rows.notes))

    def predictor(self, workdir: pathlib.Path, spec: DetectionSpec) -> DetectionPredictor:
        """Returns what finds objects in images."""
        del workdir
        return DetectionPredictor(spec)


def _read(config: Config, splits: Sequence[str] | None, classes: Sequence[str] = ()) -> dict[str, BoxedSplit]:
    """Reads splits; one that is scored must have something to find."""
    read = read_boxed(
        config.data.source,
        splits,
        holdout=config.data.holdout,
        by=split_keys(config.data),
        bad=config.task.bad_boxes,
        broken=config.task.broken_images,
        drawn=config.task.drawn_images,
        classes=classes,
    )
    for split, found in read.items():
        if not any(len(example.learned) for example in found.examples):
            raise UserError(f"{config.data.source}: the images of {split!r} have no object: there is nothing to find.")
    return read


def _check_size(config: Config, read: Mapping[str, BoxedSplit]) -> None:
    """Raises UserError without training images, and for a start from scratch on few that nobody asked for."""
    if "train" not in read:
        raise UserError(f"{config.data.source}: has no training images; it has: {', '.join(read)}.")
    images = len(read["train"].examples)
    if config.model.init != "scratch" or images >= FEWEST_IMAGES or config.task.small_data:
        return
    raise UserError(
        f"config.model.init: is scratch, but there are only {images:,} training images. From scratch a detector of "
        f"this kind learns next to nothing from fewer than {FEWEST_IMAGES:,}: 2,000 to 6,000 images gave an average "
        "precision of 0 after 300 epochs (facebookresearch/detr#125, #495). Start from weights (config.model.init: "
        "hf:..., dir:... or run:... of a model of images), or set config.task.small_data=True."
    )


def _check_objects(read: Mapping[str, BoxedSplit], tokens: int) -> None:
    """Raises UserError for an image with more objects than can be found in it."""
    most, example = largest(read)
    if example is not None and most > tokens:
        raise UserError(
            f"{example.origin}: has {most} objects, but the model finds at most {tokens}, one a detection token. Set "
            f"config.task.detection_tokens to at least {most} (of weights that have such tokens, start from an encoder "
            "without), or leave the image out."
        )


def _with_targets(spec: DetectionSpec, examples: Sequence[BoxedExample], rows: ImageRows) -> ImageRows:
    """Returns rows with the objects of their images, of held-out ones as many as an image of training may have.

    Scores read all objects from the examples.
    """
    most = max(spec.objects, max(len(example.learned) for example in examples))
    labels, boxes = (array[:, : spec.objects] for array in targets(spec, examples, most))
    arrays = {LABELS: of_segments(rows, labels, spec.segments), BOXES: of_segments(rows, boxes, spec.segments)}
    return rows.with_fields(arrays, spec.target_fields())


def _reading(config: Config, encoder: EncoderConfig, given: ImageLayout | None) -> Reading:
    """Returns how images are read, by an encoder with detection tokens.

    Raises UserError as `Reading.of`, and for another number of tokens than the weights have.
    """
    patches, asked = encoder.patches, config.task.detection_tokens
    scratch = config.model.init == "scratch"
    if asked and patches.detection_tokens and asked != patches.detection_tokens and not scratch:
        raise UserError(
            f"config.task.detection_tokens: is {asked}, but the weights have {patches.detection_tokens}. Leave it 0."
        )
    if encoder.reads_images:
        tokens = asked or patches.detection_tokens or _USUAL_TOKENS
        patches = dataclasses.replace(patches, detection_tokens=tokens, mask_token=False)
        encoder = dataclasses.replace(encoder, patches=patches, family=detector_family(encoder.family))
    # Nothing is cut off an image: a middle would leave boxes outside.
    given = given and dataclasses.replace(given, rule="squash", shorter_side=0)
    return Reading.of(config, encoder, given)


def _params(params: Mapping[str, HostArray], own: EncoderConfig, wanted: EncoderConfig) -> dict[str, HostArray]:
    """Returns loaded parameters for an encoder that was given detection tokens: their positions, no mask token."""
    found = {name: value for name, value in params.items() if name != "encoder/embeddings/mask_token"}
    more = wanted.patches.detection_tokens - own.patches.detection_tokens
    path = "encoder/embeddings/position/embedding"
    if more and path in found:
        table = np.asarray(found[path], np.float32)
        found[path] = np.concatenate([table, np.zeros((more, table.shape[1]), np.float32)])
    return found


def _spec(config: Config, reading: Reading, labels: tuple[str, ...], *, segments: int, objects: int) -> DetectionSpec:
    return DetectionSpec(
        labels=labels,
        encoder=reading.encoder,
        layout=reading.layout,
        row_length=reading.row_length,
        segments=segments,
        packed=config.data.packed,
        objects=objects,
        threshold=config.task.threshold,
    )


def _weights(config: Config) -> DetectionLoss:
    task = config.task
    costs = MatchingCosts(task.loss.class_cost, task.loss.boxes, task.loss.overlap)
    return DetectionLoss(costs, task.loss.no_object, task.loss.classes, task.loss.patches)


def _augmentation(config: Config) -> Augmentation | None:
    """Returns what is done to training images; None: nothing. What lies outside of a moved image is black."""
    keys = config.task.augment
    found = Augmentation(crop=keys.crop, pad_crop=keys.pad_crop, flip=keys.flip, erase=keys.erase, border="zero")
    return found if found.changes_pixels else None
