"""The task `masked_sound`: a source of clips to an objective, rows and scores."""

# E clips

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.audio.examples import SoundExample, SoundSplit, read_sounds
from jaxfm.data.audio.rows import SoundRows
from jaxfm.data.media.examples import MediaColumns
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation
from jaxfm.schema import replaced
from jaxfm.tasks.masked_sound.clusters import Clusters, fit_clusters, read_clusters
from jaxfm.tasks.masked_sound.features import ENCODER
from jaxfm.tasks.masked_sound.objective import MaskedSoundObjective
from jaxfm.tasks.masked_sound.predictor import MaskedSoundPredictor
from jaxfm.tasks.masked_sound.rows import with_clusters, with_masks
from jaxfm.tasks.masked_sound.scorer import DIRECTIONS, MaskedSoundScorer
from jaxfm.tasks.masked_sound.spec import NAME, MaskedSoundConfig, MaskedSoundSpec
from jaxfm.tasks.media_options import DEFAULTS
from jaxfm.tasks.sound_checks import check_sounds
from jaxfm.tasks.sound_options import Reading, augmentation
from jaxfm.tasks.sound_rows import check_train, kept, read_rows, rows_of_spec

_METRIC, _WEIGHTS = "loss", "weights"


@dataclasses.dataclass(frozen=True)
class MaskedSoundTask:
    """A model of hidden sound with the splits of one source (implements jaxfm.core.task.Task)."""

    objective: MaskedSoundObjective
    clusters: Clusters
    examples: Mapping[str, tuple[SoundExample, ...]]
    datasets: Mapping[str, SoundRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return DIRECTIONS

    def scorer(self, split: str) -> MaskedSoundScorer:
        """Returns what scores a split."""
        return MaskedSoundScorer(self.objective.spec, self.examples[split], self.datasets[split])

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the clusters."""
        write_spec(workdir, NAME, self.objective.spec)
        self.clusters.save(workdir)


class MaskedSoundDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = MaskedSoundConfig
    defaults = {**DEFAULTS, "train.epochs": 100.0, "eval.metric": _METRIC}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> MaskedSoundObjective:
        """Builds model and loss without data, for shapes alone."""
        spec = _spec(config, Reading.of(config, encoder), segments=1)
        return MaskedSoundObjective(spec, _augmentation(config))

    def create(self, config: Config, initial: Initial) -> tuple[MaskedSoundTask, dict[str, HostArray]]:
        """Reads the source, clusters the training clips and builds the task of a new run.

        Raises:
          UserError: no training data, a clip that cannot be decoded, training clips that are all silent or have fewer
            different steps than there are clusters, hidden states of no weights.
        """
        changes = _augmentation(config)
        reading = Reading.of(config, initial.encoder, initial.sound)
        of_weights = config.task.clusters.features == _WEIGHTS
        _check_weights(config, initial, of_weights)
        read = _read(config, None)
        check_train(read, config)
        found = read_rows(reading, read, config)
        spec = _spec(config, found.reading, segments=found.segments)
        own = {name: value for name, value in initial.params.items() if name.startswith(ENCODER)}
        clusters = fit_clusters(spec, found.rows["train"], own if of_weights else {}, seed=config.seed)
        datasets = {}
        for split, rows in found.rows.items():
            laid = with_clusters(spec, rows, clusters.of_rows(spec, rows))
            datasets[split] = laid if split == "train" else with_masks(spec, laid)
        used = () if config.task.fresh else (ENCODER,)
        notes = (
            *initial.notes,
            *(("what is trained begins anew (config.task.fresh)",) if config.task.fresh else initial.left_over(used)),
            *found.notes,
            f"clusters: {spec.clusters} of {_described(spec)}",
            f"hidden: a span of {spec.length} steps begins at {spec.starts:.0%} of the steps",
        )
        metric = _METRIC if config.eval.metric == AUTO_METRIC else config.eval.metric
        task = MaskedSoundTask(
            MaskedSoundObjective(spec, changes),
            clusters,
            found.kept(read),
            datasets,
            notes,
            {"data.row_length": spec.row_length, "eval.metric": metric},
        )
        return task, {name: value for name, value in initial.params.items() if used and name.startswith(used)}

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = Reading.of(config, initial.encoder, initial.sound)
        return check_sounds({split: found.examples for split, found in _read(config, None).items()}, reading)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> MaskedSoundSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(MaskedSoundSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: MaskedSoundSpec, config: Config, source: str, split: str
    ) -> MaskedSoundTask:
        """Builds the task of a trained run over one split of (other) clips, for evaluation."""
        clusters = read_clusters(workdir, spec.clusters, spec.features == _WEIGHTS)
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,)).items()
        rows = rows_of_spec(spec, [each.clip for each in found.examples], config.task.broken_files)
        rows = with_masks(spec, with_clusters(spec, rows, clusters.of_rows(spec, rows)))
        notes = (found.note, *rows.notes)
        examples = {split: kept(found.examples, rows)}
        return MaskedSoundTask(MaskedSoundObjective(spec), clusters, examples, {split: rows}, notes)

    def predictor(self, workdir: pathlib.Path, spec: MaskedSoundSpec) -> MaskedSoundPredictor:
        """Returns what predicts hidden steps of recordings."""
        return MaskedSoundPredictor(spec, read_clusters(workdir, spec.clusters, spec.features == _WEIGHTS))


def _read(config: Config, splits: Sequence[str] | None) -> dict[str, SoundSplit]:
    columns = MediaColumns(config.data.audio_column)
    data = config.data
    return read_sounds(data.source, splits, columns=columns, holdout=data.holdout, by=split_keys(data))


def _augmentation(config: Config) -> SoundAugmentation | None:
    """Returns what is done to training clips; UserError for a shift, which would part sounds from their clusters."""
    if config.task.augment.shift:
        raise UserError(
            f"config.task.augment.shift: is {config.task.augment.shift}, but clusters are those of the times of clips "
            "as they are. Leave it 0."
        )
    return augmentation(config)


def _check_weights(config: Config, initial: Initial, of_weights: bool) -> None:
    if (of_weights or config.task.fresh) and not initial.params:
        key = "clusters.features=weights" if of_weights else "fresh=True"
        raise UserError(
            f"config.task.{key}: needs weights to take hidden states of: --config.model.init=run:DIR of a run of sound."
        )
    if config.task.fresh and not of_weights:
        raise UserError(
            "config.task.fresh: is True, so weights are to be clustered alone: set config.task.clusters.features="
            "weights, or config.model.init=scratch."
        )
    layers = initial.encoder.num_layers
    if of_weights and config.task.clusters.layer > layers:
        raise UserError(
            f"config.task.clusters.layer: is {config.task.clusters.layer}, but the weights have {layers} layers."
        )


def _described(spec: MaskedSoundSpec) -> str:
    if spec.features == _WEIGHTS:
        return f"hidden states after {spec.layer} of {spec.encoder.num_layers} layers of the weights"
    return "log-mel frames and how they change"


def _spec(config: Config, reading: Reading, *, segments: int) -> MaskedSoundSpec:
    task, encoder = config.task, reading.encoder
    of_weights = task.clusters.features == _WEIGHTS
    return MaskedSoundSpec(
        encoder=dataclasses.replace(encoder, patches=dataclasses.replace(encoder.patches, mask_token=True)),
        layout=reading.layout,
        row_length=reading.row_length,
        segments=segments,
        packed=config.data.packed,
        clusters=task.clusters.count,
        features=task.clusters.features,
        layer=(task.clusters.layer or max(1, encoder.num_layers // 2)) if of_weights else 0,
        starts=task.spans.starts,
        length=task.spans.length,
    )
