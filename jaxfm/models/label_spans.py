"""An encoder of texts and of labels: every span of words up to a width is compared with every label, given as a text.

The bi-encoder form of GLiNER (arXiv 2602.18487), with one encoder for both: a label's vector depends on its text alone,
so vectors of labels are computed once, whatever is read, and any text can be a label. A label's vector is the mean over
its tokens. That of a span is the mean of its first and its last token, moved by a feed-forward layer over both and the
width (as `models.word_spans`): without training, spans and labels are compared as the encoder has them.
"""

# B batch, T tokens, K widths, D model, H hidden size of the head, C labels, L tokens of a label

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import dense, pool_at
from jaxfm.models.products import dot_general
from jaxfm.models.vectors import normalized
from jaxfm.models.word_spans import FIRSTS, LASTS, at_span_ends, at_words, span_features
from jaxfm.parallel.mesh import constrain, with_axes

# A logit is scale * (cosine - offset). Where both start: no label is likely for a span that has nothing of it.
SCALE, OFFSET = 20.0, 0.5


class LabelSpanScorer(nnx.Module):
    """One encoder of texts and labels, a vector of each span and each label, and how their cosine becomes a logit."""

    def __init__(self, config: EncoderConfig, widths: int, hidden: int, build: Build, rngs: nnx.Rngs):
        """Makes encoder and layers for spans of 1 to `widths` words; `hidden` is the width of the layer over them."""
        self.encoder = Encoder(config, build, rngs)
        self.starts = dense(config, build.dtype, rngs, hidden)
        self.ends = dense(config, build.dtype, rngs, hidden)
        draw = nnx.initializers.truncated_normal(config.initializer_range)
        self.widths = nnx.Param(with_axes(draw, "positions", "norm")(rngs.params(), (widths, hidden), jnp.float32))
        zeros = nnx.initializers.zeros_init()  # spans begin as the encoder has them
        self.projection = nnx.Linear(
            hidden,
            config.hidden_size,
            dtype=build.dtype,
            dot_general=dot_general,
            kernel_init=with_axes(zeros, "norm", "embed"),
            bias_init=with_axes(zeros, "norm"),
            rngs=rngs,
        )
        self.log_scale = nnx.Param(jnp.asarray(math.log(SCALE), jnp.float32))
        self.offset = nnx.Param(jnp.asarray(OFFSET, jnp.float32))
        self.dropout_rate = config.dropout

    def __call__(
        self, batch: Mapping[str, jax.Array], labels_CD: jax.Array, *, key: DropoutKey | None = None
    ) -> jax.Array:
        """Returns logits [B, T, K, C] in f32; `key` turns dropout on.

        Those of slot w and width index k are of words w to w + k of the segment, and unspecified where it has not so
        many words. `labels_CD` are vectors as of `label_vectors`.
        """
        cosines_BTKC = jnp.einsum("BTKD,CD->BTKC", self.span_vectors(batch, key=key), labels_CD, precision="highest")
        return jnp.exp(self.log_scale[...]) * (cosines_BTKC - self.offset[...])

    def span_vectors(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns the vectors of all spans, f32 [B, T, K, D] of length 1."""
        encoder_key, first_key, second_key = split_key(key, 3)
        encoded = self.encoder.encode(batch, key=encoder_key)
        positions_BT, hidden_BTD = encoded.positions_BT, dropout(encoded.x_BTD, self.dropout_rate, first_key)
        features_BTKH = span_features(self.starts, self.ends, self.widths[...], hidden_BTD, batch, positions_BT)
        moved_BTKD = self.projection(dropout(features_BTKH, self.dropout_rate, second_key))
        hidden_BTD = constrain(hidden_BTD, "batch", "keys", "features")
        first_BTD = at_words(hidden_BTD, batch[FIRSTS], positions_BT)
        last_BTKD = at_span_ends(at_words(hidden_BTD, batch[LASTS], positions_BT), len(self.widths[...]))
        return normalized((moved_BTKD + 0.5 * (first_BTD[:, :, None] + last_BTKD)).astype(jnp.float32))

    def label_vectors(self, labels: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns the vectors of labels, f32 [C, D] of length 1.

        `labels` are rows [C, L] of one text each: tokens, segment_ids, positions.
        """
        encoded = self.encoder.encode(labels, key=key)
        taken_CL = jnp.ones_like(encoded.segment_ids_BT, bool)
        return normalized(pool_at(encoded.x_BTD, encoded.segment_ids_BT, taken_CL, 1)[:, 0].astype(jnp.float32))
