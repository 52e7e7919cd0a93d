"""Text before the first layer: word + position + segment type, normalised (Devlin et al. 2019).

With rotary positions there is no position table, with `type_vocab_size` 0 no type table (ModernBERT).
"""

# B batch, T tokens, D model, V vocab

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import dropout
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.norms import layer_norm
from jaxfm.parallel.mesh import constrain, with_axes


def fields(row_length: int, *, type_ids: bool = False) -> BatchSpec:
    """Returns the arrays that `TextInputs` reads, of rows of `row_length` tokens.

    `type_ids` adds the type of each token, which tells the first text of a pair from the second; single texts need
    none.
    """
    names = ("tokens", "segment_ids", "positions", *(("type_ids",) if type_ids else ()))
    return dict.fromkeys(names, Field((row_length,), axes=("tokens",)))


def zero_padded_rows(init: nnx.Initializer, rows: int) -> nnx.Initializer:
    """Returns an initialiser of a table whose first `rows` rows are those of `init`, all others zero."""

    def make(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        values = init(key, shape, dtype, out_sharding)
        return jnp.where(jnp.arange(shape[0])[:, None] < rows, values, jnp.zeros((), dtype))

    return make


class TextInputs(nnx.Module):
    """Sums the tables, normalises, applies dropout."""

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
    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> Inputs:
        """Returns the inputs of the layers; `key` turns dropout on. Without "type_ids" every token is of type 0."""
        tokens_BT, positions_BT = batch["tokens"], batch["positions"]
        x_BTD = constrain(self.word(tokens_BT), "batch", "tokens", "features")
        if self.position is not None:
            x_BTD = x_BTD + self.position(positions_BT + self.position_offset)
        if self.type is not None:
            x_BTD = x_BTD + self.type(batch["type_ids"] if "type_ids" in batch else _zeros(tokens_BT))
        return Inputs(dropout(self.norm(x_BTD), self.dropout_rate, key), batch["segment_ids"], positions_BT)


def word_table(inputs: object) -> jax.Array:
    """Returns the word embedding [V, D] in f32 of an encoder's inputs, which are text; V is the padded vocabulary."""
    assert isinstance(inputs, TextInputs), "only text has a vocabulary"
    return inputs.word.embedding[...]


def _zeros(tokens_BT: jax.Array) -> jax.Array:
    """Returns zeros that the compiler takes for any array.

    It would turn a lookup at known zeros into a broadcast, whose gradient is summed in another order: results would
    depend on whether a batch carries these zeros.
    """
    return constrain(jax.lax.optimization_barrier(jnp.zeros_like(tokens_BT)), "batch", "tokens")
