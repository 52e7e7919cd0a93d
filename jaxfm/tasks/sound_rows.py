"""Clips of a run's source as rows, and the mean and deviation of their frames."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.examples import SoundExample, SoundSplit
from jaxfm.data.audio.rows import FrameSettings, SoundRows, build_sound_rows, frame_statistics
from jaxfm.data.audio.stored import StoredClip
from jaxfm.errors import UserError
from jaxfm.models.dropout import split_key
from jaxfm.models.inputs.frames import FrameInputs
from jaxfm.models.inputs.patches import NORMALIZED
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation, augment_samples, mask_frames
from jaxfm.tasks.image_rows import most_in_a_row
from jaxfm.tasks.sound_options import Reading

_BROKEN = "config.task.broken_files"


class SoundSpec(Protocol):
    """What the spec of a task of sound says of its rows."""

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        ...

    @property
    def layout(self) -> SoundLayout:
        """How a recording becomes frames."""
        ...

    @property
    def settings(self) -> FrameSettings:
        """How clips become rows."""
        ...

    @property
    def row_length(self) -> int:
        """Tokens of a row."""
        ...

    @property
    def segments(self) -> int:
        """Most clips a row."""
        ...

    @property
    def packed(self) -> bool:
        """Whether several clips may share a row."""
        ...


@dataclasses.dataclass(frozen=True)
class ReadRows:
    """The splits of a source as rows.

    Attributes:
      reading: with the mean and deviation of frames.
      rows: of each split, "train" first.
      segments: most clips a row.
      notes: for the log.
    """

    reading: Reading
    rows: Mapping[str, SoundRows]
    segments: int
    notes: tuple[str, ...]

    def kept(self, read: Mapping[str, SoundSplit]) -> dict[str, tuple[SoundExample, ...]]:
        """Returns the examples of the splits that were read, without those whose clips are broken and left out."""
        return {split: kept(found.examples, self.rows[split]) for split, found in read.items()}


def read_rows(reading: Reading, read: Mapping[str, SoundSplit], config: Config) -> ReadRows:
    """Makes rows of all splits; packed ones of "train" are shuffled first.

    Raises:
      UserError: no training clips, a clip that cannot be decoded, training clips that are all silent.
    """
    check_train(read, config)
    rows = {
        split: build_sound_rows(
            [each.clip for each in found.examples],
            reading.settings,
            row_length=reading.row_length,
            packed=config.data.packed,
            seed=config.seed if split == "train" else None,
            broken=config.task.broken_files,
            broken_option=_BROKEN,
        )
        for split, found in read.items()
    }
    reading, frame_notes = _with_statistics(reading, rows["train"])
    rows = {split: dataclasses.replace(found, settings=reading.settings) for split, found in rows.items()}
    segments = max(map(most_in_a_row, rows.values())) if config.data.packed else 1
    notes = (
        *(found.note for found in read.values()),
        *(note for found in rows.values() for note in found.notes),
        *frame_notes,
    )
    return ReadRows(reading, rows, segments, notes)


def check_train(read: Mapping[str, SoundSplit], config: Config) -> None:
    """Raises UserError where a source has no training clips."""
    if "train" not in read:
        raise UserError(f"config.data.source: {config.data.source} has no split train.")


def rows_of_spec(spec: SoundSpec, clips: Sequence[StoredClip], broken: str | None = None) -> SoundRows:
    """Returns rows of clips as a run's spec says; `broken`: see `build_sound_rows`, None: an error without a key."""
    return build_sound_rows(
        clips,
        spec.settings,
        row_length=spec.row_length,
        packed=spec.packed,
        max_segments=spec.segments if spec.packed else None,
        broken=broken or "stop",
        broken_option=_BROKEN if broken else "",
    )


def kept(examples: Sequence[SoundExample], rows: SoundRows) -> tuple[SoundExample, ...]:
    """Returns the examples whose clips could be decoded."""
    return tuple(examples[index] for index in rows.kept.tolist())


def _with_statistics(reading: Reading, train: SoundRows) -> tuple[Reading, tuple[str, ...]]:
    """Returns the reading with mean and deviation of the training frames where the weights say none, and a note."""
    if reading.layout.std:
        return reading, ()
    mean, std = (round(each, 6) for each in frame_statistics(train))
    if std == 0:
        raise UserError("config.data.source: all frames of the training clips are equal: they are silent.")
    return reading.with_statistics(mean, std), (f"frames: mean {mean:.3f}, deviation {std:.3f} of the training clips",)


def changed_batch(
    inputs: Any, batch: Mapping[str, jax.Array], augmentation: SoundAugmentation | None, key: jax.Array, segments: int
) -> Mapping[str, jax.Array]:
    """Returns a batch with the patches of changed clips; the batch itself where nothing is changed.

    Args:
      inputs: of the encoder.
      batch: the fields of `models.inputs.frames.fields`.
      augmentation: what is changed; None: nothing.
      key: of the step, for the draws.
      segments: most clips a row.
    """
    if augmentation is None:
        return batch
    sample_key, mask_key = split_key(key, 2)
    assert sample_key is not None and mask_key is not None and isinstance(inputs, FrameInputs)
    samples = augment_samples(batch, augmentation, inputs.layout.rate, sample_key, segments=segments)
    frames = inputs.frames({**batch, "samples": samples})
    frames = mask_frames(frames, batch["slots"], augmentation, mask_key, segments=segments)
    return {**batch, NORMALIZED: inputs.patches(frames, batch)}
