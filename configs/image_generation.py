"""Images of classes, made from nothing. `--config=configs/image_generation.py` learns scikit-learn's digits.

quickstart  8 x 8 digits, a grey level a pixel: minutes on two cores (the default)
files       your own images, 28 pixels, codes of 2 x 2 pixels learned from them: --config.data.source=images:DIR
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/image_generation.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("image_generation")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "bert_tiny"
    config.model.num_layers = 4
    config.model.hidden_size = 96
    config.model.num_heads = 4
    config.model.ffn_size = 384
    config.data.source = "quickstart"
    config.task.image_size = 8
    config.task.patch_size = 1
    config.task.codebook = "levels"
    config.task.codes = 17
    config.task.unmasking.steps = 12
    config.train.batch_size = 32
    config.train.epochs = 25.0


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "bert_mini"
    config.data.source = "images:."
    config.train.epochs = 50.0


_VARIANTS = {"quickstart": _quickstart, "files": _files}
