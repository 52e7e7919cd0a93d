"""The encoder: the inputs of a modality, then the layers."""

# B batch, T tokens, D model

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.inputs.frames import FrameInputs
from jaxfm.models.inputs.inputs import InputModule, Inputs
from jaxfm.models.inputs.patches import PatchInputs
from jaxfm.models.inputs.text import TextInputs
from jaxfm.models.mixup import Mixing
from jaxfm.models.relative import make_common
from jaxfm.models.stack import apply_layers, layer_states, make_layers


def _recorded(record: Callable[[jax.Array, Inputs], None], inputs: Inputs, states_LBTD: jax.Array) -> None:
    record(states_LBTD, inputs)


class Encoder(nnx.Module):
    """Inputs and layers, whose parameters are stacked along a leading axis, and what layers have in common.

    `record`, where `models.layer_outputs` has set it, is given what the layers of a pass read.
    """

    record: Callable[[jax.Array, Inputs], None] | None = None

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs, inputs: InputModule | None = None):
        """Makes the encoder, of what `config` reads unless `inputs`, made before from the same `rngs`, are given.

        Parameters are f32, whatever `build` says.
        """
        usual = FrameInputs if config.reads_sound else PatchInputs if config.reads_images else TextInputs
        self.embeddings: InputModule = usual(config, build.dtype, rngs) if inputs is None else inputs
        self.layers = make_layers(config, build.dtype, rngs)
        self.common = make_common(config, build.dtype, rngs)
        self.config, self.build = config, build

    def __call__(
        self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None, sight: str | None = None
    ) -> jax.Array:
        """Returns the last hidden states [B, T, D]; arguments as of `encode`."""
        return self.encode(batch, key=key, sight=sight).x_BTD

    def encode(
        self,
        batch: Mapping[str, jax.Array],
        *,
        key: DropoutKey | None = None,
        mixing: Mixing | None = None,
        sight: str | None = None,
    ) -> Inputs:
        """Returns the last hidden states as `x_BTD`, and the segments and positions of the tokens that they are of.

        `key` turns dropout on, `mixing` mixes hidden states on the way. `sight` is what tokens see in this pass, of
        `core.encoder_config.SIGHTS`; None: as the encoder's shape says.
        """
        config = self.config if sight is None else dataclasses.replace(self.config, sight=sight)
        inputs_key, layers_key = split_key(key, 2)
        inputs = self.embeddings(batch, inputs_key)
        if mixing is not None and 0 in mixing.after:
            inputs = inputs._replace(x_BTD=mixing.after_layers(0, inputs.x_BTD))
        record = None if self.record is None else functools.partial(_recorded, self.record, inputs)
        x_BTD = apply_layers(
            config, self.layers, self.common, inputs, self.build, key=layers_key, record=record, mixing=mixing
        )
        return inputs._replace(x_BTD=x_BTD)

    def states(
        self, batch: Mapping[str, jax.Array], layers: Sequence[int], *, key: DropoutKey | None = None
    ) -> list[Inputs]:
        """Returns the residual stream after each of these numbers of layers, ascending, and what `encode` returns."""
        inputs_key, layers_key = split_key(key, 2)
        inputs = self.embeddings(batch, inputs_key)
        found = layer_states(self.config, self.layers, self.common, inputs, self.build, layers, key=layers_key)
        return [inputs._replace(x_BTD=x_BTD) for x_BTD in found]
