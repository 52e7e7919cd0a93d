"""A generator that proposes tokens and an encoder that finds them: ELECTRA (Clark et al. 2020)."""

# B batch, T tokens, P chosen tokens, D model, V vocabulary

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import gelu
from jaxfm.models.adapters import without_adapters
from jaxfm.models.dropout import split_key
from jaxfm.models.encoder import Encoder, apply_layers, make_layers
from jaxfm.models.heads import TiedDecoder, Transform, dense, output_layer


class Detector(nnx.Module):
    """Dense layer, gelu and one number a token: is it a replacement? (The discriminator's head of ELECTRA's code.)"""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes both layers."""
        self.dense = dense(config, dtype, rngs)
        self.head = output_layer(config, 1, dtype, rngs)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns logits [B, T] in f32; above 0 stands for replaced."""
        return self.head(gelu(self.dense(x_BTD)))[..., 0].astype(jnp.float32)


class Generator(nnx.Module):
    """The layers and the head of a small masked-LM that reads the embeddings of another encoder."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes layers and head; `config` is the generator's own."""
        self.layers = make_layers(config, dtype, rngs)
        self.transform = Transform(config, dtype, rngs)
        self.decoder = TiedDecoder(config, rngs)


class ReplacedTokenModel(nnx.Module):
    """The encoder that is wanted, with the head that trains it, and the generator whose tokens it has to find.

    The generator has the width of the encoder and fewer layers, as in DeBERTaV3 (He et al. 2021; there half as many).
    All embeddings - words, positions, types and their norm - are the encoder's and serve both, as in ELECTRA's code
    (section 3.2 of the paper): there is one copy of them among the parameters, at encoder/embeddings, and the gradients
    of both objectives add up in it. `hidden` and `logits` are the generator's, under the names that a masked-LM has.
    """

    def __init__(
        self,
        config: EncoderConfig,
        generator_layers: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype = jnp.float32,
        scan: bool = True,
        remat: str = "none",
    ):
        """Makes encoder, detector and generator."""
        self.encoder = Encoder(config, rngs, dtype=dtype, scan=scan, remat=remat)
        self.detector = Detector(config, dtype, rngs)
        # What adapts an encoder to a task is of no use to the generator, which is thrown away.
        self.generator_config = dataclasses.replace(without_adapters(config), num_layers=generator_layers)
        self.generator = Generator(self.generator_config, dtype, rngs)

    def hidden(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Returns the generator's hidden states [B, T, D]; `key` turns dropout on."""
        embedding_key, layers_key = split_key(key, 2)
        return apply_layers(
            self.generator_config,
            self.generator.layers,
            self.encoder.embeddings(batch["tokens"], batch["positions"], batch["type_ids"], embedding_key),
            batch["segment_ids"],
            batch["positions"],
            key=layers_key,
            scan=self.encoder.scan,
            remat=self.encoder.remat,
            attention=self.encoder.attention,
        )

    def logits(self, hidden_BPD: jax.Array) -> jax.Array:
        """Returns the generator's logits [B, P, V] in f32 at hidden states of any tokens."""
        table_VD = self.encoder.embeddings.word.embedding[...]
        return self.generator.decoder(self.generator.transform(hidden_BPD), table_VD)

    def replaced(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, T] in f32 of each token being a replacement; `key` turns dropout on."""
        fields = (batch[name] for name in ("tokens", "segment_ids", "positions", "type_ids"))
        return self.detector(self.encoder(*fields, key=key))
