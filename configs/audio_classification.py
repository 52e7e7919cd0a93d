"""Classification of sound. `--config=configs/audio_classification.py` learns tones, sweeps and noise from scratch.

quickstart  an AST of 0.2 M parameters on drawn sounds of a second: a minute or two on two cores (the default)
files       the same on your own clips: --config.data.source=audio:DIR, a folder a class
multi       the same where several things may be heard in a clip: --config.data.source=csv:DIR
digits      spoken digits of an archive of NumPy: --config.data.source=npz:spoken_digits.npz
finetune    AST from weights: --config.model.init=hf:MIT/ast-finetuned-audioset-10-10-0.4593
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/audio_classification.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}"
        )
    config = default_config("audio_classification")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "ast_nano"
    config.data.source = "quickstart"
    config.task.augment.shift = 0.1
    config.train.epochs = 12.0
    config.train.batch_size = 32


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "ast_nano"
    config.data.source = "audio:."
    config.task.augment.shift = 0.1
    config.task.augment.noise = 0.1
    config.task.augment.time_masks = 1
    config.task.augment.frequency_masks = 1


def _multi(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "csv:."
    config.task.kind = "multi"


def _digits(config: ml_collections.ConfigDict) -> None:
    # 480 clips are few: many passes, strong changes, and rows that several clips share.
    _files(config)
    config.data.source = "npz:spoken_digits.npz"
    config.data.label_column = "digit"
    config.task.augment.time_masks = 2
    config.task.augment.frequency_masks = 2
    config.train.batch_size = 32
    config.train.epochs = 100.0


def _finetune(config: ml_collections.ConfigDict) -> None:
    # Gong et al. 2021, section 3: few passes at a low rate, with SpecAugment.
    config.model.init = "hf:MIT/ast-finetuned-audioset-10-10-0.4593"
    config.data.source = "audio:."
    config.task.augment.noise = 0.1
    config.task.augment.time_masks = 1
    config.task.augment.time_width = 96
    config.task.augment.frequency_masks = 1
    config.task.augment.frequency_width = 24
    config.train.batch_size = 16
    config.train.epochs = 10.0
    config.optim.learning_rate = 5e-5


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "multi": _multi,
    "digits": _digits,
    "finetune": _finetune,
}
