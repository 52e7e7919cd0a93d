"""Sequence to sequence. `--config=configs/seq2seq.py` learns to write dates as YYYY-MM-DD, from scratch.

quickstart  masked diffusion of the target, made dates: minutes on a laptop (the default)
prefix      the same by a prefix language model: the next token of the target, one after the other
files       masked diffusion on your own pairs: --config.data.source=tsv:DIR (jsonl:, parquet:, lines:, hf:, tfds:)
files_prefix   a prefix language model on your own pairs
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

VARIANTS = ("quickstart", "prefix", "files", "files_prefix")


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in variants():
        raise UserError(f"configs/seq2seq.py has no variant {variant!r}. {did_you_mean(variant, variants())}")
    config = default_config("seq2seq")
    config.task.way = "prefix" if variant.endswith("prefix") else "diffusion"
    config.model.preset = "modern_tiny"  # pre-norm: learns from scratch within hundreds of steps
    config.optim.learning_rate = 3e-3
    config.optim.b2 = 0.98
    if variant.startswith("files"):
        config.data.source = "tsv:."
        config.model.tokenizer = "train:bpe/8192"
        config.optim.learning_rate = 1e-3
        config.train.batch_size = 32
        config.train.epochs = 30.0
        return config
    config.data.source = "quickstart"
    config.model.tokenizer = "train:bpe/270"
    config.model.num_layers = 4
    config.model.hidden_size = 128
    config.model.num_heads = 4
    config.model.ffn_size = 256
    config.train.batch_size = 8
    config.train.steps = 1800
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return VARIANTS
