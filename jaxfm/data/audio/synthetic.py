"""`quickstart` of sound: tones, sweeps, pulses and noise, drawn by numpy, no download.

Each clip is a third of a second to a second long, of its own pitch and loudness, with some noise behind it.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxfm.data.audio.stored import StoredClip
from jaxfm.data.records.table import Table, Tables, memory_table

RATE = 16_000
_SIZES = {"train": 400, "valid": 100, "test": 100}
_SECONDS = (0.33, 1.0)
_PITCH = (200.0, 2000.0)  # hertz


def find_synthetic() -> Tables:
    """Returns the splits: audio, label."""
    return Tables({split: functools.partial(_open, split) for split in _SIZES})


@functools.cache
def _clips(split: str) -> list[tuple[str, tuple[StoredClip, str]]]:
    names = tuple(_MAKERS)
    found = []
    for number in range(_SIZES[split]):
        rng = np.random.Generator(np.random.PCG64([tuple(_SIZES).index(split), number]))
        name, origin = names[number % len(names)], f"synthetic/{split}[{number}]"
        time = np.arange(round(RATE * rng.uniform(*_SECONDS))) / RATE
        wave = _MAKERS[name](time, rng) * rng.uniform(0.05, 0.5)
        wave += rng.normal(size=len(time)) * 0.005
        samples = np.clip(np.rint(wave * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
        found.append((origin, (StoredClip(origin, array=samples, rate=RATE), name)))
    return found


def _pitch(rng: np.random.Generator) -> float:
    """Draws a pitch, as likely in each octave."""
    return float(np.exp(rng.uniform(*np.log(_PITCH))))


def _tone(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sin(2 * np.pi * _pitch(rng) * time)


def _sweep(time: np.ndarray, rng: np.random.Generator, *, up: bool) -> np.ndarray:
    """A tone whose pitch changes by one octave to two, by the same factor each second."""
    lowest, ratio = _pitch(rng), rng.uniform(2, 4)
    first = lowest if up else lowest * ratio
    rate = np.log(ratio if up else 1 / ratio) / time[-1]
    return np.sin(2 * np.pi * first * np.expm1(rate * time) / rate)


def _pulses(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A tone that is switched on and off four to ten times a second."""
    return _tone(time, rng) * (np.sin(2 * np.pi * rng.uniform(4, 10) * time) > 0)


def _noise(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=len(time)) * 0.5


_MAKERS: dict[str, Callable[[np.ndarray, np.random.Generator], Any]] = {
    "tone": _tone,
    "rising": functools.partial(_sweep, up=True),
    "falling": functools.partial(_sweep, up=False),
    "pulses": _pulses,
    "noise": _noise,
}


def _open(split: str) -> Table:
    return memory_table(f"synthetic sounds/{split}", ("audio", "label"), _clips(split))
