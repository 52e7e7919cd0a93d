"""Runs on sound that take seconds."""

import pathlib
from typing import Any

from jaxfm.config import Config
from jaxfm.tasks.registry import default_config, from_config_dict
from tests.tiny import replaced
from tests.tiny_records import write_audio


def audio_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """Returns a config of a run on sound, over folders of short clips, from scratch: half a second is read."""
    values: Any = default_config("audio_classification")
    values.model.init, values.model.preset = "scratch", "ast_nano"
    values.model.num_layers, values.model.hidden_size, values.model.ffn_size = 2, 32, 64
    values.model.scan_layers = True
    values.data.source = f"audio:{directory / 'audio'}"
    values.task.seconds, values.task.sample_rate, values.task.mels = 0.5, 8000, 24
    values.train.batch_size = 8
    values.train.steps = 12
    values.train.min_steps = 0
    values.optim.learning_rate = 3e-3
    values.eval.batch_size = 8
    values.eval.metric = "loss"
    values.log.every_steps = 4
    if not (directory / "audio").exists():
        write_audio(directory / "audio")
    return replaced(from_config_dict(values), **overrides)
