"""The task `audio_classification`: a source of labelled clips to an objective, rows and scores."""

# E clips, S segments (clips in a row), C classes

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import AUTO_METRIC, Config
from jaxfm.core.data_check import DataCheck
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.extensions import check_metrics, with_own
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SpecValues, build_spec, write_spec
from jaxfm.data.audio.examples import SoundExample, SoundSplit, read_sounds
from jaxfm.data.audio.rows import SoundRows
from jaxfm.data.media.examples import MediaColumns
from jaxfm.data.records.source_keys import split_keys
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.evaluation.classes import undefined_metrics
from jaxfm.schema import replaced
from jaxfm.tasks.audio_classification.objective import AudioClassifierObjective
from jaxfm.tasks.audio_classification.predictor import AudioClassifierPredictor
from jaxfm.tasks.audio_classification.scorer import AudioClassifierScorer
from jaxfm.tasks.audio_classification.spec import NAME, AudioClassificationConfig, AudioClassifierSpec
from jaxfm.tasks.class_balance import choose_metric
from jaxfm.tasks.class_targets import (
    directions,
    ordered_labels,
    target_counts,
    target_losses,
    undefined_metric_note,
)
from jaxfm.tasks.image_rows import of_segments
from jaxfm.tasks.label_checks import check_balance, check_names
from jaxfm.tasks.media_options import DEFAULTS
from jaxfm.tasks.segment_scorer import target, targets_of
from jaxfm.tasks.sound_checks import check_sounds
from jaxfm.tasks.sound_options import Reading, augmentation
from jaxfm.tasks.sound_rows import check_train, kept, read_rows, rows_of_spec
from jaxfm.tasks.text_checks import LabelCounts, check_labels, label_table

# Classes where no data says how many.
_SOME_CLASSES = ("no", "yes")


@dataclasses.dataclass(frozen=True)
class AudioClassificationTask:
    """A classifier of clips over one source (implements Task of jaxfm.core)."""

    objective: AudioClassifierObjective
    examples: Mapping[str, tuple[SoundExample, ...]]
    datasets: Mapping[str, SoundRows]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        spec = self.objective.spec
        return with_own(NAME, directions(spec.kind, spec.labels))

    def scorer(self, split: str) -> AudioClassifierScorer:
        """Returns what scores a split."""
        return AudioClassifierScorer(self.objective.spec, self.examples[split], self.datasets[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold is the class, or a list of labels."""
        one = self.objective.spec.kind == "single"
        return [
            {"audio": each.clip, "origin": each.origin, "gold": each.labels[0] if one else list(each.labels)}
            for each in self.examples[split]
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json."""
        write_spec(workdir, NAME, self.objective.spec)


class AudioClassificationDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = AudioClassificationConfig
    defaults = DEFAULTS
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> AudioClassifierObjective:
        """Builds model and loss without data, for shapes alone."""
        spec = _spec(config, Reading.of(config, encoder), _SOME_CLASSES, segments=1)
        return AudioClassifierObjective(spec, r_drop=config.task.loss.r_drop, augmentation=augmentation(config))

    def create(self, config: Config, initial: Initial) -> tuple[AudioClassificationTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, fewer than two classes, a class unseen in training, a clip that cannot be
            decoded, training clips that are all silent.
        """
        task, changes = config.task, augmentation(config)
        reading = Reading.of(config, initial.encoder, initial.sound)
        read = _read(config, None)
        check_train(read, config)
        labels = read["train"].classes or ordered_labels(
            task.kind,
            (each.labels[0] if task.kind == "single" else each.labels for each in read["train"].examples),
            config.data.source,
        )
        head_note = "head: new"
        if set(initial.labels) == set(labels):
            labels, head_note = initial.labels, "head: loaded, its classes are those of the data"
        found = read_rows(reading, read, config)
        rows, spec = found.rows, _spec(config, found.reading, labels, segments=found.segments)
        examples = found.kept(read)
        targets = {split: targets_of(spec, found) for split, found in examples.items()}
        counts_C = target_counts(spec.kind, labels, targets["train"])
        check_metrics(NAME, [target(spec, example) for example in examples["train"]])
        metric, metric_note = choose_metric(task.kind, labels, counts_C)
        config = replaced(config, {"eval.metric": metric}) if config.eval.metric == AUTO_METRIC else config
        fits = initial.labels == labels and spec.pooling == "tokens"
        used = ("encoder/", *(("head/", "head_norm/") if fits else ("head_norm/",)))
        listed = ", ".join(labels[:10]) + (" ..." if len(labels) > 10 else "")
        notes = (
            *initial.notes,
            *initial.left_over(used),
            f"{head_note}, {len(labels)} classes ({listed})",
            *found.notes,
            *([metric_note] if config.eval.metric == metric and metric_note else []),
            *undefined_metric_note(
                config.eval.metric, undefined_metrics(task.kind, targets["valid"]) if "valid" in targets else {}
            ),
        )
        losses = target_losses(task.kind, task.loss, labels, counts_C)
        objective = AudioClassifierObjective(spec, *losses, task.loss.r_drop, changes)
        datasets = {split: _labelled(spec, each, targets[split]) for split, each in rows.items()}
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        return AudioClassificationTask(objective, examples, datasets, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = Reading.of(config, initial.encoder, initial.sound)
        examples = {split: found.examples for split, found in _read(config, None).items()}
        looked = check_sounds(examples, reading)
        counts = {
            split: LabelCounts.of([(name, each.origin) for each in found for name in each.labels])
            for split, found in examples.items()
        }
        findings = (
            *looked.findings,
            *check_labels(counts, "labels"),
            check_balance(counts["train"].counts, len(examples["train"]), config.task.kind),
            check_names(counts),
        )
        return DataCheck((*looked.tables, label_table(counts, "Labels", "label")), findings)

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> AudioClassifierSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(AudioClassifierSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: AudioClassifierSpec, config: Config, source: str, split: str
    ) -> AudioClassificationTask:
        """Builds the task of a trained run over one split of (other) labelled data, for evaluation."""
        del workdir
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,)).items()
        rows = rows_of_spec(spec, [each.clip for each in found.examples], config.task.broken_files)
        examples = kept(found.examples, rows)
        rows = _labelled(spec, rows, targets_of(spec, examples))
        notes = (found.note, *rows.notes)
        return AudioClassificationTask(AudioClassifierObjective(spec), {split: examples}, {split: rows}, notes)

    def predictor(self, workdir: pathlib.Path, spec: AudioClassifierSpec) -> AudioClassifierPredictor:
        """Returns what judges sound, with the calibration that the run fitted."""
        return AudioClassifierPredictor(spec, read_calibration(workdir))


def _read(config: Config, splits: Sequence[str] | None) -> dict[str, SoundSplit]:
    return read_sounds(
        config.data.source,
        splits,
        columns=MediaColumns(config.data.audio_column, config.data.label_column),
        holdout=config.data.holdout,
        by=split_keys(config.data),
        labels=config.task.kind,
    )


def _labelled(spec: AudioClassifierSpec, rows: SoundRows, targets_E: np.ndarray) -> SoundRows:
    """Returns rows with the field "labels"."""
    return rows.with_fields({"labels": of_segments(rows, targets_E, spec.segments)}, {"labels": spec.label_field()})


def _spec(config: Config, reading: Reading, labels: tuple[str, ...], *, segments: int) -> AudioClassifierSpec:
    return AudioClassifierSpec(
        kind=config.task.kind,
        labels=labels,
        encoder=reading.encoder,
        pooling=config.task.pooling,
        layout=reading.layout,
        row_length=reading.row_length,
        segments=segments,
        packed=config.data.packed,
        threshold=config.task.threshold,
    )
