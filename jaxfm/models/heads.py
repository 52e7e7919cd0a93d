"""Models: an encoder and a head, one class for each kind of target."""

# B batch, T tokens, S segments (examples in a row), P chosen tokens, D model, E embedding, C classes, V vocabulary

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import ACTIVATION
from jaxfm.models.attention import MASKED
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.exits import make_exits
from jaxfm.models.inputs.inputs import InputModule, Inputs
from jaxfm.models.inputs.text import word_table, zero_padded_rows
from jaxfm.models.linear_chain import LinearChain
from jaxfm.models.norms import make_norm
from jaxfm.models.products import dot_general, einsum
from jaxfm.models.vectors import normalized
from jaxfm.parallel.mesh import constrain, with_axes


def dense(
    config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs, width: int | None = None, *, vectors: int = 1
) -> nnx.Linear:
    """The dense layer, `vectors` times D to `width` (default: D), that heads begin with."""
    return nnx.Linear(
        vectors * config.hidden_size,
        width or config.hidden_size,
        use_bias=config.head_bias,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=with_axes(nnx.initializers.truncated_normal(config.initializer_range), "embed", "norm"),
        bias_init=with_axes(nnx.initializers.zeros_init(), "norm"),
        rngs=rngs,
    )


def output_layer(
    config: EncoderConfig, count: int, dtype: jnp.dtype, rngs: nnx.Rngs, *, vectors: int = 1
) -> nnx.Linear:
    """The last layer of a head, `vectors` times D to `count` classes or numbers."""
    return nnx.Linear(
        vectors * config.hidden_size,
        count,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=with_axes(nnx.initializers.truncated_normal(config.initializer_range), "embed", "classes"),
        bias_init=with_axes(nnx.initializers.zeros_init(), "classes"),
        rngs=rngs,
    )


class Transform(nnx.Module):
    """Dense layer, activation and norm between encoder and classes (Devlin et al. 2019, in their code)."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs, width: int | None = None):
        """Makes the layer, D to `width` (default: D)."""
        self.dense = dense(config, dtype, rngs, width)
        self.norm = make_norm(config, dtype, rngs, width)
        self.activation = ACTIVATION[config.head_activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [..., width] of [..., D]."""
        return self.norm(self.activation(self.dense(x)))


class Decoder(nnx.Module):
    """Scores of the vocabulary by the word embedding itself (Press and Wolf 2017), or a table, and a separate bias.

    The padded rows after the vocabulary score -1e30: they have no share of a softmax, are never the greatest, and so
    have no gradient.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        """Makes the bias, and the table where it is not the word embedding, which comes with each call."""
        rows, self.vocab_size = config.padded_vocab_size, config.vocab_size
        init = with_axes(nnx.initializers.zeros_init(), "vocab")
        self.bias = nnx.Param(init(rngs.params(), (rows,), jnp.float32)) if config.decoder_bias else None
        draw = zero_padded_rows(nnx.initializers.truncated_normal(config.initializer_range), config.vocab_size)
        draw, shape = with_axes(draw, "vocab", "embed"), (rows, config.embedding_width)
        self.embedding = None if config.tied_decoder else nnx.Param(draw(rngs.params(), shape, jnp.float32))

    def __call__(self, x_BPE: jax.Array, word_VE: jax.Array) -> jax.Array:
        """Returns logits [B, P, V] in f32, V the padded vocabulary; `word_VE` is the word embedding."""
        table_VE = (word_VE if self.embedding is None else self.embedding[...]).astype(x_BPE.dtype)
        x_BPE = constrain(x_BPE, "batch", "places", "features")
        logits_BPV = einsum("BPE,VE->BPV", x_BPE, table_VE, jnp.float32)
        # Added with the bias this costs nothing: the table's padded rows are zero.
        bias = jnp.zeros((), jnp.float32) if self.bias is None else self.bias[...]
        bias_V = jnp.where(jnp.arange(len(table_VE)) < self.vocab_size, bias, MASKED)
        return constrain(logits_BPV + bias_V, "batch", "places", "vocab")

    def rows(self, word_VE: jax.Array, ids: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Returns the rows [..., E] of the table, and the bias [...], of entries of the vocabulary."""
        table_VE = word_VE if self.embedding is None else self.embedding[...]
        bias = jnp.zeros(ids.shape, jnp.float32) if self.bias is None else self.bias[...][ids]
        return table_VE[ids].astype(dtype), bias


def vocabulary_transform(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> Transform | None:
    """Makes what stands between encoder and `Decoder`, to the width of the embeddings; None for families without."""
    return Transform(config, dtype, rngs, config.embedding_width) if config.vocabulary_transform else None


class MaskedLM(nnx.Module):
    """An encoder of text and scores of the vocabulary (as transformers' ForMaskedLM).

    The scores are computed only where they are asked for: the caller takes the chosen tokens of `hidden` and gives
    those to `logits`. At 15 % of the tokens that is a seventh of the projection, the largest array of a step.
    """

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs):
        """Makes encoder and head; the word embedding serves as both where it is tied."""
        self.encoder = Encoder(config, build, rngs)
        self.transform = vocabulary_transform(config, build.dtype, rngs)
        self.decoder = Decoder(config, rngs)

    def hidden(
        self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None, sight: str | None = None
    ) -> jax.Array:
        """Returns the encoder's hidden states [B, T, D]; `key` turns dropout on, `sight` is as in `Encoder.encode`."""
        return self.encoder(batch, key=key, sight=sight)

    def logits(self, hidden_BPD: jax.Array) -> jax.Array:
        """Returns the padded vocabulary's logits [B, P, V] in f32 at hidden states of any tokens."""
        x_BPE = hidden_BPD if self.transform is None else self.transform(hidden_BPD)
        return self.decoder(x_BPE, word_table(self.encoder.embeddings))

    def logits_of(self, hidden_BPD: jax.Array, ids_BK: jax.Array) -> jax.Array:
        """Returns logits [B, P, K] in f32 of some entries of the vocabulary, the same at all chosen tokens of a row."""
        x_BPE = hidden_BPD if self.transform is None else self.transform(hidden_BPD)
        table_BKE, bias_BK = self.decoder.rows(word_table(self.encoder.embeddings), ids_BK, x_BPE.dtype)
        return einsum("BPE,BKE->BPK", x_BPE, table_BKE, jnp.float32) + bias_BK[:, None]

    def target_logits(self, hidden_BPD: jax.Array, ids_BP: jax.Array) -> jax.Array:
        """Returns the logit [B, P] in f32 of one entry of the vocabulary at each chosen token."""
        x_BPE = hidden_BPD if self.transform is None else self.transform(hidden_BPD)
        table_BPE, bias_BP = self.decoder.rows(word_table(self.encoder.embeddings), ids_BP, x_BPE.dtype)
        return einsum("BPE,BPE->BP", x_BPE, table_BPE, jnp.float32) + bias_BP


class SequenceHead(nnx.Module):
    """What scores each segment of a row, of its tokens' hidden states: see `SequenceClassifier`."""

    def __init__(
        self,
        config: EncoderConfig,
        num_outputs: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        *,
        pooling: str = "cls",
        segments: int,
        linear: bool = False,
        normalize: bool = False,
    ):
        """Makes the head for rows of at most `segments` examples; `linear`, `normalize`: see `SequenceClassifier`."""
        assert pooling in ("cls", "mean")
        self.transform = Transform(config, dtype, rngs) if config.classifier_transform and not linear else None
        pools = (pooling == "cls" or config.pooler_on_mean) and not config.classifier_transform and not linear
        self.pooler = dense(config, dtype, rngs) if pools else None
        self.head = output_layer(config, num_outputs, dtype, rngs)
        self.activation = ACTIVATION[config.pooler]
        self.pooling, self.segments, self.dropout_rate = pooling, segments, config.dropout
        self.normalize = normalize

    def score(self, inputs: Inputs, key: DropoutKey | None) -> jax.Array:
        """Returns outputs [B, S, C] in f32, unspecified where a row has no such segment; `key` turns dropout on."""
        return self.head(dropout(self.features(inputs), self.dropout_rate, key)).astype(jnp.float32)

    def features(self, inputs: Inputs) -> jax.Array:
        """Returns what the last layer reads of each segment [B, S, D], without dropout."""
        x_BSD = pool(*inputs[:3], self.pooling, self.segments)
        if self.transform is not None:
            x_BSD = self.transform(x_BSD)
        if self.pooler is not None:
            x_BSD = self.activation(self.pooler(x_BSD))
        return normalized(x_BSD.astype(jnp.float32)).astype(x_BSD.dtype) if self.normalize else x_BSD


class SequenceClassifier(SequenceHead):
    """An encoder and one linear layer that scores each segment of a row: whole examples, not tokens.

    A segment is a text, or a pair of texts. Its vector is that of its first token ("cls"), or the mean over all of them
    ("mean"), the tokens that a tokenizer adds included. Between the first token's vector and the classes stands the
    dense layer that the family has there: BERT's pooler, which its checkpoints carry, that of RoBERTa's and ELECTRA's
    heads, or ModernBERT's transform. A pooler was not trained on means: after "mean" only EuroBERT has it. Dropout is
    applied before the classes only (RoBERTa and ELECTRA have it before the dense layer as well). A linear head has no
    such layer: it scores the vector itself, as that of a sentence encoder is; `normalize` gives it length 1 first.
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
        exits: Sequence[int] = (),
        exit_pooling: str = "",
        linear: bool = False,
        normalize: bool = False,
    ):
        """Makes encoder and head for rows of at most `segments` examples.

        `inputs`: as `Encoder`; `exits`: numbers of layers after which there is a head too; `exit_pooling`: of these, as
        `pooling` where it is empty.
        """
        self.encoder = Encoder(config, build, rngs, inputs)
        form: dict[str, Any] = {"segments": segments, "linear": linear, "normalize": normalize}
        super().__init__(config, num_outputs, build.dtype, rngs, pooling=pooling, **form)

        def make_head(rngs: nnx.Rngs) -> SequenceHead:
            return SequenceHead(config, num_outputs, build.dtype, rngs, pooling=exit_pooling or pooling, **form)

        self.exits = make_exits(config, exits, make_head, build, rngs)

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns outputs [B, S, C] in f32, unspecified where a row has no such segment; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        return self.score(self.encoder.encode(batch, key=encoder_key), head_key)


def pool(
    hidden_BTD: jax.Array, segment_ids_BT: jax.Array, positions_BT: jax.Array, pooling: str, segments: int
) -> jax.Array:
    """Returns one vector a segment [B, S, D]: of its first token ("cls"), or the mean over it; 0 for absent segments.

    It is computed as a product with a matrix of weights, not as a gather: that is a hundredth of a layer's work, and
    rows may be cut along their tokens.
    """
    taken_BT = positions_BT == 0 if pooling == "cls" else jnp.ones_like(segment_ids_BT, bool)
    return pool_at(hidden_BTD, segment_ids_BT, taken_BT, segments)


def pool_at(hidden_BTD: jax.Array, segment_ids_BT: jax.Array, taken_BT: jax.Array, segments: int) -> jax.Array:
    """Returns the mean over the tokens of each segment that are taken [B, S, D]; 0 where there is none. See `pool`."""
    weights_BST = segment_ids_BT[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
    weights_BST = (weights_BST & taken_BT[:, None, :]).astype(jnp.float32)
    weights_BST /= jnp.maximum(weights_BST.sum(axis=-1, keepdims=True), 1.0)
    pooled_BSD = jnp.einsum("BST,BTD->BSD", weights_BST, hidden_BTD.astype(jnp.float32), precision="highest")
    return constrain(pooled_BSD.astype(hidden_BTD.dtype), "batch", "segments", "features")


def pool_images(hidden_BTD: jax.Array, batch: Mapping[str, jax.Array], pooling: str, segments: int) -> jax.Array:
    """Returns one vector an image [B, S, D], or [B, S, 2 D] of "cls_mean"; 0 where a row has no such image."""
    cells_BT2 = batch["cells"]
    taken = {"cls": (cells_BT2[..., 0] < 0) & (cells_BT2[..., 1] == 0), "mean": cells_BT2[..., 0] >= 0}
    parts = [pool_at(hidden_BTD, batch["segment_ids"], taken[name], segments) for name in pooling.split("_")]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


class PairClassifier(nnx.Module):
    """An encoder, and a classifier of the pair of entities that each segment of a row has between markers.

    The vectors at the markers that start the head and the tail, one after the other, are the pair's (Baldini Soares et
    al. 2019, "entity start"). A dense layer, relu and the classes follow, dropout before both (Zhou and Chen 2022).
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        head_starts: tuple[int, ...],
        tail_starts: tuple[int, ...],
        segments: int,
    ):
        """Makes encoder and head for rows of at most `segments` pairs.

        `head_starts` and `tail_starts` are the tokens that mark where a head, or a tail, begins, one for each type.
        """
        self.encoder = Encoder(config, build, rngs)
        self.dense = dense(config, build.dtype, rngs, vectors=2)
        self.head = output_layer(config, num_classes, build.dtype, rngs)
        self.head_starts, self.tail_starts = tuple(head_starts), tuple(tail_starts)
        self.segments, self.dropout_rate = segments, config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, S, C] in f32, unspecified where a row has no such segment; `key` turns dropout on."""
        encoder_key, dense_key, head_key = split_key(key, 3)
        hidden_BTD = self.encoder(batch, key=encoder_key)
        starts = [
            pool_at(hidden_BTD, batch["segment_ids"], _is_one_of(batch["tokens"], tokens), self.segments)
            for tokens in (self.head_starts, self.tail_starts)
        ]
        x_BSD = self.dense(dropout(jnp.concatenate(starts, axis=-1), self.dropout_rate, dense_key))
        x_BSD = dropout(ACTIVATION["relu"](x_BSD), self.dropout_rate, head_key)
        return self.head(x_BSD).astype(jnp.float32)


def _is_one_of(tokens_BT: jax.Array, wanted: tuple[int, ...]) -> jax.Array:
    """Returns which tokens [B, T] are among some."""
    return (tokens_BT[..., None] == jnp.asarray(wanted, tokens_BT.dtype)).any(axis=-1)


def mean_over_words(values_BTC: jax.Array, words_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """Returns at each piece of a word the mean [B, T, C] over all pieces of the word; 0 at other tokens.

    A product with a matrix of weights, not a gather: rows may be cut along their tokens.

    Args:
      values_BTC: of pieces, f32.
      words_BT: index of the word that a piece is of; -1: of none.
      segment_ids_BT: segments, from 1: equal indices of two segments are different words.
    """
    same_BTT = (words_BT[:, :, None] == words_BT[:, None, :]) & (words_BT >= 0)[:, None, :]
    same_BTT &= segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    weights_BTT = same_BTT.astype(jnp.float32)
    weights_BTT /= jnp.maximum(weights_BTT.sum(axis=-1, keepdims=True), 1.0)
    return jnp.einsum("BTS,BSC->BTC", weights_BTT, values_BTC, precision="highest")


class TokenHead(nnx.Module):
    """What scores each token, of its hidden state: see `TokenClassifier`."""

    def __init__(self, config: EncoderConfig, num_classes: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the head."""
        self.transform = Transform(config, dtype, rngs) if config.classifier_transform else None
        self.head = output_layer(config, num_classes, dtype, rngs)
        self.dropout_rate = config.dropout

    def score(self, inputs: Inputs, key: DropoutKey | None) -> jax.Array:
        """Returns logits [B, T, C] in f32; `key` turns dropout on."""
        return _score_states(self, self.head, inputs.x_BTD, key)

    def features(self, inputs: Inputs) -> jax.Array:
        """Returns what the last layer reads of each token [B, T, D], without dropout."""
        return inputs.x_BTD if self.transform is None else self.transform(inputs.x_BTD)


class TokenClassifier(TokenHead):
    """An encoder and one linear layer that scores each token (as transformers' ForTokenClassification).

    With `config.classifier_transform` a Transform stands before that layer (ModernBERT). The scores of a chain's
    transitions, where there are some, are parameters of the model that its logits know nothing of.
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        inputs: InputModule | None = None,
        chain: LinearChain | None = None,
        exits: Sequence[int] = (),
    ):
        """Makes encoder and head; `inputs`: as `Encoder`; `exits`: layers after which there is a head too."""
        self.encoder = Encoder(config, build, rngs, inputs)
        super().__init__(config, num_classes, build.dtype, rngs)
        self.chain = chain

        def make_head(rngs: nnx.Rngs) -> TokenHead:
            return TokenHead(config, num_classes, build.dtype, rngs)

        self.exits = make_exits(config, exits, make_head, build, rngs)

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, T, C] in f32; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        return self.score(self.encoder.encode(batch, key=encoder_key), head_key)


class SpanClassifier(nnx.Module):
    """An encoder and two numbers a token: does an answer start, or end, there? (As transformers' ForQuestionAnswering.)

    As in `TokenClassifier` a Transform may stand before the last layer.
    """

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs):
        """Makes encoder and head."""
        self.encoder = Encoder(config, build, rngs)
        self.transform = Transform(config, build.dtype, rngs) if config.classifier_transform else None
        self.spans = output_layer(config, 2, build.dtype, rngs)
        self.dropout_rate = config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, T, 2] in f32 of starts and ends; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        return _score_states(self, self.spans, self.encoder(batch, key=encoder_key), head_key)


def _score_states(
    model: TokenHead | SpanClassifier, last: nnx.Linear, hidden_BTD: jax.Array, key: DropoutKey | None
) -> jax.Array:
    """Returns what the last layer of a head says of each token, f32 [B, T, C]."""
    if model.transform is not None:
        hidden_BTD = model.transform(hidden_BTD)
    return last(dropout(hidden_BTD, model.dropout_rate, key)).astype(jnp.float32)
