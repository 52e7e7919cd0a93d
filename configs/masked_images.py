"""Masked pretraining on images without labels. `--config=configs/masked_images.py` learns from scikit-learn's digits.

quickstart  MAE with a ViT of 0.2 M parameters on 8 x 8 digits: a minute or two on two cores (the default)
files       MAE on your own images, 32 pixels: --config.data.source=images:DIR
simmim      the same with a learned vector in place of hidden patches and a linear decoder
cifar10     MAE of the size of model that reaches 96 % on CIFAR-10 after fine-tuning
imagenet    MAE with ViT-B/16 on 224 pixels: --config.data.source=webdataset:DIR
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/masked_images.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("masked_images")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "vit_nano"
    config.data.source = "quickstart"
    # A digit of 16 patches says little with 4 of them.
    config.task.ratio = 0.5
    config.task.augment.pad_crop = 1


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "vit_mini"
    config.data.source = "images:."
    config.task.augment.crop = 0.2
    config.task.augment.flip = True


def _simmim(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.task.method = "simmim"
    config.task.ratio = 0.6


def _cifar10(config: ml_collections.ConfigDict) -> None:
    # Tan 2024 (arXiv 2402.03752): MAE at 36 pixels with a decoder of 192 features.
    config.model.init = "scratch"
    config.model.preset = "vit_cifar"
    config.data.source = "tfds:cifar10"
    config.task.decoder_size = 192
    config.task.decoder_layers = 4
    config.task.augment.crop = 0.4
    config.task.augment.flip = True
    config.train.batch_size = 2048
    config.train.epochs = 4000.0
    config.optim.learning_rate = 1.2e-3
    config.optim.b2 = 0.95


def _imagenet(config: ml_collections.ConfigDict) -> None:
    # He et al. 2022, appendix A.1: 800 passes at 1.5e-4 for 256 images.
    config.model.init = "scratch"
    config.model.preset = "vit_base"
    config.data.source = "webdataset:."
    config.task.decoder_size = 512
    config.task.decoder_layers = 8
    config.task.augment.crop = 0.2
    config.task.augment.flip = True
    config.train.batch_size = 4096
    config.train.epochs = 800.0
    config.train.precision = "bf16"
    config.optim.learning_rate = 2.4e-3
    config.optim.b2 = 0.95


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "simmim": _simmim,
    "cifar10": _cifar10,
    "imagenet": _imagenet,
}
