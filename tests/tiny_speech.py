"""Runs that recognise speech, or predict masked sound, and take seconds."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.config import Config
from jaxfm.tasks.registry import default_config, from_config_dict
from tests.tiny import replaced

RATE = 8_000
SIZES = {"train": 48, "valid": 12, "test": 8}
_PITCHES = {"a": 300.0, "b": 900.0, "c": 2500.0}


def said(text: str, draw: np.random.Generator) -> np.ndarray:
    """Returns samples in which each letter is a tone of 50 ms, and a space is silence."""
    time = np.arange(round(RATE * 0.05)) / RATE
    parts = []
    for letter in text:
        pitch = _PITCHES.get(letter, 0.0) * draw.uniform(0.95, 1.05)
        parts += [0.3 * np.sin(2 * np.pi * pitch * time) * np.hanning(len(time)), np.zeros(round(RATE * 0.03))]
    wave = np.concatenate(parts)
    return wave + 0.005 * draw.normal(size=len(wave))


def write_speech(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES) -> str:
    """Writes wav files of texts of a, b and c, and a table a split; returns its URI."""
    import soundfile

    directory.mkdir(parents=True)
    for seed, (split, count) in enumerate(sizes.items()):
        draw = np.random.default_rng(seed)
        lines = []
        for number in range(count):
            text = "".join(draw.choice(list("abc"), draw.integers(1, 4)))
            name = f"{split}_{number}.wav"
            soundfile.write(directory / name, said(text, draw), RATE, subtype="PCM_16")
            speaker = ("ann", "bob")[number % 2]
            lines.append(json.dumps({"audio": name, "text": text.upper(), "speaker": speaker, "number": number}))
        (directory / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:{directory}"


def sound_config(task: str, directory: pathlib.Path, **overrides: Any) -> Config:
    """Returns a config of a run over such clips, from scratch: at most 0.35 seconds are read, a step every 20 ms."""
    values: Any = default_config(task)
    values.model.init, values.model.preset = "scratch", "ast_strips_nano"
    values.model.num_layers, values.model.hidden_size, values.model.ffn_size = 1, 32, 64
    values.model.num_heads = 2
    values.model.scan_layers = True
    values.data.source = f"jsonl:{directory / 'speech'}"
    values.task.seconds, values.task.sample_rate, values.task.mels = 0.35, RATE, 16
    values.train.batch_size = 8
    values.train.steps = 12
    values.train.min_steps = 0
    values.optim.learning_rate = 5e-3
    values.eval.batch_size = 8
    values.eval.metric = "loss"
    values.log.every_steps = 4
    if not (directory / "speech").exists():
        write_speech(directory / "speech")
    return replaced(from_config_dict(values), **overrides)
