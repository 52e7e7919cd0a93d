"""Recommendation: the next items of users. `--config=configs/recommend.py` learns from a drawn shop.

quickstart  SASRec of two layers on a drawn shop of 240 items, whose best ranking is known: some minutes (the default)
files       the same on your own table of user, item and time: --config.data.source=csv:FILE
bert4rec    hidden items are predicted from all others, on your own table
movielens   SASRec as gSASRec trains it, for MovieLens-1M or 20M of your own: --config.data.source=csv:ratings.csv
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/recommend.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("recommendation")
    config.model.init = "scratch"
    config.model.preset = "bert_tiny"
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.data.source = "quickstart"
    config.train.epochs = 10.0
    config.train.batch_size = 8
    config.task.eval_users = 2_000


def _files(config: ml_collections.ConfigDict) -> None:
    config.data.source = "csv:."


def _bert4rec(config: ml_collections.ConfigDict) -> None:
    config.data.source = "csv:."
    config.task.method = "masked"
    # Such models learn from a fifth of the places, and are often trained too short (Petrov and Macdonald 2022).
    config.train.epochs = 300.0


def _movielens(config: ml_collections.ConfigDict) -> None:
    # Histories of 200 items, as in the published comparisons; all items are scored, so that nothing is drawn.
    config.data.source = "csv:ratings.csv"
    config.task.history = 200
    config.train.epochs = 200.0


_VARIANTS = {"quickstart": _quickstart, "files": _files, "bert4rec": _bert4rec, "movielens": _movielens}
