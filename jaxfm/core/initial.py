"""What a run starts from: an encoder's shape, the weights at hand, and the tokenizer that fits them."""

import dataclasses
import pathlib

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig


@dataclasses.dataclass(frozen=True)
class Initial:
    """What `config.model` resolves to.

    Attributes:
      encoder: shape and dropout of the encoder.
      params: path -> array of every parameter that is not drawn at random; empty for scratch.
      labels: class names of the head in `params`; empty when it carries none.
      tokenizer: directory of the tokenizer's files; None where scratch names none.
      notes: sentences for the log.
    """

    encoder: EncoderConfig
    params: dict[str, np.ndarray]
    labels: tuple[str, ...]
    tokenizer: pathlib.Path | None
    notes: tuple[str, ...]

    def left_over(self, used: tuple[str, ...]) -> tuple[str, ...]:
        """Returns a sentence for the log that names the parts not under the path prefixes `used`; none: nothing."""
        unused = sorted({name.partition("/")[0] for name in self.params if not name.startswith(used)})
        return (f"weights not used: {', '.join(unused)} (of pretraining)",) if unused else ()
