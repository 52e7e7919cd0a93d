"""The task `masked_images`: a source of images to an objective, rows and scores."""

# E images

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.images.examples import ImageExample, ImageSplit, read_images
from jaxfm.data.images.rows import ImageRows
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.schema import replaced
from jaxfm.tasks.image_checks import check_images
from jaxfm.tasks.image_options import Reading, augmentation, image_columns
from jaxfm.tasks.image_rows import image_rows, kept_examples, most_in_a_row, read_rows, with_statistics
from jaxfm.tasks.masked_images.objective import MaskedImagesObjective
from jaxfm.tasks.masked_images.predictor import MaskedImagesPredictor
from jaxfm.tasks.masked_images.rows import with_noise
from jaxfm.tasks.masked_images.scorer import DIRECTIONS, MaskedImagesScorer
from jaxfm.tasks.masked_images.spec import NAME, MaskedImagesConfig, MaskedImagesSpec
from jaxfm.tasks.media_options import DEFAULTS

_PICTURE_BYTES = 32 << 20  # predicted pixels of a split up to which a sheet of them is drawn
_WIDEST_DECODER = 512  # unless the config says otherwise: He et al. 2022, table 1b


@dataclasses.dataclass(frozen=True)
class MaskedImagesTask:
    """A model of hidden patches with the splits of one source (implements jaxfm.core.task.Task)."""

    objective: MaskedImagesObjective
    examples: Mapping[str, tuple[ImageExample, ...]]
    datasets: Mapping[str, ImageRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return DIRECTIONS

    def scorer(self, split: str) -> MaskedImagesScorer:
        """Returns what scores a split."""
        return MaskedImagesScorer(self.objective.spec, self.examples[split], self.datasets[split])

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json."""
        write_spec(workdir, NAME, self.objective.spec)


class MaskedImagesDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = MaskedImagesConfig
    defaults = {**DEFAULTS, "train.epochs": 100.0, "eval.metric": "loss"}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> MaskedImagesObjective:
        """Builds model and loss without data, for shapes alone."""
        spec = _spec(config, Reading.of(config, encoder), segments=1)
        return MaskedImagesObjective(spec, augmentation(config, mixes=False))

    def create(self, config: Config, initial: Initial) -> tuple[MaskedImagesTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, an image that cannot be decoded, augmentation that mixes images.
        """
        reading = Reading.of(config, initial.encoder, initial.images)
        read = _read(config, None)
        rows = read_rows(reading, read, config)
        reading, pixel_notes = with_statistics(reading, rows["train"])
        segments = max(map(most_in_a_row, rows.values())) if config.data.packed else 1
        spec = _spec(config, reading, segments=segments)
        examples = {split: kept_examples(found.examples, rows[split]) for split, found in read.items()}
        datasets = {split: found if split == "train" else with_noise(found) for split, found in rows.items()}
        used = ("encoder/",)
        notes = (
            *initial.notes,
            *initial.left_over(used),
            *(found.note for found in read.values()),
            *(note for found in rows.values() for note in found.notes),
            *pixel_notes,
            _seen(spec),
        )
        held_out = [len(found) for split, found in rows.items() if split != "train"]
        objective = MaskedImagesObjective(
            spec, augmentation(config, mixes=False), _draws(spec, max(held_out, default=0))
        )
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        metric = "loss" if config.eval.metric == AUTO_METRIC else config.eval.metric
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        return MaskedImagesTask(objective, examples, datasets, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = Reading.of(config, initial.encoder, initial.images)
        return check_images({split: found.examples for split, found in _read(config, None).items()}, reading)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> MaskedImagesSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(MaskedImagesSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: MaskedImagesSpec, config: Config, source: str, split: str
    ) -> MaskedImagesTask:
        """Builds the task of a trained run over one split of (other) images, for evaluation."""
        del workdir
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,)).items()
        rows = image_rows(spec, [each.image for each in found.examples], broken=config.task.broken_images)
        examples = kept_examples(found.examples, rows)
        objective = MaskedImagesObjective(spec, pictures=_draws(spec, len(rows)))
        return MaskedImagesTask(objective, {split: examples}, {split: with_noise(rows)}, (found.note, *rows.notes))

    def predictor(self, workdir: pathlib.Path, spec: MaskedImagesSpec) -> MaskedImagesPredictor:
        """Returns what predicts hidden patches of images."""
        del workdir
        return MaskedImagesPredictor(spec)


def _read(config: Config, splits: Sequence[str] | None) -> dict[str, ImageSplit]:
    return read_images(
        config.data.source,
        splits,
        columns=image_columns(config),
        holdout=config.data.holdout,
        by=split_keys(config.data),
        labels="none",
    )


def _spec(config: Config, reading: Reading, *, segments: int) -> MaskedImagesSpec:
    task, encoder = config.task, reading.encoder
    if task.method == "simmim":
        encoder = dataclasses.replace(encoder, patches=dataclasses.replace(encoder.patches, mask_token=True))
    width = task.decoder_size or min(max(encoder.hidden_size // 2 // 16 * 16, 16), _WIDEST_DECODER)
    if width % 4:
        raise UserError(
            f"config.task.decoder_size: is {width}; its positions are waves in fours: take {width // 4 * 4}."
        )
    return MaskedImagesSpec(
        encoder=encoder,
        layout=reading.layout,
        row_length=reading.row_length,
        segments=segments,
        packed=config.data.packed,
        method=task.method,
        ratio=task.ratio,
        normalize_target=task.normalize_target,
        decoder_size=width,
        decoder_layers=task.decoder_layers,
    )


def _seen(spec: MaskedImagesSpec) -> str:
    if spec.method == "simmim":
        return f"hidden: {spec.ratio:.0%} of the patches, in whose place the encoder sees a learned vector"
    return f"hidden: {spec.ratio:.0%} of the patches; the encoder computes {spec.visible} of {spec.row_length} tokens"


def _draws(spec: MaskedImagesSpec, rows: int) -> bool:
    """Whether the predicted pixels of a split are few enough to keep for a sheet."""
    return rows * spec.row_length * spec.encoder.patches.values <= _PICTURE_BYTES
