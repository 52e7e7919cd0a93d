"""Text before the first layer: word + position + segment type, normalised (Devlin et al. 2019).

With rotary positions there is no position table, with `type_vocab_size` 0 no type table (ModernBERT). Tables may be
narrower than the layers (ALBERT, ELECTRA small), or the sum may not be normalised (EuroBERT).
"""

# B batch, T tokens, D model, E embedding, V vocab

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, dropout
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.norms import make_norm
from jaxfm.models.products import dot_general
from jaxfm.parallel.mesh import constrain, with_axes

WORD_VECTORS = "word_vectors"
HORIZONS = "horizons"


def fields(row_length: int, *, type_ids: bool = False, horizons: bool = False) -> BatchSpec:
    """Returns the arrays that `TextInputs` reads, of rows of `row_length` tokens.

    `type_ids` adds the type of each token, which tells the first text of a pair from the second; single texts need
    none. `horizons` adds how far each token sees, for encoders of that sight.
    """
    more = (("type_ids", type_ids), (HORIZONS, horizons))
    names = ("tokens", "segment_ids", "positions", *(name for name, there in more if there))
    return dict.fromkeys(names, Field((row_length,), axes=("tokens",)))


def zero_padded_rows(init: nnx.Initializer, rows: int) -> nnx.Initializer:
    """Returns an initialiser of a table whose first `rows` rows are those of `init`, all others zero."""

    def make(key: jax.Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        values = init(key, shape, dtype, out_sharding)
        return jnp.where(jnp.arange(shape[0])[:, None] < rows, values, jnp.zeros((), dtype))

    return make


class TextInputs(nnx.Module):
    """Sums the tables, normalises, applies dropout, and leads to the width of the layers where that is another."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the tables with weights drawn from N(0, initializer_range), cut at two deviations."""
        init = nnx.initializers.truncated_normal(config.initializer_range)

        def table(rows: int, axis: str, row_init: nnx.Initializer = init) -> nnx.Embed:
            return nnx.Embed(
                rows, config.embedding_width, dtype=dtype, embedding_init=with_axes(row_init, axis, "embed"), rngs=rngs
            )

        self.word = table(config.padded_vocab_size, "vocab", zero_padded_rows(init, config.vocab_size))
        learned = config.position_embedding == "learned"
        self.position = table(config.max_positions + config.position_offset, "positions") if learned else None
        self.type = table(config.type_vocab_size, "types") if config.type_vocab_size else None
        self.norm = make_norm(config, dtype, rngs, config.embedding_width) if config.embedding_norm else None
        self.projection = _projection(config, dtype, rngs) if config.embedding_width != config.hidden_size else None
        self.config = config

    @jax.named_scope("embeddings")
    def __call__(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> Inputs:
        """Returns the inputs of the layers; `key` turns dropout on. Without "type_ids" every token is of type 0.

        "horizons" [B, T] is read where the encoder's sight needs it (`Inputs`). A batch with "word_vectors" f32
        [B, T, E] has these in place of its tokens' own: their gradient is asked for.
        """
        tokens_BT, positions_BT = batch["tokens"], batch["positions"]
        x_BTE = batch[WORD_VECTORS].astype(self.word.dtype) if WORD_VECTORS in batch else self.word(tokens_BT)
        x_BTE = constrain(x_BTE, "batch", "tokens", "features")
        if self.config.embedding_scale != 1.0:
            x_BTE = x_BTE * jnp.asarray(self.config.embedding_scale, x_BTE.dtype)
        if self.config.token_dropout_id >= 0:
            x_BTE = x_BTE * token_dropout(tokens_BT, batch["segment_ids"], self.config.token_dropout_id)[..., None]
        if self.position is not None:
            x_BTE = x_BTE + self.position(positions_BT + self.config.position_offset)
        if self.type is not None:
            x_BTE = x_BTE + self.type(batch["type_ids"] if "type_ids" in batch else _zeros(tokens_BT))
        x_BTE = x_BTE if self.norm is None else self.norm(x_BTE)
        x_BTE = dropout(x_BTE, self.config.dropout, key).astype(self.word.dtype)
        x_BTD = x_BTE if self.projection is None else self.projection(x_BTE)
        x_BTD = constrain(x_BTD, "batch", "tokens", "features")
        return Inputs(x_BTD, batch["segment_ids"], positions_BT, batch.get(HORIZONS))


# Rives et al. 2021 train on 15 % of the tokens, 80 % of which are masks; the published code has the number.
_MASKS_IN_TRAINING = 0.15 * 0.8


def token_dropout(tokens_BT: jax.Array, segment_ids_BT: jax.Array, mask_id: int) -> jax.Array:
    """Returns the factor of each token's embedding, f32 [B, T]: 0 for masks, else what makes up for those masks.

    Masks are dropped as dropout does it (Lin et al. 2023, ESM-2's code): the sum over a segment has the scale that it
    had in training, whatever share of it is masked. A segment of nothing but masks has only zeros.
    """
    masks_BT = tokens_BT == mask_id
    same_BTT = (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]).astype(jnp.float32)
    share_BT = jnp.einsum("BTS,BS->BT", same_BTT, masks_BT.astype(jnp.float32)) / jnp.sum(same_BTT, axis=-1)
    return jnp.where(masks_BT, 0.0, (1 - _MASKS_IN_TRAINING) / jnp.maximum(1 - share_BT, 1e-6))


def _projection(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """The linear map from the embeddings to the layers."""
    return nnx.Linear(
        config.embedding_width,
        config.hidden_size,
        dtype=dtype,
        dot_general=dot_general,
        kernel_init=with_axes(nnx.initializers.truncated_normal(config.initializer_range), "features", "embed"),
        bias_init=with_axes(nnx.initializers.zeros_init(), "norm"),
        rngs=rngs,
    )


def word_table(inputs: object) -> jax.Array:
    """Returns the word embedding [V, E] in f32 of an encoder's inputs, which are text; V is the padded vocabulary."""
    assert isinstance(inputs, TextInputs), "only text has a vocabulary"
    return inputs.word.embedding[...]


def _zeros(tokens_BT: jax.Array) -> jax.Array:
    """Returns zeros that the compiler takes for any array.

    It would turn a lookup at known zeros into a broadcast, whose gradient is summed in another order: results would
    depend on whether a batch carries these zeros.
    """
    return constrain(jax.lax.optimization_barrier(jnp.zeros_like(tokens_BT)), "batch", "tokens")
