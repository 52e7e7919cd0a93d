"""preprocessor_config.json of sound: what transformers' extractor of AST does to samples before a model reads them."""

import pathlib
from typing import Any

from jaxfm import files
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.errors import UserError
from jaxfm.families.config_values import is_integer, is_number
from jaxfm.hub.directory import json_object
from jaxfm.hub.image_processors import FILE

RATE = 16_000
"""The only rate at which transformers' extractor and the frames here hear the same; see `sound_model_problem`."""
_CLASS = "ASTFeatureExtractor"
# The extractor's own defaults.
_FRAMES, _MEAN, _STD = 1024, -4.2677393, 4.5689974


def read_feature_extractor(directory: pathlib.Path) -> SoundLayout | None:
    """Returns what the file beside weights says of recordings; None without one.

    Raises:
      UserError: the file is no JSON object, is of another extractor, or a value is out of range.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    values = json_object(path)
    kind = values.get("feature_extractor_type", _CLASS)
    if kind != _CLASS:
        raise UserError(f"{path}: feature_extractor_type {kind!r}; the frames computed here are those of {_CLASS}.")
    rate, frames = values.get("sampling_rate", RATE), values.get("max_length", _FRAMES)
    for key, value in (("sampling_rate", rate), ("max_length", frames)):
        if not is_integer(value) or value < 1:
            raise UserError(f"{path}: {key} {value!r}; it must be an integer of at least 1.")
    mean, std = values.get("mean", _MEAN), values.get("std", _STD)
    if not is_number(mean) or not is_number(std) or std <= 0:
        raise UserError(f"{path}: mean {mean!r}, std {std!r}; they must be numbers, and std above 0.")
    if not values.get("do_normalize", True):
        mean, std = 0.0, 0.5  # (x - 0) / (2 * 0.5)
    return SoundLayout(rate, frames, padded=True, mean=float(mean), std=float(std))


def sound_model_problem(layout: SoundLayout, patches: PatchConfig) -> str:
    """Returns why no class of transformers reads recordings as a run does; "" where one does."""
    if patches.span != patches.size:
        return (
            f"--format=hf: the patches of transformers' AST are square; those of this run have {patches.size} bands "
            f"and {patches.span} frames."
        )
    if layout.rate != RATE:
        return (
            f"--format=hf: transformers' {_CLASS} has windows of 400 samples whatever the rate, which are 25 ms at "
            f"{RATE:,} a second alone; this run reads {layout.rate:,} (config.task.sample_rate)."
        )
    if not layout.padded:
        return (
            f"--format=hf: transformers' {_CLASS} fills every recording up to one length; this run reads each "
            f"in its own "
            "(config.task.lengths=native). Train with config.task.lengths=padded for it."
        )
    return ""


def write_feature_extractor(folder: pathlib.Path, layout: SoundLayout, mels: int) -> None:
    """Writes the file that AutoFeatureExtractor opens, so that transformers' frames are those of jaxfm."""
    values: dict[str, Any] = {
        "feature_extractor_type": _CLASS,
        "sampling_rate": layout.rate,
        "num_mel_bins": mels,
        "feature_size": 1,
        "max_length": layout.frames,
        "padding_value": 0.0,
        "do_normalize": True,
        "mean": layout.mean,
        "std": layout.std,
    }
    files.write_json(folder / FILE, values)
