"""Where a new run's encoder comes from: its shape, the weights there are, and the tokenizer that fits them."""

import dataclasses
import pathlib

import numpy as np

from jaxfm.config import ModelConfig
from jaxfm.errors import UserError
from jaxfm.hub.locate import locate
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.presets import EncoderConfig, preset


@dataclasses.dataclass(frozen=True)
class Initial:
    """What `config.model` resolves to.

    Attributes:
      encoder: shape and dropout of the encoder.
      params: path -> array of every parameter that is not drawn at random; empty for scratch.
      labels: class names of the head in `params`; empty when it carries none.
      tokenizer: directory of the tokenizer's files.
      notes: sentences for the log.
    """

    encoder: EncoderConfig
    params: dict[str, np.ndarray]
    labels: tuple[str, ...]
    tokenizer: pathlib.Path
    notes: tuple[str, ...]


def resolve(config: ModelConfig) -> Initial:
    """Finds and reads what `config.model` names.

    Raises:
      UserError: contradicting or missing keys, and all that `locate` and `read_checkpoint` find.
    """
    if config.init == "scratch":
        if not config.preset or not config.tokenizer:
            raise UserError(
                "config.model.init: 'scratch' needs config.model.preset (the encoder's shape) and "
                "config.model.tokenizer (dir:PATH of a tokenizer)."
            )
        encoder, params, labels = preset(config.preset), {}, ()
        notes = (f"weights: none, {config.preset} starts from random values",)
        tokenizer = locate(config.tokenizer, "config.model.tokenizer")
    else:
        if config.preset:
            raise UserError(
                f"config.model.preset: is {config.preset!r}, but the shape comes from the weights of "
                f"{config.init!r}. Leave it empty, or set config.model.init=scratch."
            )
        directory = locate(config.init, "config.model.init")
        checkpoint = read_checkpoint(directory)
        encoder, params, labels = checkpoint.encoder, checkpoint.params, checkpoint.labels
        notes = (f"weights: {config.init} ({encoder.family})", *checkpoint.notes)
        tokenizer = locate(config.tokenizer, "config.model.tokenizer") if config.tokenizer else directory
    if config.dropout is not None:
        encoder = dataclasses.replace(encoder, dropout=config.dropout, attention_dropout=config.dropout)
    return Initial(encoder, params, labels, tokenizer, notes)
