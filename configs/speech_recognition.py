"""Recognition of speech by CTC. `--config=configs/speech_recognition.py` learns letters that are tones from scratch.

quickstart  0.5 M parameters on drawn melodies, a letter a tone: a few minutes on two cores (the default)
files       the same on your own clips with transcripts: --config.data.source=csv:DIR, audio:DIR (x.wav beside x.txt)
digits      spoken digits of an archive of NumPy, spelled out: --config.data.source=npz:spoken_digits.npz
joined      the same in strings of one to three digits of one speaker
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/speech_recognition.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("speech_recognition")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "ast_strips_nano"
    config.data.source = "quickstart"
    config.task.sample_rate = 8000
    config.task.augment.shift = 0.1
    config.data.packed = True
    config.train.epochs = 30.0
    config.train.batch_size = 8
    config.optim.learning_rate = 2e-3


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "ast_strips_nano"
    config.data.source = "csv:."
    config.task.augment.shift = 0.1
    config.task.augment.noise = 0.1
    config.task.augment.time_masks = 1
    config.task.augment.frequency_masks = 1
    config.data.packed = True
    config.train.batch_size = 8


def _digits(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "npz:spoken_digits.npz"
    config.data.text_column = "digit"
    config.task.spell_digits = True
    config.task.sample_rate = 8000
    config.train.epochs = 200.0


def _joined(config: ml_collections.ConfigDict) -> None:
    _digits(config)
    config.task.seconds = 4.5
    config.task.join.clips = 3
    config.task.join.fewest = 1
    config.task.join.examples = 2000
    config.task.join.column = "speaker"
    config.train.epochs = 60.0


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "digits": _digits,
    "joined": _joined,
}
