"""An encoder and scores of every span of words up to a width: entities that may lie inside each other.

A span is represented by the vectors of its first and its last word and an embedding of its width, and a feed-forward
layer scores its types (Lee et al. 2017, section 4; Zhong and Chen 2021, "PURE", section 3.2, with the span's pieces at
its two ends). A span also has the class 0, no entity. The first layer is linear in the three parts, so each part is
multiplied once a word, or a width, and spans only add: 3 products of B W D H instead of B W K 3D H.
"""

# B batch, T tokens, K widths, D model, H hidden size of the head, C classes

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import ACTIVATION
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import dense
from jaxfm.models.products import dot_general
from jaxfm.parallel.mesh import constrain, with_axes

# Fields of a batch, int32 [B, T]. Slot w of a segment stands for its word w: the tokens, counted from the start of the
# segment, that are the first and the last piece of the word; -1 after the last word.
FIRSTS, LASTS = "first_pieces", "last_pieces"

Layer = Callable[[jax.Array], jax.Array]


class WordSpanClassifier(nnx.Module):
    """An encoder and a feed-forward layer over spans of words."""

    def __init__(self, config: EncoderConfig, classes: int, widths: int, hidden: int, build: Build, rngs: nnx.Rngs):
        """Makes encoder and head for `classes` (no entity included) and spans of 1 to `widths` words."""
        self.encoder = Encoder(config, build, rngs)
        self.starts = dense(config, build.dtype, rngs, hidden)
        self.ends = dense(config, build.dtype, rngs, hidden)
        draw = nnx.initializers.truncated_normal(config.initializer_range)
        width_init = with_axes(draw, "positions", "norm")
        self.widths = nnx.Param(width_init(rngs.params(), (widths, hidden), jnp.float32))
        self.head = nnx.Linear(
            hidden,
            classes,
            dtype=build.dtype,
            dot_general=dot_general,
            kernel_init=with_axes(draw, "norm", "classes"),
            bias_init=with_axes(nnx.initializers.zeros_init(), "classes"),
            rngs=rngs,
        )
        self.dropout_rate = config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, T, K, C] in f32; `key` turns dropout on.

        Those of slot w and width index k are of words w to w + k of the segment, and unspecified where it has not so
        many words.
        """
        encoder_key, first_key, second_key = split_key(key, 3)
        encoded = self.encoder.encode(batch, key=encoder_key)
        hidden_BTD = dropout(encoded.x_BTD, self.dropout_rate, first_key)
        spans_BTKH = span_features(self.starts, self.ends, self.widths[...], hidden_BTD, batch, encoded.positions_BT)
        return self.head(dropout(spans_BTKH, self.dropout_rate, second_key)).astype(jnp.float32)


def span_features(
    starts: Layer,
    ends: Layer,
    widths_KH: jax.Array,
    hidden_BTD: jax.Array,
    batch: Mapping[str, jax.Array],
    positions_BT: jax.Array,
) -> jax.Array:
    """Returns features [B, T, K, H] of all spans: gelu of the sum of what their first word, last word and width give.

    Those of slot w and width index k are of words w to w + k of the segment, and unspecified where it has not so many.
    """
    # Words are gathered from all over a row, whatever its tokens are cut over.
    starts_BTH = constrain(starts(hidden_BTD), "batch", "keys", "features")
    ends_BTH = constrain(ends(hidden_BTD), "batch", "keys", "features")
    starts_BTH = at_words(starts_BTH, batch[FIRSTS], positions_BT)
    ends_BTH = at_words(ends_BTH, batch[LASTS], positions_BT)
    widths_KH = widths_KH.astype(starts_BTH.dtype)
    return ACTIVATION["gelu"](starts_BTH[:, :, None] + at_span_ends(ends_BTH, len(widths_KH)) + widths_KH)


def at_span_ends(words_BTH: jax.Array, widths: int) -> jax.Array:
    """Returns [B, T, K, H]: of values of words, that of the last word of the span of k more words than one.

    The end of a span of k more words is the word k slots on. What wraps around is no span.
    """
    return jnp.stack([jnp.roll(words_BTH, -k, axis=1) for k in range(widths)], axis=2)


def at_words(values_BTH: jax.Array, places_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Returns at each slot the values [B, T, H] of the token that `places_BT` counts from the start of the segment."""
    begins_BT = jnp.arange(positions_BT.shape[1]) - positions_BT
    index_BT = jnp.clip(begins_BT + places_BT, 0, positions_BT.shape[1] - 1)
    return jnp.take_along_axis(values_BTH, index_BT[..., None], axis=1)
