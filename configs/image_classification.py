"""Classification of images. `--config=configs/image_classification.py` learns scikit-learn's digits from scratch.

quickstart  a ViT of 0.2 M parameters on 8 x 8 digits: a minute or two on two cores (the default)
files       a ViT of your own images, 32 pixels: --config.data.source=images:DIR, a folder a class
multi       the same where an image has several labels: --config.data.source=csv:DIR
finetune    ViT, DeiT or DINOv2 from weights: --config.model.init=hf:google/vit-base-patch16-224-in21k
cifar10     the size of model that reaches 96 % on CIFAR-10 after masked pretraining (configs/masked_images.py:cifar10)
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(
            f"configs/image_classification.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}"
        )
    config = default_config("image_classification")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "vit_nano"
    config.data.source = "quickstart"
    config.task.augment.pad_crop = 1
    config.train.epochs = 40.0


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "vit_mini"
    config.data.source = "images:."
    config.task.augment.pad_crop = 4
    config.task.augment.flip = True


def _multi(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "csv:."
    config.task.kind = "multi"


def _finetune(config: ml_collections.ConfigDict) -> None:
    # Steiner et al. 2022: few passes at a low rate; stronger changes of images pay on small data only.
    config.model.init = "hf:google/vit-base-patch16-224-in21k"
    config.data.source = "images:."
    config.task.augment.flip = True
    config.task.augment.crop = 0.5
    config.train.epochs = 10.0
    config.optim.learning_rate = 1e-4


def _cifar10(config: ml_collections.ConfigDict) -> None:
    # Tan 2024 (arXiv 2402.03752): 36 pixels, fine-tuned with strong changes of images from masked pretraining.
    config.model.init = "scratch"
    config.model.preset = "vit_cifar"
    config.data.source = "tfds:cifar10"
    config.task.augment.crop = 0.4
    config.task.augment.flip = True
    config.task.augment.operations = 2
    config.task.augment.mixup = 0.8
    config.task.augment.cutmix = 1.0
    config.task.loss.label_smoothing = 0.1
    config.train.batch_size = 448
    config.train.epochs = 300.0
    config.adapt.layer_decay = 0.85


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "multi": _multi,
    "finetune": _finetune,
    "cifar10": _cifar10,
}
