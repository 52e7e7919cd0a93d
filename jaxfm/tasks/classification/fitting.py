"""The last layer of a classifier fitted to vectors, pairs of its examples, and what a prompt needs of weights."""

# E examples, D numbers a vector, C classes

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.config import Config
from jaxfm.core.initial import Initial
from jaxfm.data.records.contrastive_pairs import pair_records, sample_pairs
from jaxfm.data.records.examples import Example
from jaxfm.errors import UserError
from jaxfm.evaluation.logistic import fit_linear_head


def fitted_layer(
    labels: Sequence[str], vectors_ED: np.ndarray, targets: np.ndarray, config: Config
) -> dict[str, np.ndarray]:
    """Returns the path -> array of a linear head that a logistic regression gives.

    Args:
      labels: of the classes.
      vectors_ED: of the training examples.
      targets: see `evaluation.logistic.fit_linear_head`.
      config: of the run.

    Raises:
      UserError: a class without an example, or a label that all examples have.
    """
    shares = np.bincount(targets, minlength=len(labels)) / len(targets) if targets.ndim == 1 else targets.mean(axis=0)
    for label, share in zip(labels, shares.tolist(), strict=True):
        if share in (0.0, 1.0):
            has = "no training example has" if share == 0 else "every training example has"
            raise UserError(
                f"{config.data.source}: {has} the class {label!r}, so that a logistic regression "
                f"(config.task.fit={config.task.fit}) cannot tell it. Give examples with it and without it."
            )
    found = fit_linear_head(vectors_ED, targets, len(labels), config.task.l2_penalty)
    if not found.converged:
        raise UserError(
            "config.task.l2_penalty: the logistic regression came to no optimum within its steps; a larger penalty "
            f"than {config.task.l2_penalty:g}, or config.task.normalize=True, makes it easier."
        )
    return {"head/kernel": found.kernel, "head/bias": found.bias}


def contrastive_records(kind: str, examples: Sequence[Example], config: Config) -> list[dict[str, Any]]:
    """Returns pairs of training texts with a score, 1 where they are alike.

    Raises UserError for pairs of texts, whose two texts are read together and have one vector.
    """
    if examples[0].pair is not None:
        raise UserError(
            f"config.task.fit=setfit: is of single texts, but the examples of {config.data.source} are pairs of texts. "
            "Set config.task.fit=logistic_regression, or a prompt (config.task.prompt.pattern)."
        )
    assert kind in ("single", "multi")
    targets = [example.target for example in examples if isinstance(example.target, str | tuple)]
    task = config.task.contrastive
    pairs = sample_pairs(targets, task.sampling, iterations=task.iterations, most=task.most_pairs, seed=config.seed)
    return pair_records([example.text for example in examples], pairs)


def prompted_note(config: Config, initial: Initial) -> str:
    """Returns a sentence about the head that a prompt asks; UserError for weights without one."""
    encoder = initial.encoder
    if not initial.params:
        return "head: a masked-LM head, new"
    needed = ["transform/"] if encoder.vocabulary_transform else []
    needed += ["decoder/"] if encoder.decoder_bias or not encoder.tied_decoder else []
    missing = [part for part in needed if not any(name.startswith(part) for name in initial.params)]
    if missing:
        raise UserError(
            f"config.task.prompt.pattern: the weights of {config.model.init!r} have no masked-LM head ({missing[0]} is "
            "missing), which a prompt asks. Name weights of a masked language model by config.model.init."
        )
    return f"head: the masked-LM head of the weights, asked by {config.task.prompt.pattern!r}"
