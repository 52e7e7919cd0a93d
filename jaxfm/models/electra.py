"""A generator that proposes tokens and an encoder that finds them: ELECTRA (Clark et al. 2020)."""

# B batch, T tokens, P chosen tokens, D model, V vocabulary

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import ACTIVATION
from jaxfm.models.adapters import without_adapters
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import Decoder, dense, output_layer, vocabulary_transform
from jaxfm.models.inputs.text import word_table
from jaxfm.models.relative import make_common
from jaxfm.models.stack import apply_layers, make_layers


class Detector(nnx.Module):
    """Dense layer, activation and one logit a token: is it a replacement? (As in ELECTRA's code.)"""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes both layers."""
        self.dense = dense(config, dtype, rngs)
        self.head = output_layer(config, 1, dtype, rngs)
        self.activation = ACTIVATION[config.activation]

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns logits [B, T] in f32; above 0 means replaced."""
        return self.head(self.activation(self.dense(x_BTD)))[..., 0].astype(jnp.float32)


class Generator(nnx.Module):
    """The layers and the head of a small masked-LM that reads the embeddings of another encoder."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes layers and head; `config` is that of the generator."""
        self.layers = make_layers(config, dtype, rngs)
        self.common = make_common(config, dtype, rngs)
        self.transform = vocabulary_transform(config, dtype, rngs)
        self.decoder = Decoder(config, rngs)


class ReplacedTokenModel(nnx.Module):
    """The encoder to be trained, with the head that trains it, and the generator whose tokens it has to find.

    The generator has the width of the encoder and fewer layers, as in DeBERTaV3 (He et al. 2021; there half as many).
    All embeddings - words, positions, types and their norm - are the encoder's and serve both, as in ELECTRA's code
    (section 3.2 of the paper): there is one copy of them among the parameters, at encoder/embeddings, and the gradients
    of both objectives add up in it. `hidden` and `logits` are the generator's, under the names that a masked-LM has.
    """

    def __init__(self, config: EncoderConfig, generator_layers: int, build: Build, rngs: nnx.Rngs):
        """Makes encoder, detector and generator."""
        self.encoder = Encoder(config, build, rngs)
        self.detector = Detector(config, build.dtype, rngs)
        # The generator is thrown away after training: it has no adapters, and none of its layers is frozen.
        self.generator_config = dataclasses.replace(without_adapters(config), num_layers=generator_layers)
        self.generator_build = dataclasses.replace(build, frozen_layers=0)
        self.generator = Generator(self.generator_config, build.dtype, rngs)

    def hidden(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> jax.Array:
        """Returns the generator's hidden states [B, T, D]; `key` turns dropout on."""
        inputs_key, layers_key = split_key(key, 2)
        inputs = self.encoder.embeddings(batch, inputs_key)
        layers, common = self.generator.layers, self.generator.common
        return apply_layers(self.generator_config, layers, common, inputs, self.generator_build, key=layers_key)

    def logits(self, hidden_BPD: jax.Array) -> jax.Array:
        """Returns the generator's logits [B, P, V] in f32 at hidden states of any tokens."""
        transform = self.generator.transform
        x_BPE = hidden_BPD if transform is None else transform(hidden_BPD)
        return self.generator.decoder(x_BPE, word_table(self.encoder.embeddings))

    def replaced(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, T] in f32 of each token being a replacement; `key` turns dropout on."""
        return self.detector(self.encoder(batch, key=key))
