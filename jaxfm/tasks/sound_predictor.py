"""What predictors of sound have in common: recordings in, rows of their windows."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np

from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.examples import SOUNDS
from jaxfm.data.audio.rows import SoundRows
from jaxfm.data.audio.stored import StoredClip
from jaxfm.data.media.inputs import input_records, media_record
from jaxfm.tasks.sound_rows import rows_of_spec
from jaxfm.tasks.sound_windows import Window, windows_of


@dataclasses.dataclass(frozen=True)
class EncodedSounds:
    """Recordings and the rows of their windows.

    Attributes:
      names: of the recordings.
      windows: of each.
      rows: of all windows, in order.
    """

    names: tuple[str, ...]
    windows: tuple[tuple[Window, ...], ...]
    rows: SoundRows


@dataclasses.dataclass(frozen=True)
class SoundPredictor:
    """Sound files in (implements what is of the medium of core.task.Predictor, and core.reads_files.ReadsFiles).

    Attributes:
      spec: of the model, a `SoundSpec` with `outputs`.
    """

    spec: Any

    @property
    def window_frames(self) -> int:
        """Frames of the windows of long recordings; 0: as many as the model reads of a clip."""
        return 0

    records_at_once = 64
    takes_words = False
    splitters = ()
    pairs = False

    def with_splitter(self, splitter: str) -> Self:
        """Never called: sound has no words."""
        raise AssertionError(splitter)

    def input_records(self, path: pathlib.Path, argument: str, column: str) -> list[dict[str, Any]]:
        """See core.reads_files.ReadsFiles."""
        return input_records(SOUNDS, path, argument, column)

    def record_of(self, value: Any, origin: str) -> dict[str, Any]:
        """See core.reads_files.ReadsFiles."""
        return media_record(SOUNDS, value, origin)

    def example_record(self) -> dict[str, Any]:
        """See core.reads_files.ReadsFiles: a second of silence."""
        rate = self.spec.layout.rate
        return {SOUNDS.name: StoredClip("silence", array=np.zeros(rate, np.float32), rate=rate)}

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedSounds:
        """Makes rows of {"audio": StoredClip}; one that cannot be decoded is a UserError that names it."""
        spec, clips = self.spec, [record[SOUNDS.name] for record in records]
        windows = tuple(
            tuple(windows_of(clip, decode(clip, spec.layout.rate), spec.settings, self.window_frames)) for clip in clips
        )
        rows = rows_of_spec(spec, [window.clip for found in windows for window in found])
        return EncodedSounds(tuple(clip.origin for clip in clips), windows, rows)
