"""Objects in images. `--config=configs/detection.py` learns drawn circles, squares and triangles from scratch.

quickstart  a YOLOS of 0.9 M parameters on 10,000 drawn images of 64 x 64 pixels (the default)
files       the same encoder on your own images, read at 128 pixels: --config.data.source=coco:DIR or yolo:DIR
yolos       YOLOS-tiny's published weights, trained on: --config.model.init=hf:hustvl/yolos-tiny
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/detection.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("detection")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "yolos_nano"
    config.data.source = "quickstart"
    config.task.detection_tokens = 16
    config.task.augment.flip = True
    # From scratch: the published weights leave the boxes in the middle for tens of thousands of updates.
    config.task.loss.classes = 3.0
    config.task.loss.patches = 1.0
    # Early in training many small steps learn more than few large ones (profiles/NOTES.md, "Objects in drawn images").
    config.train.batch_size = 16
    config.optim.learning_rate = 1e-3


def _files(config: ml_collections.ConfigDict) -> None:
    _quickstart(config)
    config.data.source = "coco:."
    config.task.image_size = 128
    config.task.detection_tokens = 100
    config.task.augment.crop = 0.5
    config.train.epochs = 150.0


def _yolos(config: ml_collections.ConfigDict) -> None:
    # Fang et al. 2021: the published rate of training on pretrained weights.
    config.model.init = "hf:hustvl/yolos-tiny"
    config.data.source = "coco:."
    config.task.image_size = 512
    config.task.augment.flip = True
    config.task.augment.crop = 0.5
    config.train.batch_size = 8
    config.train.epochs = 30.0
    config.optim.learning_rate = 2.5e-5


_VARIANTS = {"quickstart": _quickstart, "files": _files, "yolos": _yolos}
