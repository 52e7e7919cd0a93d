"""Classification by a prompt: a masked language model fills the mask of a pattern with a word for each class.

zero_shot  no training: --config.data.source=csv:DIR, with the pattern and the words of your classes (the default)
files      trained on your own files, all of them or a few of each class (--config.task.shots=16)
sst2       BERT-base on 16 examples a class of SST-2 of tfds, as Gao et al. 2021
"""

import ml_collections

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.registry import default_config

VARIANTS = ("zero_shot", "files", "sst2")


def get_config(variant: str = "zero_shot") -> ml_collections.ConfigDict:
    """Returns the config of a variant; an unknown one is an error that lists them."""
    if variant not in VARIANTS:
        raise UserError(f"configs/prompts.py has no variant {variant!r}. {did_you_mean(variant, VARIANTS)}")
    config = default_config("classification")
    config.model.init = "hf:google-bert/bert-base-uncased"
    config.data.source = "csv:."
    config.task.prompt.pattern = "{text} It was {mask}."
    config.task.prompt.words = "negative=terrible,positive=great"
    # Gao et al. 2021, section 5 and appendix: 1,000 updates of batches of 8 at 1e-5, scored every 100.
    config.optim.learning_rate = 1e-5
    config.train.batch_examples = 8
    config.train.min_steps = 1000
    config.eval.every_steps = 100
    if variant == "zero_shot":
        config.task.fit = "none"
        config.data.holdout = 0.0
    if variant == "sst2":
        config.data.source = "tfds:glue/sst2"
        config.task.shots = 16
    return config


def variants() -> tuple[str, ...]:
    """Returns the names of all variants."""
    return VARIANTS
