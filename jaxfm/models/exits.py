"""Heads after some of an encoder's layers: what an example leaves at, or is judged by after all of them.

After each n layers stands a head of the same kind as the last one (Xin et al. 2020, DeeBERT, arXiv 2004.12993; Zhou et
al. 2020, PABEE, arXiv 2006.04152). Between pre-norm layers the residual stream is not normalised, and the norm that
lies there is the next layer's: such a head has its own.
"""

# B batch, T tokens, D model

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from flax import nnx
from jax import lax

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.norms import make_norm


class Head(Protocol):
    """What makes a model's outputs of hidden states, batch by batch."""

    def score(self, inputs: Inputs, key: DropoutKey | None) -> jax.Array:
        """Returns the outputs [B, ...] of hidden states; `key` turns dropout on."""
        ...


class ExitHead(nnx.Module):
    """A head of hidden states between two layers."""

    def __init__(self, config: EncoderConfig, make_head: Callable[[nnx.Rngs], Any], build: Build, rngs: nnx.Rngs):
        """Makes the head and, between pre-norm layers, its norm."""
        self.norm = make_norm(config, build.dtype, rngs) if config.pre_norm else None
        self.classifier = make_head(rngs)

    def score(self, inputs: Inputs, key: DropoutKey | None) -> jax.Array:
        """Returns what the head says of the residual stream `inputs.x_BTD`; `key` turns dropout on."""
        x_BTD = inputs.x_BTD if self.norm is None else self.norm(inputs.x_BTD)
        return self.classifier.score(inputs._replace(x_BTD=x_BTD), key)


class Exits(nnx.Module):
    """The early heads of a model, each an attribute "after_N", N the layers below it."""

    def __init__(
        self,
        config: EncoderConfig,
        layers: Sequence[int],
        make_head: Callable[[nnx.Rngs], Any],
        build: Build,
        rngs: nnx.Rngs,
    ):
        """Makes a head after each of these numbers of layers; `make_head` makes one of the last head's kind."""
        for count in layers:
            setattr(self, name_of(count), ExitHead(config, make_head, build, rngs))

    def after(self, layers: int) -> ExitHead:
        """Returns the head after so many layers."""
        return getattr(self, name_of(layers))


def make_exits(
    config: EncoderConfig,
    layers: Sequence[int],
    make_head: Callable[[nnx.Rngs], Any],
    build: Build,
    rngs: nnx.Rngs,
) -> Exits | None:
    """Makes the early heads; None where there are none."""
    return Exits(config, layers, make_head, build, rngs) if layers else None


def name_of(layers: int) -> str:
    """Returns the name of the head after so many layers among the parts of `Exits`."""
    return f"after_{layers}"


def exit_paths(layers: Sequence[int], parts: Sequence[str]) -> tuple[str, ...]:
    """Returns the beginnings of the paths of early heads' parameters: of their norms, and of these parts of a head."""
    inside = ("norm/", *(f"classifier/{part}" for part in parts))
    return tuple(f"exits/{name_of(count)}/{part}" for count in layers for part in inside)


def without_exits(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters (path -> array) of the model without early heads."""
    return {path: value for path, value in params.items() if not path.startswith("exits/")}


class Computed:
    """A model whose layers are computed already: called as the model is, it gives the outputs of one of its heads."""

    chain = None  # of taggers: scores of whole sequences, which have no early heads

    def __init__(self, inputs: Inputs, head: Head):
        """`inputs.x_BTD` are the hidden states that `head` reads."""
        self._inputs, self._head = inputs, head

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns the outputs; `key` turns dropout of the head on, by the part of it that the model has for that."""
        del batch
        return self._head.score(self._inputs, split_key(key, 2)[1])


def compute(
    model: Any,
    layers: Sequence[int],
    batch: Mapping[str, jax.Array],
    key: DropoutKey | None = None,
    *,
    detached: bool = False,
) -> dict[int, Computed]:
    """Computes the layers once; returns number of layers -> the model as its head there has it, the last head's last.

    Args:
      model: with its encoder, head and exits.
      layers: after which there are early heads.
      batch: of rows.
      key: turns dropout on: the layers' is that of the model called with this key.
      detached: the early heads' gradients end at their inputs.
    """
    *early, last = model.encoder.states(batch, layers, key=split_key(key, 2)[0])
    found = {}
    for count, inputs in zip(layers, early, strict=True):
        x_BTD = lax.stop_gradient(inputs.x_BTD) if detached else inputs.x_BTD
        found[count] = Computed(inputs._replace(x_BTD=x_BTD), model.exits.after(count))
    return {**found, model.encoder.config.num_layers: Computed(last, model)}
