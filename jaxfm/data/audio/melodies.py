"""`quickstart` of speech: melodies, drawn by numpy, no download. Each letter is a tone of its own pitch.

A clip has one to three words of one to three letters. A tone lasts 60 to 120 ms, with silence after it and more of it
after a word; all are a little out of tune and of another loudness, with some noise behind them.
"""

import functools

import numpy as np

from jaxfm.data.audio.stored import StoredClip
from jaxfm.data.records.table import Table, Tables, memory_table

RATE = 8_000
LETTERS = "abcdefgh"
_SIZES = {"train": 600, "valid": 100, "test": 100}
_LOWEST, _STEP = 300.0, 2.0**0.5  # hertz, and from one letter to the next
_TONE, _REST, _PAUSE = (0.06, 0.12), (0.02, 0.04), (0.2, 0.3)  # seconds
_OUT_OF_TUNE = 0.05


def find_melodies() -> Tables:
    """Returns the splits: audio, text."""
    return Tables({split: functools.partial(_open, split) for split in _SIZES})


@functools.cache
def _clips(split: str) -> list[tuple[str, tuple[StoredClip, str]]]:
    found = []
    for number in range(_SIZES[split]):
        rng = np.random.Generator(np.random.PCG64([tuple(_SIZES).index(split), number]))
        origin = f"melodies/{split}[{number}]"
        words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 4))) for _ in range(rng.integers(1, 4))]
        wave = _melody(" ".join(words), rng)
        wave = wave * rng.uniform(0.1, 0.5) + rng.normal(size=len(wave)) * 0.01
        samples = np.clip(np.rint(wave * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
        found.append((origin, (StoredClip(origin, array=samples, rate=RATE), " ".join(words))))
    return found


def _melody(text: str, rng: np.random.Generator) -> np.ndarray:
    """Returns the samples of a text."""
    parts = [_silence(_REST, rng)]
    for letter in text:
        if letter == " ":
            parts.append(_silence(_PAUSE, rng))
            continue
        pitch = _LOWEST * _STEP ** LETTERS.index(letter) * rng.uniform(1 - _OUT_OF_TUNE, 1 + _OUT_OF_TUNE)
        time = np.arange(round(RATE * rng.uniform(*_TONE))) / RATE
        parts += [np.sin(2 * np.pi * pitch * time) * np.hanning(len(time)), _silence(_REST, rng)]
    return np.concatenate(parts)


def _silence(seconds: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    return np.zeros(round(RATE * rng.uniform(*seconds)))


def _open(split: str) -> Table:
    return memory_table(f"melodies/{split}", ("audio", "text"), _clips(split))
