"""Clips of a source with their labels: one URI, one shape of example, whatever the source is."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.audio import archives
from jaxfm.data.audio.stored import StoredClip
from jaxfm.data.media import folders
from jaxfm.data.media.examples import MediaColumns, read_media, stored_media
from jaxfm.data.media.medium import Medium
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.table import Tables
from jaxfm.errors import UserError

# What libsndfile reads.
SUFFIXES = tuple(".wav .flac .ogg .opus .mp3 .aiff .aif .au".split())


@dataclasses.dataclass(frozen=True, slots=True)
class SoundExample:
    """One clip.

    Attributes:
        clip: where it is kept; it is not decoded yet.
        labels: its class ("single"), its classes ("multi", in the order of the source), () where none are read.
        text: what is said in it; "" where none is read.
        origin: where it was read: "clips/train/yes/1.wav", "dir/train.csv:12" or "tfds:speech_commands/train[17]".
    """

    clip: StoredClip
    labels: tuple[str, ...]
    text: str
    origin: str


@dataclasses.dataclass(frozen=True)
class SoundSplit:
    """One split.

    Attributes:
        examples: in the order of the source.
        note: one line for the log.
        classes: those that the source declares, in its order; see `MediaSplit`.
    """

    examples: tuple[SoundExample, ...]
    note: str
    classes: tuple[str, ...] = ()


def read_sounds(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: MediaColumns | None = None,
    holdout: float | None = 0.0,
    labels: str = "none",
    texts: bool = False,
    by: SplitKeys = NO_KEYS,
) -> dict[str, SoundSplit]:
    """Reads the splits asked for of a source; decodes nothing. Arguments and errors as of `read_media`.

    Sources: quickstart (tones, sweeps and noise, drawn here; with texts melodies), `audio:DIR`, `npz:FILE`, and all of
    `jaxfm/data/records/formats/`: tables with a column of paths or of bytes.
    """
    read = read_media(SOUNDS, source, splits, columns=columns, holdout=holdout, labels=labels, texts=texts, by=by)
    return {
        split: SoundSplit(
            tuple(SoundExample(each.stored, each.labels, each.text, each.origin) for each in found.examples),
            found.note,
            found.classes,
        )
        for split, found in read.items()
    }


def stored_clip(value: Any, column: str, origin: str, folder: pathlib.Path | None) -> StoredClip:
    """Returns a clip that a record holds; see `stored_media`."""
    return stored_media(SOUNDS, value, column, origin, folder)


def _of_value(value: Any, origin: str) -> StoredClip | None:
    if isinstance(value, StoredClip):
        return value
    if isinstance(value, bytes | bytearray):
        return StoredClip(origin, data=bytes(value))
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys():
        rate = value["sampling_rate"]
        if isinstance(rate, bool) or not isinstance(rate, int | np.integer) or rate < 1:
            raise UserError(f"{origin}: sampling_rate {rate!r}; it must be an integer above 0: samples a second.")
        return StoredClip(origin, array=np.asarray(value["array"]), rate=int(rate))
    if isinstance(value, np.ndarray):
        raise UserError(f'{origin}: samples without their rate. Give {{"array": SAMPLES, "sampling_rate": NUMBER}}.')
    return None


def _of_path(origin: str, path: pathlib.Path) -> StoredClip:
    return StoredClip(origin, path=path)


def _open_quickstart(rest: str, kind: str, texts: bool) -> Tables:
    del rest, kind
    from jaxfm.data.audio.melodies import find_melodies
    from jaxfm.data.audio.synthetic import find_synthetic

    return find_melodies() if texts else find_synthetic()


def _open_folders(rest: str, kind: str, texts: bool) -> Tables:
    return folders.open_folders(SOUNDS, rest, kind=kind, captions=texts)


def _open_archive(rest: str, kind: str, texts: bool) -> Tables:
    del kind
    return archives.open_archive(rest, texts=texts)


SOUNDS = Medium(
    name="audio",
    one="a recording",
    many="recordings",
    scheme="audio",
    suffixes=SUFFIXES,
    sure_columns=("audio",),
    columns=tuple("sound recording wav audio_path path file_path filepath filename file bytes speech".split()),
    forms=("audio:DIR", archives.FORM),
    open_own={"quickstart": _open_quickstart, "audio": _open_folders, "npz": _open_archive},
    of_path=_of_path,
    of_value=_of_value,
    values='the bytes of a file, or {"array", "sampling_rate"}',
)
