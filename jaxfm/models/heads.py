"""Models: an encoder and a head, one class for each kind of target."""

# B batch, T tokens, S segments (examples in a row), P chosen tokens, D model, C classes, V vocabulary

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import gelu
from jaxfm.models.attention import MASKED
from jaxfm.models.dropout import dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.inputs.text import word_table
from jaxfm.models.norms import layer_norm
from jaxfm.models.products import dot_general, einsum
from jaxfm.parallel.mesh import constrain, with_axes


def dense(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """The dense layer, D to D, that heads begin with."""
    return nnx.Linear(
        config.hidden_size,
        config.hidden_size,
        use_bias=config.linear_bias,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=with_axes(nnx.initializers.truncated_normal(config.initializer_range), "embed", "norm"),
        bias_init=with_axes(nnx.initializers.zeros_init(), "norm"),
        rngs=rngs,
    )


def output_layer(config: EncoderConfig, count: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """The last layer of a head, D to `count` classes or numbers."""
    return nnx.Linear(
        config.hidden_size,
        count,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=with_axes(nnx.initializers.truncated_normal(config.initializer_range), "embed", "classes"),
        bias_init=with_axes(nnx.initializers.zeros_init(), "classes"),
        rngs=rngs,
    )


class Transform(nnx.Module):
    """Dense layer, gelu and norm between encoder and classes (Devlin et al. 2019, in their code)."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the layer."""
        self.dense = dense(config, dtype, rngs)
        self.norm = layer_norm(config, dtype, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`, [..., D]."""
        return self.norm(gelu(self.dense(x)))


class TiedDecoder(nnx.Module):
    """Scores of the vocabulary by the word embedding itself (Press and Wolf 2017) and a separate bias.

    The padded rows after the vocabulary score -1e30: they have no share of a softmax, are never the greatest, and so
    have no gradient.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        """Makes the bias; the embedding comes with each call."""
        init = with_axes(nnx.initializers.zeros_init(), "vocab")
        self.bias = nnx.Param(init(rngs.params(), (config.padded_vocab_size,), jnp.float32))
        self.vocab_size = config.vocab_size

    def __call__(self, x_BPD: jax.Array, table_VD: jax.Array) -> jax.Array:
        """Returns logits [B, P, V] in f32, V the padded vocabulary."""
        table_VD = table_VD.astype(x_BPD.dtype)
        x_BPD = constrain(x_BPD, "batch", "places", "features")
        logits_BPV = einsum("BPD,VD->BPV", x_BPD, table_VD, jnp.float32)
        # Added with the bias this costs nothing: the table's padded rows are zero.
        bias_V = jnp.where(jnp.arange(len(table_VD)) < self.vocab_size, self.bias[...], MASKED)
        return constrain(logits_BPV + bias_V, "batch", "places", "vocab")


class MaskedLM(nnx.Module):
    """An encoder of text and scores of the vocabulary (as transformers' ForMaskedLM).

    The scores are computed only where they are asked for: the caller takes the chosen tokens of `hidden` and gives
    those to `logits`. At 15 % of the tokens that is a seventh of the projection, the largest array of a step.
    """

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs):
        """Makes encoder and head; the word embedding serves as both."""
        self.encoder = Encoder(config, build, rngs)
        self.transform = Transform(config, build.dtype, rngs)
        self.decoder = TiedDecoder(config, rngs)

    def hidden(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Returns the encoder's hidden states [B, T, D]; `key` turns dropout on."""
        return self.encoder(batch, key=key)

    def logits(self, hidden_BPD: jax.Array) -> jax.Array:
        """Returns the padded vocabulary's logits [B, P, V] in f32 at hidden states of any tokens."""
        return self.decoder(self.transform(hidden_BPD), word_table(self.encoder.embeddings))


class SequenceClassifier(nnx.Module):
    """An encoder and one linear layer that scores each segment of a row: whole examples, not tokens.

    A segment is a text, or a pair of texts. Its vector is that of its first token ("cls"), or the mean over all of them
    ("mean"), the tokens that a tokenizer adds included. Between the first token's vector and the classes stands the
    dense layer that the family has there: BERT's pooler, which its checkpoints carry, that of RoBERTa's and ELECTRA's
    heads, or ModernBERT's transform. A pooler was not trained on means: after "mean" BERT, RoBERTa and ELECTRA have
    none. Dropout is applied before the classes only (RoBERTa and ELECTRA have it before the dense layer as well).
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_outputs: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        pooling: str = "cls",
        segments: int,
        inputs: InputModule | None = None,
    ):
        """Makes encoder and head for rows of at most `segments` examples; `inputs`: as `Encoder`."""
        assert pooling in ("cls", "mean")
        self.encoder = Encoder(config, build, rngs, inputs)
        self.transform = Transform(config, build.dtype, rngs) if config.classifier_transform else None
        pools = pooling == "cls" and not config.classifier_transform
        self.pooler = dense(config, build.dtype, rngs) if pools else None
        self.head = output_layer(config, num_outputs, build.dtype, rngs)
        self.activation = jnp.tanh if config.pooler == "tanh" else gelu
        self.pooling, self.segments, self.dropout_rate = pooling, segments, config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        """Returns outputs [B, S, C] in f32, unspecified where a row has no such segment; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        x_BSD = pool(*self.encoder.encode(batch, key=encoder_key), self.pooling, self.segments)
        if self.transform is not None:
            x_BSD = self.transform(x_BSD)
        if self.pooler is not None:
            x_BSD = self.activation(self.pooler(x_BSD))
        return self.head(dropout(x_BSD, self.dropout_rate, head_key)).astype(jnp.float32)


def pool(
    hidden_BTD: jax.Array, segment_ids_BT: jax.Array, positions_BT: jax.Array, pooling: str, segments: int
) -> jax.Array:
    """Returns one vector a segment [B, S, D]: of its first token ("cls"), or the mean over it; 0 for absent segments.

    It is computed as a product with a matrix of weights, not as a gather: that is a hundredth of a layer's work, and
    rows may be cut along their tokens.
    """
    weights_BST = segment_ids_BT[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
    if pooling == "cls":
        weights_BST &= (positions_BT == 0)[:, None, :]
    weights_BST = weights_BST.astype(jnp.float32)
    weights_BST /= jnp.maximum(weights_BST.sum(axis=-1, keepdims=True), 1.0)
    pooled_BSD = jnp.einsum("BST,BTD->BSD", weights_BST, hidden_BTD.astype(jnp.float32), precision="highest")
    return constrain(pooled_BSD.astype(hidden_BTD.dtype), "batch", "segments", "features")


class TokenClassifier(nnx.Module):
    """An encoder and one linear layer that scores each token (as transformers' ForTokenClassification).

    With `config.classifier_transform` a Transform stands before that layer (ModernBERT).
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        inputs: InputModule | None = None,
    ):
        """Makes encoder and head; `inputs`: as `Encoder`."""
        self.encoder = Encoder(config, build, rngs, inputs)
        self.transform = Transform(config, build.dtype, rngs) if config.classifier_transform else None
        self.head = output_layer(config, num_classes, build.dtype, rngs)
        self.dropout_rate = config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, T, C] in f32; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        hidden_BTD = self.encoder(batch, key=encoder_key)
        if self.transform is not None:
            hidden_BTD = self.transform(hidden_BTD)
        return self.head(dropout(hidden_BTD, self.dropout_rate, head_key)).astype(jnp.float32)
