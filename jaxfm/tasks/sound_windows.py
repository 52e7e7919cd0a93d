"""Recordings longer than what a model reads: windows with overlap, of which each frame has one that answers for it."""

# W windows

from typing import NamedTuple

import numpy as np

from jaxfm.data.audio.rows import FrameSettings
from jaxfm.data.audio.stored import StoredClip
from jaxfm.models.inputs.frames import frame_count, hop_size, window_size


class Window(NamedTuple):
    """A part of a recording.

    Attributes:
      clip: its samples.
      first: frame of the recording at which these begin.
      start: first frame that it answers for.
      end: the frame after the last one.
    """

    clip: StoredClip
    first: int
    start: int
    end: int


def windows_of(clip: StoredClip, samples: np.ndarray, settings: FrameSettings, most_frames: int = 0) -> list[Window]:
    """Returns the windows of a recording, in order; one of all of it where the model reads it whole.

    They are as long as the model reads, or less where that is asked for, half of that apart, and the last one ends with
    the recording. A frame belongs to the window whose middle is nearest, so it always has a quarter of a window before
    and after it, but at the ends.

    Args:
      clip: the recording.
      samples: its samples at the model's rate.
      settings: how the model reads clips.
      most_frames: of a window; 0: as many as the model reads of a clip.
    """
    rate, size = settings.layout.rate, min(most_frames or settings.most_frames, settings.most_frames)
    most_samples = (size - 1) * hop_size(rate) + window_size(rate)
    hop, frames = hop_size(rate), frame_count(len(samples), rate)
    if frames <= size:
        return [Window(StoredClip(clip.origin, array=samples, rate=rate), 0, 0, frames)]
    step = max(1, size // 2)
    starts = [*range(0, frames - size, step), frames - size]
    # Between two windows the border lies in the middle of what both hear.
    borders = [0, *((one + other + size) // 2 for one, other in zip(starts, starts[1:], strict=False)), frames]
    return [
        Window(
            StoredClip(clip.origin, array=samples[start * hop : start * hop + most_samples], rate=rate),
            start,
            borders[number],
            borders[number + 1],
        )
        for number, start in enumerate(starts)
    ]


class OwnSteps(NamedTuple):
    """Steps in time of a window that it answers for.

    Attributes:
      steps_K: their numbers in the window.
      frames_K: the frame of the recording at which the patch of each begins.
    """

    steps_K: np.ndarray
    frames_K: np.ndarray


def own_steps(settings: FrameSettings, frames: int, window: Window, end: int) -> OwnSteps:
    """Returns the steps of a window whose middle lies in the frames that it answers for.

    Args:
      settings: how the model reads clips.
      frames: of the window's clip.
      window: one of `windows_of`.
      end: the frame after the last one of the recording; what hangs over it belongs to its last window.
    """
    patches = settings.patches
    frames_K = window.first + np.arange(settings.columns(frames)) * patches.stride[1]
    middle_K = np.minimum(frames_K + patches.span // 2, end - 1)
    (steps_K,) = np.nonzero((middle_K >= window.start) & (middle_K < window.end))
    return OwnSteps(steps_K, frames_K[steps_K])
