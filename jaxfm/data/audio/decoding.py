"""Clips as samples: files by soundfile, channels mixed down, resampled by soxr."""

# N samples, C channels

import io
import struct
from typing import Any

import numpy as np

from jaxfm.data.audio.stored import BadSoundError, StoredClip
from jaxfm.errors import UserError, install_hint

_LEAST_RATE, _MOST_RATE = 1_000, 768_000
_MOST_CHANNELS = 64
# Integers are from -1 to 1 after division by their size.
_SCALES = {"int16": 2**15, "int32": 2**31}
_UNKNOWN_SIZE = (0, 0xFFFFFFFF)  # that a stream's RIFF header says


def decode(clip: StoredClip, rate: int, content: bytes | None = None) -> np.ndarray:
    """Returns the samples f32 [N] of a clip at a rate; channels become their mean. N is at least 1.

    Args:
      clip: where it is kept.
      rate: samples a second that are asked for.
      content: the bytes of its file, where they are read already.

    Raises:
      BadSoundError: a file that is damaged, cut or of no known format, one without samples, samples that are not
        finite or of a type that is no sound.
      UserError: soundfile or soxr is not installed.
    """
    if clip.array is not None:
        samples_NC, own = _of_array(clip), clip.rate
    else:
        samples_NC, own = _of_file(clip, clip.content() if content is None else content)
    if not len(samples_NC):
        raise BadSoundError(f"{clip.origin}: has no samples.")
    if not np.isfinite(samples_NC).all():
        raise BadSoundError(f"{clip.origin}: has samples that are not finite.")
    if not _LEAST_RATE <= own <= _MOST_RATE:
        raise BadSoundError(
            f"{clip.origin}: {own} samples a second; a recording has {_LEAST_RATE:,} to {_MOST_RATE:,}."
        )
    samples = np.ascontiguousarray(samples_NC.mean(axis=1, dtype=np.float32))
    if own == rate:
        return samples
    found = np.asarray(_library("soxr").resample(samples, own, rate), np.float32)
    return found if len(found) else np.zeros(1, np.float32)  # a clip shorter than one sample of the new rate


def _of_array(clip: StoredClip) -> np.ndarray:
    """Returns samples f32 [N, C]."""
    array = clip.array
    assert array is not None
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 1 <= array.shape[1] <= _MOST_CHANNELS):
        raise BadSoundError(
            f"{clip.origin}: samples of shape {array.shape}; they are [samples] or [samples, channels]."
        )
    scale = 1 if array.dtype.kind == "f" else _SCALES.get(array.dtype.name, 0)
    if not scale:
        raise BadSoundError(
            f"{clip.origin}: samples of type {array.dtype}; they are real numbers from -1 to 1, int16 or int32."
        )
    return (array.astype(np.float32) / scale).reshape(len(array), -1)


def _of_file(clip: StoredClip, content: bytes) -> tuple[np.ndarray, int]:
    """Returns samples f32 [N, C] and their rate."""
    if not content:
        raise BadSoundError(f"{clip.origin}: the file is empty.")
    soundfile = _library("soundfile")
    _check_whole(clip.origin, content)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            samples_NC, rate, promised = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        # What libsndfile itself says; the whole message names the object that held the bytes.
        said = getattr(error, "error_string", str(error))
        raise BadSoundError(f"{clip.origin}: cannot be decoded: {said.rstrip('.')}.") from None
    if len(samples_NC) < promised:
        raise BadSoundError(
            f"{clip.origin}: is cut: its header promises {promised:,} samples, it has {len(samples_NC):,}."
        )
    return samples_NC, rate


def _check_whole(origin: str, content: bytes) -> None:
    """Raises BadSoundError for a wav file shorter than its header says: libsndfile would read what is left of it."""
    if content[:4] != b"RIFF" or len(content) < 12:
        return
    at = 12
    while at + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[at : at + 8])
        if name == b"data":
            if size not in _UNKNOWN_SIZE and at + 8 + size > len(content):
                raise BadSoundError(
                    f"{origin}: is cut: its header promises {size:,} bytes of samples, it has "
                    f"{len(content) - at - 8:,}."
                )
            return
        at += 8 + size + size % 2


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except (ModuleNotFoundError, OSError):
        raise UserError(f"sound is read by soundfile and resampled by soxr: {install_hint('audio')}.") from None
