"""The task `image_generation`: a source of labelled images to a codebook, an objective, rows and scores."""

# E images, G cells, n images to make

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import AUTO, AUTO_METRIC, Config
from jaxfm.core.batch import Dataset
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.core.initial import HostArray, ImageLayout, Initial
from jaxfm.core.judging import open_judge
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.images.codebook import (
    LEVELS,
    Codebook,
    grey_levels,
    learn_codebook,
    read_codebook,
    sample_patches,
)
from jaxfm.data.images.decoding import check_patch
from jaxfm.data.images.examples import ImageExample, ImageSplit, read_images
from jaxfm.data.images.rows import ImageRows
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.families.registry import token_presets
from jaxfm.schema import replaced
from jaxfm.tasks.class_targets import ordered_labels, target_numbers
from jaxfm.tasks.held_out import HeldOut, spread
from jaxfm.tasks.image_checks import check_images
from jaxfm.tasks.image_generation.judged import Judging, RealImages
from jaxfm.tasks.image_generation.objective import ImageGenerationObjective
from jaxfm.tasks.image_generation.predictor import ImageGenerationPredictor
from jaxfm.tasks.image_generation.rows import cells_of, encoded, held_out_rows, read_pixels, training_rows
from jaxfm.tasks.image_generation.scorer import DIRECTIONS, ImageGenerationScorer
from jaxfm.tasks.image_generation.spec import (
    NAME,
    ImageGenerationConfig,
    ImageGenerationSpec,
    vocabulary_size,
)
from jaxfm.tasks.image_options import Reading, image_columns
from jaxfm.tasks.image_rows import kept_examples
from jaxfm.tasks.media_options import DEFAULTS

_SOME_CLASSES = ("no", "yes")  # where no data says how many
_MOST_LEVELS = 256
_JUDGE = "config.task.judge"
# Rows that several images share, in tokens.
_PACKED_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Split:
    """A held-out split.

    Attributes:
      examples: its images.
      pixels: their cells.
      made: class of each image that is to be made, int [n].
      rows: of both.
      judging: what judges the images that are made; None: nothing.
    """

    examples: tuple[ImageExample, ...]
    pixels: ImageRows
    made: np.ndarray
    rows: HeldOut
    judging: Judging | None


@dataclasses.dataclass(frozen=True)
class ImageGenerationTask:
    """A model that makes images with the splits of one source (implements jaxfm.core.task.Task).

    Attributes:
      objective: the model and its loss.
      codebook: what the codes look like.
      training: rows of "train"; None where a trained run is evaluated.
      held_out: other splits.
      notes: lines for the log.
      chosen: see core.task.Task.
    """

    objective: ImageGenerationObjective
    codebook: Codebook
    training: PackedRows | None
    held_out: Mapping[str, Split]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return DIRECTIONS

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> rows."""
        held_out = {split: found.rows for split, found in self.held_out.items()}
        return {**({} if self.training is None else {"train": self.training}), **held_out}

    def scorer(self, split: str) -> ImageGenerationScorer:
        """Returns what scores a held-out split."""
        found = self.held_out[split]
        error = self.codebook.error(np.concatenate(list(cells_of(found.pixels))))
        spec = self.objective.spec
        return ImageGenerationScorer(spec, self.codebook, error, found.examples, found.made, found.rows, found.judging)

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the codebook."""
        self.codebook.write(workdir)
        write_spec(workdir, NAME, self.objective.spec)


class ImageGenerationDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = ImageGenerationConfig
    defaults = {**DEFAULTS, "train.epochs": 100.0, "eval.metric": "loss"}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> ImageGenerationObjective:
        """Builds model and loss without data, for shapes alone."""
        spec = _spec(config, encoder, _SOME_CLASSES, config.task.codes)
        return ImageGenerationObjective(spec, config.task.class_dropout)

    def create(self, config: Config, initial: Initial) -> tuple[ImageGenerationTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, fewer than two classes, a class unseen in training, an image that cannot be
            decoded, an encoder that is loaded or has no table of positions, a judge that is none.
        """
        if initial.params:
            raise UserError(
                f"config.model.init: is {config.model.init!r}, but this task starts from scratch: what a code of "
                "images means is a matter of each run alone. Set --config.model.init=scratch "
                f"--config.model.preset={token_presets()[0]}."
            )
        check_options(config)
        read = _read(config, None)
        if "train" not in read:
            raise UserError(f"config.data.source: has no training images; it has: {', '.join(read)}.")
        labels = (each.labels[0] for each in read["train"].examples)
        classes = ordered_labels("single", labels, config.data.source)
        pixels = {
            split: read_pixels([each.image for each in found.examples], config.task, config.task.broken_images)
            for split, found in read.items()
        }
        codebook = _codebook(config, pixels["train"])
        spec = _spec(config, initial.encoder, classes, len(codebook))
        kept = {split: kept_examples(found.examples, pixels[split]) for split, found in read.items()}
        numbers = {split: _numbers(classes, found) for split, found in kept.items()}
        training = training_rows(spec, encoded(codebook, pixels["train"]), numbers["train"], config.seed)
        held_out = {
            split: _split(config, spec, codebook, split, kept[split], pixels[split], (kept["train"], pixels["train"]))
            for split in read
            if split != "train"
        }
        listed = ", ".join(classes[:10]) + (" ..." if len(classes) > 10 else "")
        notes = (
            *initial.notes,
            f"{len(classes)} classes ({listed})",
            *(found.note for found in read.values()),
            *(note for found in pixels.values() for note in found.notes),
            _said_codes(spec, codebook, pixels, config.task.codebook),
            f"made at an evaluation: {', '.join(f'{len(each.made)} ({name})' for name, each in held_out.items())}"
            f", in {spec.unmasking.steps} steps" + (f"; judged by {config.task.judge}" if config.task.judge else ""),
        )
        metric = "loss" if config.eval.metric == AUTO_METRIC else config.eval.metric
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        objective = ImageGenerationObjective(spec, config.task.class_dropout)
        return ImageGenerationTask(objective, codebook, training, held_out, notes, chosen), {}

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        check_options(config)
        task = config.task
        patches = PatchConfig(task.patch_size, task.channels, grid=(task.image_size // task.patch_size,) * 2)
        shape = dataclasses.replace(initial.encoder, patches=patches)
        reading = Reading(shape, ImageLayout(task.image_size, task.resize), patches.grid[0] ** 2 + 1)
        return check_images({split: found.examples for split, found in _read(config, None).items()}, reading, "single")

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> ImageGenerationSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(ImageGenerationSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: ImageGenerationSpec, config: Config, source: str, split: str
    ) -> ImageGenerationTask:
        """Builds the task of a trained run over one split of (other) labelled images, for evaluation."""
        codebook = read_codebook(workdir, spec.codes, spec.values)
        spec = dataclasses.replace(spec, unmasking=config.task.unmasking)
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,)).items()
        pixels = read_pixels([each.image for each in found.examples], spec, config.task.broken_images)
        examples = kept_examples(found.examples, pixels)
        held_out = {split: _split(config, spec, codebook, split, examples, pixels, None)}
        objective = ImageGenerationObjective(spec)
        return ImageGenerationTask(objective, codebook, None, held_out, (found.note, *pixels.notes))

    def predictor(self, workdir: pathlib.Path, spec: ImageGenerationSpec) -> ImageGenerationPredictor:
        """Returns what makes images."""
        return ImageGenerationPredictor(spec, read_codebook(workdir, spec.codes, spec.values))


def check_options(config: Config) -> None:
    """Raises UserError for sizes that do not go together."""
    task = config.task
    check_patch(task.image_size, task.patch_size)
    if task.codebook != LEVELS:
        return
    for name in ("patch_size", "channels"):
        if getattr(task, name) != 1:
            raise UserError(
                f"config.task.{name}: is {getattr(task, name)}, but grey levels (config.task.codebook=levels) are of "
                f"single grey pixels: set it to 1, or take config.task.codebook=kmeans."
            )
    if task.codes > _MOST_LEVELS:
        raise UserError(f"config.task.codes: is {task.codes}, but there are {_MOST_LEVELS} grey levels at most.")


def _read(config: Config, splits: Sequence[str] | None) -> dict[str, ImageSplit]:
    data = config.data
    columns, by = image_columns(config), split_keys(config.data)
    return read_images(data.source, splits, columns=columns, holdout=data.holdout, labels="single", by=by)


def _codebook(config: Config, train: ImageRows) -> Codebook:
    task = config.task
    if task.codebook == LEVELS:
        return grey_levels(task.codes)
    patches = sample_patches(np.concatenate(list(cells_of(train))), task.codebook_patches, config.seed)
    return learn_codebook(patches, task.codes, config.seed)


def _spec(config: Config, encoder: EncoderConfig, classes: tuple[str, ...], codes: int) -> ImageGenerationSpec:
    """Returns the spec: the encoder with the tokens of codes and classes as vocabulary.

    Raises UserError for an encoder of images or sound, or without a learned table of positions.
    """
    task = config.task
    if encoder.reads_patches or encoder.position_embedding != "learned" or encoder.position_offset:
        what = "reads patches" if encoder.reads_patches else "has no table with a row for each position from the first"
        raise UserError(
            f"config.model: an encoder of family {encoder.family or 'none'!r} {what}. This task reads codes, each at a "
            "place of the image that the encoder learns: take one of BERT's kind, --config.model.init=scratch "
            f"--config.model.preset={' (or '.join(token_presets()[:2])}, ...)."
        )
    length = (task.image_size // task.patch_size) ** 2 + 1
    row_length = config.data.row_length
    if row_length == AUTO:
        row_length = max(_PACKED_ROWS, length) if config.data.packed else length
    if row_length < length:
        raise UserError(
            f"config.data.row_length: is {row_length}, but an image has {length} tokens: its class and "
            f"{length - 1} codes. Take auto, or at least {length}."
        )
    shaped = dataclasses.replace(encoder, vocab_size=vocabulary_size(codes, len(classes)), max_positions=length)
    return ImageGenerationSpec(
        classes=classes,
        encoder=shaped,
        image_size=task.image_size,
        patch_size=task.patch_size,
        channels=task.channels,
        resize=task.resize,
        codes=codes,
        row_length=row_length,
        segments=row_length // length if config.data.packed else 1,
        packed=config.data.packed,
        unmasking=task.unmasking,
    )


def _numbers(classes: tuple[str, ...], examples: Sequence[ImageExample]) -> np.ndarray:
    """Returns the class of each image; UserError for one that is not among those of training."""
    return target_numbers("single", classes, [each.labels[0] for each in examples], [each.origin for each in examples])


def _split(
    config: Config,
    spec: ImageGenerationSpec,
    codebook: Codebook,
    split: str,
    examples: tuple[ImageExample, ...],
    pixels: ImageRows,
    train: tuple[tuple[ImageExample, ...], ImageRows] | None,
) -> Split:
    """Returns the rows of a split, and what judges the images that are made of its classes."""
    wanted = config.task.valid_made if split == "valid" else config.task.test_made
    numbers = _numbers(spec.classes, examples)
    made = numbers[np.arange(wanted) % len(numbers)] if wanted > len(numbers) else numbers[spread(len(numbers), wanted)]
    rows = held_out_rows(spec, encoded(codebook, pixels), numbers, made)
    judging = None
    if config.task.judge and len(made):
        judge = open_judge(config.task.judge, _JUDGE)
        if unknown := [name for name in spec.classes if name not in judge.classes]:
            raise UserError(
                f"{_JUDGE}: {config.task.judge} does not know the class {unknown[0]!r:.60} of the data; it knows "
                f"{', '.join(judge.classes[:10])}. Train it on the same images."
            )
        some = None if train is None else _real(train[0], train[1], spread(len(train[0]), len(made)))
        judging = Judging(judge, _real(examples, pixels, np.arange(len(examples))), some)
    return Split(examples, pixels, made, rows, judging)


def _real(examples: Sequence[ImageExample], pixels: ImageRows, chosen: np.ndarray) -> RealImages:
    return RealImages(
        [pixels.image(number) for number in chosen.tolist()], [examples[number].labels[0] for number in chosen.tolist()]
    )


def _said_codes(spec: ImageGenerationSpec, codebook: Codebook, pixels: Mapping[str, ImageRows], kind: str) -> str:
    what = "grey levels" if kind == LEVELS else "entries learned by k-means"
    errors = ", ".join(
        f"{codebook.error(np.concatenate(list(cells_of(found)))):.2f} ({split})" for split, found in pixels.items()
    )
    return (
        f"codes: {spec.codes} {what} of {spec.patch_size} x {spec.patch_size} pixels, {spec.cells} an image; an image "
        f"is given back with an error of {errors} grey levels of 255 (root of the mean square)"
    )
