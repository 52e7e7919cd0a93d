"""What a task is where its model may have heads after some of its layers, at which examples leave (early exit)."""

# N rows, T tokens

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from jaxfm.config import ExitsConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError

KEY = "config.exits"


class ExitForm(NamedTuple):
    """Where the outputs of a model say how sure it is.

    Attributes:
      output: the name of its logits among the outputs: [B, T, C] of tokens, [B, S, C] of examples.
      kind: "single" (one class is right: softmax) or "multi" (each label holds or not: sigmoid).
      of_tokens: whether the logits are of tokens; an example then leaves as a whole, all its tokens being sure enough.
    """

    output: str
    kind: str
    of_tokens: bool


@runtime_checkable
class LeavesEarly(Protocol):
    """What a spec is beside `core.spec.Spec` where its model may have early heads.

    The model has a part `exits` (`models.exits.Exits`), and is called as `models.exits.Computed` is.
    """

    @property
    def exits(self) -> tuple[int, ...]:
        """Numbers of layers after which there is an early head, ascending; empty: there is none."""
        ...

    @property
    def exit_form(self) -> ExitForm:
        """Where its outputs say how sure it is."""
        ...

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model, or one of its heads (`models.exits.Computed`), says of each row."""
        ...

    def exit_problem(self) -> str:
        """Returns why models of this kind have no early heads; "" where they may have some."""
        ...


@runtime_checkable
class ReadsTokens(Protocol):
    """What a scorer, or what a predictor has encoded, is where outputs are of tokens and not all of them are read."""

    @property
    def read_tokens(self) -> np.ndarray:
        """Which tokens of the rows are read, bool [N, T]."""
        ...


@runtime_checkable
class CountsErrors(Protocol):
    """What a scorer is beside `core.task.Scorer` where it says of each example how much of it is wrong."""

    def error_shares(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> np.ndarray:
        """Returns the share of each example that is predicted wrongly, float64 from 0 to 1."""
        ...


def exit_layers(config: ExitsConfig, encoder: EncoderConfig) -> tuple[int, ...]:
    """Returns the numbers of layers after which a config wants an early head; empty where it wants none.

    Raises UserError where these are not equally far apart, the last layer included, or where there is none.
    """
    if not config.every:
        return ()
    layers, every = encoder.num_layers, config.every
    fitting = [number for number in range(1, layers) if layers % number == 0]
    if every not in fitting:
        nearest = ", ".join(map(str, fitting)) or "none: one layer has no layer before it"
        raise UserError(
            f"{KEY}.every: {every}, but the encoder has {layers} layers: a head every so many of them must leave an "
            f"early one, and end at the last. Those that fit: {nearest}."
        )
    return tuple(range(every, layers, every))
