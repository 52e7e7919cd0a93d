"""What a recogniser says of clips, as text and as words with their times."""

# S segments (clips in a row), K steps of a clip, N candidates a step

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.audio.rows import SoundRows
from jaxfm.models.inputs.frames import hop_size
from jaxfm.tasks.sound_windows import Window, own_steps
from jaxfm.tasks.speech_recognition.decoding import LEAST, Candidates, Said, aligned, greedy, prefix_beam
from jaxfm.tasks.speech_recognition.spec import SpeechRecognizerSpec


@dataclasses.dataclass(frozen=True)
class Heard:
    """What is said of consecutive steps of a recording.

    Attributes:
      candidates: of each step.
      frames_K: the frame of the recording at which its patch begins.
    """

    candidates: Candidates
    frames_K: np.ndarray


def of_windows(
    spec: SpeechRecognizerSpec,
    rows: SoundRows,
    windows: Sequence[Window],
    first: int,
    outputs: Mapping[str, np.ndarray],
) -> Heard:
    """Returns the steps of a recording: of each window those whose middle lies in the frames that it answers for.

    Args:
      spec: of the recogniser.
      rows: of the windows of all recordings.
      windows: of this one.
      first: number of its first window among all.
      outputs: see `SpeechRecognizerSpec.candidates`.
    """
    parts: list[Candidates] = []
    frames: list[np.ndarray] = []
    for number, window in enumerate(windows, start=first):
        own = own_steps(spec.settings, int(rows.frames[number]), window, windows[-1].end)
        row, segment = rows.example_locations[number]
        parts.append(_of_clip(outputs, row, segment, own.steps_K))
        frames.append(own.frames_K)
    return Heard(Candidates(*map(np.concatenate, zip(*parts, strict=True))), np.concatenate(frames))


def texts_of_rows(
    spec: SpeechRecognizerSpec, rows: SoundRows, outputs: Mapping[str, np.ndarray], method: str
) -> list[str]:
    """Returns what is said in each clip of rows, in the order in which they were given; `method`: as of the spec."""
    found = []
    for frames, (row, segment) in zip(rows.frames.tolist(), rows.example_locations.tolist(), strict=True):
        candidates = _of_clip(outputs, row, segment, np.arange(spec.settings.columns(frames)))
        if method == "greedy":
            ids = greedy(candidates).ids
        else:
            ids, _ = prefix_beam(candidates, spec.decoding.beams, LEAST)
        found.append(text_of(spec, ids))
    return found


def _of_clip(outputs: Mapping[str, np.ndarray], row: int, segment: int, steps_K: np.ndarray) -> Candidates:
    return Candidates(*(outputs[name][row, segment][steps_K] for name in ("ids", "log_probs", "blank")))


def decoded(spec: SpeechRecognizerSpec, candidates: Candidates) -> Said:
    """Returns the symbols of consecutive steps, found as the spec says."""
    if spec.decoding.method == "greedy":
        return greedy(candidates)
    return aligned(candidates, prefix_beam(candidates, spec.decoding.beams, LEAST)[0])


def text_of(spec: SpeechRecognizerSpec, ids: Sequence[int]) -> str:
    """Returns symbols as a text, without spaces at its ends and with one between words."""
    return " ".join("".join(spec.symbols[symbol - 1] for symbol in ids).split())


def words_of(spec: SpeechRecognizerSpec, said: Said, heard: Heard) -> list[dict[str, Any]]:
    """Returns each word with "start" and "end" in seconds, and "score": the mean probability of its symbols.

    A symbol's probability is the greatest in its steps. It begins with its first patch, and ends with its last one.
    """
    patches, rate = spec.encoder.patches, spec.layout.rate
    hop = hop_size(rate) / rate
    words: list[list[int]] = [[]]
    for place, symbol in enumerate(said.ids):
        if spec.symbols[symbol - 1].isspace():
            words.append([])
        else:
            words[-1].append(place)
    found = []
    for places in filter(None, words):
        first, last = said.spans[places[0]][0], said.spans[places[-1]][1] - 1
        shares = [_probability(heard.candidates, said.ids[place], said.spans[place]) for place in places]
        found.append(
            {
                "word": "".join(spec.symbols[said.ids[place] - 1] for place in places),
                "start": round(float(heard.frames_K[first]) * hop, 3),
                "end": round(float(heard.frames_K[last] + patches.span) * hop, 3),
                "score": round(sum(shares) / len(shares), 4),
            }
        )
    return found


def _probability(candidates: Candidates, symbol: int, span: tuple[int, int]) -> float:
    start, end = span
    of_symbol = candidates.ids_KN[start:end] == symbol
    return float(np.exp(candidates.log_probs_KN[start:end][of_symbol].max(initial=-np.inf)))
