"""What a token is before the first layer: word + position + segment type, normalised (Devlin et al. 2019).

With rotary positions there is no position table, with no segment types no type table (ModernBERT).
"""

# B batch, T tokens, D model, V vocab

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import dropout
from jaxfm.models.norms import layer_norm
from jaxfm.parallel.mesh import constrain, with_axes


def zero_padded_rows(init: nnx.Initializer, rows: int) -> nnx.Initializer:
    """Returns an initialiser of a table whose first `rows` rows are those of `init`, all others zero."""

    def make(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        values = init(key, shape, dtype, out_sharding)
        return jnp.where(jnp.arange(shape[0])[:, None] < rows, values, jnp.zeros((), dtype))

    return make


class Embeddings(nnx.Module):
    """Sums the tables, normalises, drops out."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the tables with weights drawn from N(0, initializer_range), cut at two deviations."""
        init = nnx.initializers.truncated_normal(config.initializer_range)

        def table(rows: int, axis: str, row_init: nnx.Initializer = init) -> nnx.Embed:
            return nnx.Embed(
                rows, config.hidden_size, dtype=dtype, embedding_init=with_axes(row_init, axis, "embed"), rngs=rngs
            )

        self.word = table(config.padded_vocab_size, "vocab", zero_padded_rows(init, config.vocab_size))
        learned = config.position_embedding == "learned"
        self.position = table(config.max_positions + config.position_offset, "positions") if learned else None
        self.type = table(config.type_vocab_size, "types") if config.type_vocab_size else None
        self.norm = layer_norm(config, dtype, rngs)
        self.position_offset = config.position_offset
        self.dropout_rate = config.dropout

    @jax.named_scope("embeddings")
    def __call__(
        self, tokens_BT: jax.Array, positions_BT: jax.Array, type_ids_BT: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """Returns [B, T, D]; positions count from 0 inside each segment."""
        x_BTD = constrain(self.word(tokens_BT), "batch", "tokens", "features")
        if self.position is not None:
            x_BTD = x_BTD + self.position(positions_BT + self.position_offset)
        if self.type is not None:
            x_BTD = x_BTD + self.type(type_ids_BT)
        return dropout(self.norm(x_BTD), self.dropout_rate, key)
