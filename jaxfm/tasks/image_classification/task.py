"""The task `image_classification`: a source of labelled images to an objective, rows and scores."""

# E images, C classes

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.labels import IMAGE as IMAGE_COLUMN
from jaxfm.core.labels import LABEL, LabelledRecord
from jaxfm.core.records import IMAGE, EncodedRecords, ImageRecord, Record, one_place_each
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.images.examples import ImageExample, ImageSplit, read_images
from jaxfm.data.images.rows import ImageRows
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities, read_calibration
from jaxfm.evaluation.classes import undefined_metrics
from jaxfm.schema import replaced
from jaxfm.tasks.class_balance import choose_metric
from jaxfm.tasks.class_targets import (
    directions,
    given_classes,
    ordered_labels,
    target_counts,
    target_losses,
    undefined_metric_note,
)
from jaxfm.tasks.image_checks import check_images
from jaxfm.tasks.image_classification.objective import ImageClassifierObjective
from jaxfm.tasks.image_classification.predictor import ImageClassifierPredictor
from jaxfm.tasks.image_classification.scorer import ImageClassifierScorer
from jaxfm.tasks.image_classification.spec import NAME, ImageClassificationConfig, ImageClassifierSpec
from jaxfm.tasks.image_options import Reading, augmentation, image_columns
from jaxfm.tasks.image_rows import (
    image_rows,
    kept_examples,
    most_in_a_row,
    pixel_rows,
    read_rows,
    with_labels,
    with_statistics,
)
from jaxfm.tasks.media_options import DEFAULTS
from jaxfm.tasks.segment_scorer import per_segment, target, targets_of

# Classes where no data says how many.
_SOME_CLASSES = ("no", "yes")


@dataclasses.dataclass(frozen=True)
class ImageClassificationTask:
    """A classifier of images over one source (implements Task, ChangesRecords and HasClassLabels of jaxfm.core)."""

    objective: ImageClassifierObjective
    examples: Mapping[str, tuple[ImageExample, ...]]
    datasets: Mapping[str, ImageRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        spec = self.objective.spec
        return with_own(NAME, directions(spec.kind, spec.labels))

    def scorer(self, split: str) -> ImageClassifierScorer:
        """Returns what scores a split."""
        return ImageClassifierScorer(self.objective.spec, self.examples[split], self.datasets[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold is the class, or a list of labels."""
        one = self.objective.spec.kind == "single"
        return [
            {"image": each.image, "origin": each.origin, "gold": each.labels[0] if one else list(each.labels)}
            for each in self.examples[split]
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json."""
        write_spec(workdir, NAME, self.objective.spec)

    reads = IMAGE

    @property
    def probability(self) -> str:
        """What makes probabilities of logits."""
        return "softmax" if self.objective.spec.kind == "single" else "sigmoid"

    def records(self, split: str) -> list[Record]:
        """Returns the images of a split in the size in which the model reads them."""
        rows = self.datasets[split]
        return [ImageRecord(rows.image(number)) for number in range(len(rows.images))]

    def with_records(self, split: str, records: Sequence[Record], index: Sequence[int]) -> "ImageClassificationTask":
        """Returns the task over some images of this split with other pixels."""
        spec = self.objective.spec
        kept = [self.examples[split][number] for number in index]
        rows = pixel_rows(spec, list(_pixels(records)), [each.image.origin for each in kept])
        images = zip(kept, rows.images, strict=True)
        changed = tuple(dataclasses.replace(each, image=image) for each, image in images)
        rows = with_labels(rows, targets_of(spec, changed), spec.label_field())
        return dataclasses.replace(self, examples={split: changed}, datasets={split: rows})

    def encode_records(self, records: Sequence[Record]) -> EncodedRecords:
        """Returns rows of images without targets."""
        rows = pixel_rows(self.objective.spec, list(_pixels(records)))
        return EncodedRecords(rows, one_place_each(rows.example_locations), rows)

    def unit_logits(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the logits [1, C] of each image."""
        return list(per_segment(encoded.detail, outputs["outputs"])[:, None])

    def classes(self, split: str) -> np.ndarray | None:
        """Returns the class of each image."""
        spec = self.objective.spec
        return targets_of(spec, self.examples[split]) if spec.kind == "single" else None

    def other_records(self, source: str, split: str) -> list[Record]:
        """Reads the images of a split of another source."""
        ((_, found),) = read_images(source, (split,), labels="none").items()
        rows = image_rows(self.objective.spec, [each.image for each in found.examples])
        return [ImageRecord(rows.image(number)) for number in range(len(rows.images))]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the classes."""
        return self.objective.spec.labels

    def label_problem(self) -> str:
        """Returns "": each image has classes."""
        return ""

    def labelled(self, split: str) -> list[LabelledRecord]:
        """Returns the images."""
        spec, examples = self.objective.spec, self.examples[split]
        return [
            LabelledRecord(
                {IMAGE_COLUMN: each.image, LABEL: each.labels[0] if spec.kind == "single" else list(each.labels)},
                each.origin,
                own,
            )
            for each, own in zip(examples, given_classes(targets_of(spec, examples)), strict=True)
        ]

    def class_probabilities(self, split: str, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the probability of each class of each image."""
        spec = self.objective.spec
        logits_EC = per_segment(self.datasets[split], outputs["outputs"])
        return list(probabilities(logits_EC, {}, spec.kind)[:, None])


class ImageClassificationDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = ImageClassificationConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ImageClassifierObjective:
        """Builds model and loss without data, for shapes alone."""
        reading = Reading.of(config, encoder)
        spec = _spec(config, reading, _SOME_CLASSES, segments=1)
        return ImageClassifierObjective(spec, r_drop=config.task.loss.r_drop, augmentation=augmentation(config))

    def create(self, config: Config, initial: Initial) -> tuple[ImageClassificationTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, fewer than two classes, a class unseen in training, an image that cannot be
            decoded.
        """
        task = config.task
        reading = Reading.of(config, initial.encoder, initial.images)
        read = _read(config, None)
        labels = read["train"].classes or ordered_labels(
            task.kind,
            (each.labels[0] if task.kind == "single" else each.labels for each in read["train"].examples),
            config.data.source,
        )
        head_note = "head: new"
        if set(initial.labels) == set(labels):
            labels, head_note = initial.labels, "head: loaded, its classes are those of the data"
        rows = read_rows(reading, read, config)
        reading, pixel_notes = with_statistics(reading, rows["train"])
        segments = max(map(most_in_a_row, rows.values())) if config.data.packed else 1
        spec = _spec(config, reading, labels, segments=segments)
        examples = {split: kept_examples(found.examples, rows[split]) for split, found in read.items()}
        targets = {split: targets_of(spec, found) for split, found in examples.items()}
        counts_C = target_counts(spec.kind, labels, targets["train"])
        check_metrics(NAME, [target(spec, example) for example in examples["train"]])
        metric, metric_note = choose_metric(task.kind, labels, counts_C)
        config = replaced(config, {"eval.metric": metric}) if config.eval.metric == AUTO_METRIC else config
        used = ("encoder/", *(("head/",) if initial.labels == labels and _fits(spec, initial) else ()))
        listed = ", ".join(labels[:10]) + (" ..." if len(labels) > 10 else "")
        notes = (
            *initial.notes,
            *initial.left_over(used),
            f"{head_note}, {len(labels)} classes ({listed})",
            *(found.note for found in read.values()),
            *(note for found in rows.values() for note in found.notes),
            *pixel_notes,
            *([metric_note] if config.eval.metric == metric and metric_note else []),
            *undefined_metric_note(
                config.eval.metric, undefined_metrics(task.kind, targets["valid"]) if "valid" in targets else {}
            ),
        )
        objective = ImageClassifierObjective(
            spec, *target_losses(task.kind, task.loss, labels, counts_C), task.loss.r_drop, augmentation(config)
        )
        datasets = {split: with_labels(found, targets[split], spec.label_field()) for split, found in rows.items()}
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        return ImageClassificationTask(objective, examples, datasets, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = Reading.of(config, initial.encoder, initial.images)
        examples = {split: found.examples for split, found in _read(config, None).items()}
        return check_images(examples, reading, config.task.kind)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ImageClassifierSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(ImageClassifierSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: ImageClassifierSpec, config: Config, source: str, split: str
    ) -> ImageClassificationTask:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        del workdir
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,)).items()
        rows = image_rows(spec, [each.image for each in found.examples], broken=config.task.broken_images)
        examples = kept_examples(found.examples, rows)
        rows = with_labels(rows, targets_of(spec, examples), spec.label_field())
        notes = (found.note, *rows.notes)
        return ImageClassificationTask(ImageClassifierObjective(spec), {split: examples}, {split: rows}, notes)

    def predictor(self, workdir: pathlib.Path, spec: ImageClassifierSpec) -> ImageClassifierPredictor:
        """Returns what judges images, with the calibration that the run fitted."""
        return ImageClassifierPredictor(spec, read_calibration(workdir))


def _pixels(records: Sequence[Record]) -> Iterator[np.ndarray]:
    for each in records:
        assert isinstance(each, ImageRecord)
        yield each.pixels


def _read(config: Config, splits: Sequence[str] | None) -> dict[str, ImageSplit]:
    return read_images(
        config.data.source,
        splits,
        columns=image_columns(config),
        holdout=config.data.holdout,
        by=split_keys(config.data),
        labels=config.task.kind,
    )


def _spec(config: Config, reading: Reading, labels: tuple[str, ...], *, segments: int) -> ImageClassifierSpec:
    own, asked = reading.encoder.patches, config.task.pooling
    if asked.startswith("cls") and not own.class_token:
        raise UserError(f"config.task.pooling: is {asked!r}, but this encoder has no class token. Take mean.")
    return ImageClassifierSpec(
        kind=config.task.kind,
        labels=labels,
        encoder=reading.encoder,
        pooling=own.pooling if asked == "auto" else asked,
        layout=reading.layout,
        row_length=reading.row_length,
        segments=segments,
        packed=config.data.packed,
        threshold=config.task.threshold,
    )


def _fits(spec: ImageClassifierSpec, initial: Initial) -> bool:
    """Whether a loaded head judges the vectors that this run makes."""
    kernel = initial.params.get("head/kernel")
    vectors = 2 if spec.pooling == "cls_mean" else 1
    same = spec.pooling == initial.encoder.patches.pooling
    return kernel is not None and same and kernel.shape[0] == vectors * spec.encoder.hidden_size
