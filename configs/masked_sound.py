"""Pretraining on sound without labels. `--config=configs/masked_sound.py` predicts clusters of hidden steps.

quickstart  0.5 M parameters on drawn sounds, 32 clusters of log-mel frames: a few minutes on two cores (the default)
files       the same with 100 clusters on your own clips: --config.data.source=audio:DIR
digits      spoken digits of an archive of NumPy: --config.data.source=npz:spoken_digits.npz
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/masked_sound.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("masked_sound")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "ast_strips_nano"
    config.data.source = "quickstart"
    config.data.packed = True
    config.task.clusters.count = 32
    config.train.epochs = 30.0
    config.train.batch_size = 8


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "ast_strips_nano"
    config.data.source = "audio:."
    config.data.packed = True
    config.train.batch_size = 8


def _digits(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "npz:spoken_digits.npz"
    config.task.sample_rate = 8000


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "digits": _digits,
}
