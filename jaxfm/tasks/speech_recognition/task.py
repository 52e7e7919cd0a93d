"""The task `speech_recognition`: a source of clips with transcripts to an objective, rows and scores."""

# E clips, S segments (clips in a row), L symbols of a transcript

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
from jaxfm.data.audio.joined import join_clips
from jaxfm.data.audio.rows import SoundRows
from jaxfm.data.media.examples import MediaColumns
from jaxfm.data.records.source_keys import split_keys
from jaxfm.errors import UserError
from jaxfm.evaluation.transcripts import load_jiwer
from jaxfm.schema import replaced
from jaxfm.tasks.media_options import DEFAULTS
from jaxfm.tasks.sound_checks import check_sounds
from jaxfm.tasks.sound_options import Reading, augmentation
from jaxfm.tasks.sound_rows import check_train, kept, read_rows, rows_of_spec
from jaxfm.tasks.speech_recognition.checks import check_transcripts
from jaxfm.tasks.speech_recognition.objective import SpeechRecognizerObjective
from jaxfm.tasks.speech_recognition.predictor import SpeechRecognizerPredictor
from jaxfm.tasks.speech_recognition.scorer import DIRECTIONS, SpeechRecognizerScorer
from jaxfm.tasks.speech_recognition.spec import NAME, SpeechRecognitionConfig, SpeechRecognizerSpec
from jaxfm.tasks.speech_recognition.symbols import as_array, characters, encoded, normalized, steps_needed

# Where no data says which.
_SOME_SYMBOLS, _SOME_LENGTH = tuple(" abcdefghijklmnopqrstuvwxyz"), 32
_SPLITS = ("train", "valid", "test")
_METRIC = "wer"


@dataclasses.dataclass(frozen=True)
class SpeechRecognitionTask:
    """A recogniser over one source (implements Task of jaxfm.core).

    Attributes:
      objective: model and loss.
      examples: of each split, with transcripts as they are learned.
      datasets: their rows.
      symbols: of each split, [E] symbols of each transcript that count.
      notes: for the log.
      chosen: see core.task.Task.
    """

    objective: SpeechRecognizerObjective
    examples: Mapping[str, tuple[SoundExample, ...]]
    datasets: Mapping[str, SoundRows]
    symbols: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return with_own(NAME, DIRECTIONS)

    def scorer(self, split: str) -> SpeechRecognizerScorer:
        """Returns what scores a split."""
        return SpeechRecognizerScorer(
            self.objective.spec, self.examples[split], self.symbols[split], self.datasets[split]
        )

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords; gold is the transcript."""
        return [{"audio": each.clip, "origin": each.origin, "gold": each.text} for each in self.examples[split]]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json."""
        write_spec(workdir, NAME, self.objective.spec)


class SpeechRecognitionDefinition:
    """Makes all there is of the task (implements jaxfm.core.task.TaskDefinition)."""

    name = NAME
    config_class = SpeechRecognitionConfig
    defaults = {**DEFAULTS, "eval.metric": _METRIC}
    moved: Mapping[str, str] = {}

    def abstract_objective(self, config: Config, encoder: EncoderConfig) -> SpeechRecognizerObjective:
        """Builds model and loss without data, for shapes alone."""
        spec = _spec(config, Reading.of(config, encoder), _SOME_SYMBOLS, segments=1, length=_SOME_LENGTH)
        return SpeechRecognizerObjective(spec, augmentation(config))

    def create(self, config: Config, initial: Initial) -> tuple[SpeechRecognitionTask, dict[str, HostArray]]:
        """Reads the source and builds the task of a new run.

        Raises:
          UserError: no training data, an empty transcript, a clip that cannot be decoded, training clips that are all
            silent, too long, or too short for what is said in them; jiwer is not installed.
        """
        load_jiwer()
        reading = Reading.of(config, initial.encoder, initial.sound)
        read = _read(config, None, reading)
        found = read_rows(reading, read, config)
        examples = found.kept(read)
        symbols = characters(each.text for each in examples["train"])
        check_metrics(NAME, [each.text for each in examples["train"]])
        spec = _spec(config, found.reading, symbols, segments=found.segments, length=1)
        targets = {split: _Targets.of(spec, each, found.rows[split]) for split, each in examples.items()}
        _check_fit(targets["train"], examples["train"], found.rows["train"], spec, config)
        length = max(targets[split].length for split in targets)
        spec = dataclasses.replace(spec, label_length=length, longest=int(found.rows["train"].frames.max()))
        objective = SpeechRecognizerObjective(spec, augmentation(config))
        head = initial.params.get("head/kernel")
        fits = initial.labels == symbols and head is not None and head.shape[-1] == len(symbols) + 1
        used = ("encoder/", *(("head/", "head_norm/") if fits else ()))
        notes = (
            *initial.notes,
            *initial.left_over(used),
            f"head: {'loaded' if fits else 'new'}, {len(symbols)} symbols ({''.join(symbols)!r}) and the blank",
            *found.notes,
            *(note for split, each in targets.items() for note in each.notes(split)),
            _steps_note(spec),
        )
        datasets = {split: targets[split].laid(spec, rows) for split, rows in found.rows.items()}
        params = {name: value for name, value in initial.params.items() if name.startswith(used)}
        metric = _METRIC if config.eval.metric == AUTO_METRIC else config.eval.metric
        chosen = {"data.row_length": spec.row_length, "eval.metric": metric}
        counts = {split: each.counts for split, each in targets.items()}
        return SpeechRecognitionTask(objective, examples, datasets, counts, notes, chosen), params

    def check(self, config: Config, initial: Initial) -> DataCheck:
        """Reads the source as `create` does and says what a person should know of it before training."""
        reading = Reading.of(config, initial.encoder, initial.sound)
        examples = {split: found.examples for split, found in _read(config, None, reading).items()}
        looked = check_sounds(examples, reading)
        table, findings = check_transcripts(examples, reading)
        return DataCheck((*looked.tables, table), (*looked.findings, *findings))

    def reads(self, values: Mapping[str, Any]) -> bool:
        """Whether a task.json is of this task."""
        return values["task"] == NAME

    def read_spec(self, values: SpecValues, config: Mapping[str, Any]) -> SpeechRecognizerSpec:
        """Builds the spec of a trained run."""
        del config
        return build_spec(SpeechRecognizerSpec, values)

    def upgrade_config(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns None: no older jaxfm had this task."""
        del values

    def reopen(
        self, workdir: pathlib.Path, spec: SpeechRecognizerSpec, config: Config, source: str, split: str
    ) -> SpeechRecognitionTask:
        """Builds the task of a trained run over one split of (other) clips with transcripts, for evaluation."""
        del workdir
        load_jiwer()
        reading = Reading(spec.encoder, spec.layout, spec.row_length)
        ((split, found),) = _read(replaced(config, {"data.source": source}), (split,), reading).items()
        rows = rows_of_spec(spec, [each.clip for each in found.examples], config.task.broken_files)
        examples = kept(found.examples, rows)
        targets = _Targets.of(spec, examples, rows)
        notes = (found.note, *rows.notes, *targets.notes(split))
        return SpeechRecognitionTask(
            SpeechRecognizerObjective(spec),
            {split: examples},
            {split: targets.laid(spec, rows)},
            {split: targets.counts},
            notes,
        )

    def predictor(self, workdir: pathlib.Path, spec: SpeechRecognizerSpec) -> SpeechRecognizerPredictor:
        """Returns what writes down what is said in recordings."""
        del workdir
        return SpeechRecognizerPredictor(spec)


@dataclasses.dataclass(frozen=True)
class _Targets:
    """Symbols of the transcripts of a split.

    Attributes:
      labels: of each clip; empty where it does not count in the loss: it is cut, or too short for them.
      unfit: numbers of the clips that are left out so.
      unknown: characters of transcripts that training has none of, sorted.
    """

    labels: Sequence[Sequence[int]]
    unfit: Sequence[int]
    unknown: str

    @classmethod
    def of(cls, spec: SpeechRecognizerSpec, examples: Sequence[SoundExample], rows: SoundRows) -> "_Targets":
        """Finds them."""
        numbers = {symbol: number for number, symbol in enumerate(spec.symbols, start=1)}
        labels = [encoded(each.text, numbers) for each in examples]
        unfit = [
            number
            for number, (each, frames, cut) in enumerate(
                zip(labels, rows.frames.tolist(), rows.cut.tolist(), strict=True)
            )
            if cut or steps_needed(each) > spec.settings.columns(frames)
        ]
        unknown = "".join(sorted({letter for each in examples for letter in each.text} - set(spec.symbols)))
        left_out = set(unfit)
        return cls([[] if n in left_out else each for n, each in enumerate(labels)], unfit, unknown)

    @property
    def length(self) -> int:
        """Symbols of the longest transcript; 1 at least."""
        return max(1, *map(len, self.labels))

    @property
    def counts(self) -> np.ndarray:
        """Symbols of each transcript [E]."""
        return np.asarray(list(map(len, self.labels)), np.int64)

    def notes(self, split: str) -> list[str]:
        """Returns what the log says of a split."""
        notes = []
        if self.unknown:
            notes.append(f"{split}: characters that training has none of count as errors: {self.unknown!r}")
        if self.unfit:
            notes.append(
                f"{split}: {len(self.unfit):,} of {len(self.labels):,} clips are longer than what is read, or too "
                "short for their transcripts; the loss is without them"
            )
        return notes

    def laid(self, spec: SpeechRecognizerSpec, rows: SoundRows) -> SoundRows:
        """Returns rows with the field "labels"."""
        length = max(self.length, spec.label_length)
        laid = np.zeros((len(rows), spec.segments, length), np.int32)
        laid[rows.example_locations[:, 0], rows.example_locations[:, 1]] = as_array(self.labels, length)
        return rows.with_fields({"labels": laid}, {"labels": spec.label_field(length)})


def _check_fit(
    targets: _Targets, examples: Sequence[SoundExample], rows: SoundRows, spec: SpeechRecognizerSpec, config: Config
) -> None:
    """Raises UserError for training clips that teach nothing, unless they may be left out, or where none is left."""
    if not targets.unfit or (config.task.unfit == "skip" and len(targets.unfit) < len(examples)):
        return
    first = targets.unfit[0]
    example, frames = examples[first], int(rows.frames[first])
    settings, hop = spec.settings, spec.encoder.patches.stride[1]
    if rows.cut[first]:
        seconds = settings.most_samples / spec.layout.rate
        said = f"is longer than the {seconds:.2f} seconds that are read, so its transcript would not be that of what is"
        fix = "Read more (config.task.seconds), cut it"
    else:
        # All characters of training are known.
        need = steps_needed([ord(letter) for letter in example.text])
        said = (
            f"has {settings.columns(frames)} steps of {10 * hop} ms, but its transcript {example.text!r:.80} needs "
            f"{need}: one a character, and one more between equal ones"
        )
        fix = "Correct the transcript, take patches of fewer frames (config.model.preset)"
    more = f" And {len(targets.unfit) - 1:,} more of {len(examples):,}." if len(targets.unfit) > 1 else ""
    raise UserError(
        f"{example.origin}: {said}.{more} {fix}, or set config.task.unfit=skip to learn without such clips."
    )


def _read(config: Config, splits: Sequence[str] | None, reading: Reading) -> dict[str, SoundSplit]:
    """Reads splits with their transcripts as they are learned; joined where the config says so."""
    task = config.task
    grouped = task.join.column if task.join.clips > 1 else ""
    if task.join.fewest > task.join.clips:
        raise UserError(
            f"config.task.join.fewest: is {task.join.fewest}, but at most {task.join.clips} are joined "
            "(config.task.join.clips)."
        )
    read = read_sounds(
        config.data.source,
        splits,
        columns=MediaColumns(config.data.audio_column, grouped, config.data.text_column),
        holdout=config.data.holdout,
        labels="single" if grouped else "none",
        texts=True,
        by=split_keys(config.data),
    )
    if splits is None:
        check_train(read, config)
    found = {}
    for split, each in read.items():
        examples = tuple(_normalized(example, task) for example in each.examples)
        note = each.note
        if task.join.clips > 1:
            count = task.join.examples if split == "train" and task.join.examples else len(examples)
            fewest = task.join.fewest or task.join.clips
            examples = join_clips(
                examples, reading.layout.rate, fewest=fewest, most=task.join.clips, count=count, gap=task.join.gap,
                seed=_SPLITS.index(split),
            )  # fmt: skip
            shown = str(fewest) if fewest == task.join.clips else f"{fewest} to {task.join.clips}"
            note += f"; {count:,} joined clips are drawn of these, of {shown} each"
        found[split] = SoundSplit(examples, note)
    return found


def _normalized(example: SoundExample, task: Any) -> SoundExample:
    text = normalized(example.text, lower=task.lower, spell_digits=task.spell_digits)
    assert text, "transcripts are not empty"
    return dataclasses.replace(example, text=text)


def _steps_note(spec: SpeechRecognizerSpec) -> str:
    patches = spec.encoder.patches
    step, span = 10 * patches.stride[1], 10 * patches.span
    return f"steps: one every {step} ms, of {span} ms each; at most {patches.grid[1]} a recording"


def _spec(
    config: Config, reading: Reading, symbols: tuple[str, ...], *, segments: int, length: int
) -> SpeechRecognizerSpec:
    task = config.task
    return SpeechRecognizerSpec(
        symbols=symbols,
        encoder=reading.encoder,
        layout=reading.layout,
        row_length=reading.row_length,
        segments=segments,
        packed=config.data.packed,
        label_length=length,
        longest=0,
        lower=task.lower,
        spell_digits=task.spell_digits,
        decoding=task.decoding,
    )
