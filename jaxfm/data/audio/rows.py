"""Clips as rows of samples, and the patches of their frames: one clip a row, or several, as texts are packed."""

# N rows, T tokens, E examples (clips), F slots (hops of samples) of a row, P patch side

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Field, Volume
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.stored import BadSoundError, StoredClip
from jaxfm.data.media.looking import (
    BROKEN,
    MEMORY_BYTES,
    Decoded,
    broken_notes,
    look,
    row_members,
    stopped_message,
)
from jaxfm.errors import UserError
from jaxfm.models.inputs.frames import fields, frame_count, hop_size, log_mel, slot_count, window_size

_AT_ONCE = 64  # rows whose frames are measured together


@dataclasses.dataclass(frozen=True)
class FrameSettings:
    """How a clip becomes samples and patches of frames.

    Attributes:
        layout: rate, most frames, and whether clips are filled up.
        patches: of the encoder.
    """

    layout: SoundLayout
    patches: PatchConfig

    @property
    def most_frames(self) -> int:
        """Frames that the patches of the longest clip cover: what is read of a clip at most."""
        patches = self.patches
        columns = (self.layout.frames - patches.span) // patches.stride[1] + 1
        return (columns - 1) * patches.stride[1] + patches.span

    @property
    def most_samples(self) -> int:
        """Samples of so many frames."""
        rate = self.layout.rate
        return (self.most_frames - 1) * hop_size(rate) + window_size(rate)

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest clip."""
        return self.tokens(self.columns(self.most_frames))

    def columns(self, frames: int) -> int:
        """Returns the patches along time of a clip; the last one may hang over its end."""
        patches, most = self.patches, self.most_frames
        frames = most if self.layout.padded else min(frames, most)
        return max(0, -(-(frames - patches.span) // patches.stride[1])) + 1

    def tokens(self, columns: int) -> int:
        """Returns the tokens of a clip with so many patches along time."""
        return self.patches.prefix + columns * self.patches.grid[0]

    def slots(self, frames: int) -> int:
        """Returns the hops of samples that a clip takes in a row: its frames, and all that its patches cover."""
        covered = (self.columns(frames) - 1) * self.patches.stride[1] + self.patches.span
        return max(slot_count(frames, self.layout.rate), covered)

    def row_slots(self, row_length: int, *, packed: bool) -> int:
        """Returns slots that are enough for whatever clips fill `row_length` tokens."""
        most = self.columns(self.most_frames)
        if not packed:
            return self.slots(self.most_frames)
        ratios = []
        for columns in (most,) if self.layout.padded else range(1, most + 1):
            frames = (columns - 1) * self.patches.stride[1] + self.patches.span
            ratios.append(self.slots(min(frames, self.most_frames)) / self.tokens(columns))
        return math.ceil(row_length * max(ratios))

    def read(self, clip: StoredClip, content: bytes | None = None) -> tuple[np.ndarray, int]:
        """Returns what frames read of a clip, f32 samples, and how many it has in all.

        What is left after the last whole frame is cut off; a clip shorter than a frame is filled up with silence.
        """
        rate = self.layout.rate
        samples = decode(clip, rate, content)
        frames = min(frame_count(len(samples), rate), self.most_frames)
        taken = (frames - 1) * hop_size(rate) + window_size(rate)
        return np.pad(samples[:taken], (0, max(0, taken - len(samples)))), len(samples)


@dataclasses.dataclass(frozen=True, eq=False)
class SoundRows:
    """Rows of samples and patches (implements jaxfm.core.batch.Dataset), made when they are asked for.

    A batch has the fields of `models.inputs.frames.fields`.

    Attributes:
        clips: the E clips that could be decoded, in the order in which they were given.
        kept: [E] which of the clips given these are.
        settings: how they become patches.
        frames: [E] frames of each.
        cut: [E] bool, whether a clip is longer than what is read of it.
        row_length: T.
        slots: F.
        members: of each row, the numbers of its clips, in order.
        content: the sha256 of all clips' files.
        decoded: the samples of each clip, or None where there are too many to keep (`MEMORY_BYTES`).
        notes: what the log should say: clips that are left out or cut, whether they stay in memory.
        more: further arrays [N, ...] of rows, by the name of their field.
        more_fields: their fields.
    """

    clips: Sequence[StoredClip]
    kept: np.ndarray
    settings: FrameSettings
    frames: np.ndarray
    cut: np.ndarray
    row_length: int
    slots: int
    members: Sequence[np.ndarray]
    content: str
    decoded: Sequence[np.ndarray] | None
    notes: tuple[str, ...] = ()
    more: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    more_fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        own = fields(self.row_length, slots=self.slots, rate=self.settings.layout.rate)
        return {**own, **self.more_fields}

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each clip [E], prefix included."""
        settings = self.settings
        return np.asarray([settings.tokens(settings.columns(frames)) for frames in self.frames.tolist()], np.int64)

    @property
    def volume(self) -> Volume:
        """Tokens of a row: patches, and the few without frames."""
        rows = max(1, len(self))
        return Volume(
            "patches",
            self.row_length,
            int(self.lengths.sum()) / rows,
            longest=int(self.lengths.max(initial=0)),
            singular="patch",
            examples_per_row=len(self.clips) / rows,
        )

    @functools.cached_property
    def example_locations(self) -> np.ndarray:
        """Where each clip lies, int32 [E, 2]: its row, and its segment counted from 0."""
        found = np.zeros((len(self.clips), 2), np.int32)
        for row, members in enumerate(self.members):
            found[members] = np.stack([np.full(len(members), row), np.arange(len(members))], axis=1)
        return found

    def with_fields(self, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Field]) -> "SoundRows":
        """Returns these rows with further arrays [N, ...], such as labels."""
        assert arrays.keys() == fields.keys() and all(len(array) == len(self) for array in arrays.values())
        return dataclasses.replace(self, more={**self.more, **arrays}, more_fields={**self.more_fields, **fields})

    def samples(self, example: int) -> np.ndarray:
        """Returns the samples that are read of a clip, f32.

        Raises BadSoundError where its file is no longer what it was when the rows were made.
        """
        if self.decoded is not None:
            return self.decoded[example]
        clip = self.clips[example]
        samples, _ = self.settings.read(clip)
        if frame_count(len(samples), self.settings.layout.rate) != self.frames[example]:
            raise BadSoundError(f"{clip.origin}: has another length than when the run began.")
        return samples

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for as a batch; clips that are not in memory are decoded now."""
        spec = self.spec
        batch = {
            name: np.full((len(index), *field.shape), field.fill, field.dtype)
            for name, field in spec.items()
            if name not in self.more
        }
        settings, hop = self.settings, hop_size(self.settings.layout.rate)
        for at, row in enumerate(np.asarray(index).tolist()):
            token = slot = 0
            for segment, example in enumerate(self.members[row].tolist(), start=1):
                frames, samples = int(self.frames[example]), self.samples(example)
                columns, taken = settings.columns(frames), settings.slots(frames)
                cells, starts = _layout(settings.patches, columns)
                place = (at, slice(token, token + len(cells)))
                batch["samples"][at, slot * hop : slot * hop + len(samples)] = samples
                batch["slots"][at, slot : slot + taken] = -segment
                batch["slots"][at, slot : slot + frames] = segment
                batch["starts"][place] = slot + starts
                batch["segment_ids"][place] = segment
                batch["positions"][place] = np.arange(len(cells))
                batch["cells"][place] = cells
                batch["grids"][place] = settings.patches.grid
                token, slot = token + len(cells), slot + taken
        return batch | {name: np.asarray(array[index], spec[name].dtype) for name, array in self.more.items()}

    def fingerprint(self) -> str:
        """The sha256 of the clips' files, of which clips a row has, of all settings and of further arrays."""
        layout = dataclasses.replace(self.settings.layout, mean=0.0, std=0.0)  # these follow from the clips
        digest = hashlib.sha256(f"{self.content} {layout} {self.settings.patches} {self.row_length}".encode())
        digest.update(np.ascontiguousarray(self.example_locations, "<i4").data)
        for name, array in sorted(self.more.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@functools.lru_cache(maxsize=1024)
def _layout(patches: PatchConfig, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells [n, 2] and first slots [n] of a clip's tokens: learned ones, then patches, band by band as transformers."""
    prefix = patches.prefix
    before = np.stack([np.full(prefix, -1), np.arange(prefix)], axis=1)
    cells = np.concatenate([before, np.indices((patches.grid[0], columns)).reshape(2, -1).T]).astype(np.int32)
    return cells, np.maximum(cells[:, 1], 0) * patches.stride[1] * (cells[:, 0] >= 0)


def build_sound_rows(
    clips: Sequence[StoredClip],
    settings: FrameSettings,
    *,
    row_length: int,
    packed: bool = False,
    seed: int | None = None,
    max_segments: int | None = None,
    broken: str = "stop",
    broken_option: str = "",
    memory_bytes: int = MEMORY_BYTES,
) -> SoundRows:
    """Returns rows of clips; all are decoded once for it, as a broken one must be found before training.

    Args:
      clips: where they are kept.
      settings: how they become patches.
      row_length: tokens a row, at least those of the longest clip that is read.
      packed: whether a row has as many clips as fit; else one.
      seed: see `row_members`.
      max_segments: the most clips a row.
      broken: "stop": a broken clip is an error; "skip": it is left out, counted and named in a note.
      broken_option: the key that says so, for messages; "" where there is none.
      memory_bytes: samples up to which they are kept; see `MEMORY_BYTES`.

    Raises:
      BadSoundError: the first broken clip, and how many more there are.
      UserError: only broken clips.
    """
    assert broken in BROKEN and row_length >= settings.most_tokens

    def one(clip: StoredClip) -> Decoded:
        content = clip.content()
        samples, whole = settings.read(clip, content)
        return Decoded(clip.digest(content), samples, (len(samples), whole))

    looked = look(clips, one, BadSoundError, memory_bytes)
    if looked.broken and broken == "stop":
        raise BadSoundError(stopped_message(looked.broken, len(clips), "clips", broken_option))
    if not looked.kept:
        raise UserError(f"None of the {len(clips):,} clips can be decoded. The first: {looked.broken[0]}")
    rate = settings.layout.rate
    sizes = np.asarray(looked.more, np.int64).reshape(-1, 2)
    frames = np.asarray([frame_count(count, rate) for count in sizes[:, 0].tolist()], np.int64)
    lengths = np.asarray([settings.tokens(settings.columns(count)) for count in frames.tolist()], np.int64)
    return SoundRows(
        clips=[clips[number] for number in looked.kept],
        kept=np.asarray(looked.kept, np.int64),
        settings=settings,
        frames=frames,
        cut=sizes[:, 1] > settings.most_samples,
        row_length=row_length,
        slots=settings.row_slots(row_length, packed=packed),
        members=row_members(lengths, row_length, packed, seed, max_segments),
        content=looked.content,
        decoded=looked.decoded,
        notes=(
            *broken_notes(looked.broken, len(clips), "clips"),
            *_notes(settings, sizes[:, 1], looked.decoded is None, memory_bytes),
        ),
    )


def _notes(settings: FrameSettings, samples_E: np.ndarray, anew: bool, memory_bytes: int) -> list[str]:
    notes, cut = [], int((samples_E > settings.most_samples).sum())
    if cut:
        seconds = settings.most_samples / settings.layout.rate
        notes.append(f"{cut:,} of {len(samples_E):,} clips are longer than the {seconds:.2f} seconds read, and are cut")
    if anew:
        notes.append(
            f"the clips have more than {memory_bytes >> 20} MiB of samples, so they are decoded anew in every epoch"
        )
    return notes


def frame_statistics(rows: SoundRows) -> tuple[float, float]:
    """Returns the mean and the standard deviation of all numbers of all log-mel frames; 0 where all are equal.

    Frames are computed as the model does, sums over rows are f64 and in the order of the rows.
    """
    rate, mels = rows.settings.layout.rate, rows.settings.patches.mels
    frames_of = jax.jit(lambda samples: log_mel(samples, rate, mels))
    count, total, squares = 0, 0.0, 0.0
    for start in range(0, len(rows), _AT_ONCE):
        index = np.minimum(np.arange(start, start + _AT_ONCE), len(rows) - 1)
        batch = rows.take(index)
        taken = (batch["slots"] > 0) & (np.arange(start, start + _AT_ONCE) < len(rows))[:, None]
        found = np.asarray(frames_of(batch["samples"]), np.float64)[taken]
        count, total, squares = count + found.size, total + found.sum(), squares + np.square(found).sum()
    mean = total / count
    return float(mean), float(max(0.0, squares / count - mean**2) ** 0.5)
