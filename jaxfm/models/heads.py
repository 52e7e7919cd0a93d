"""What sits on top of an encoder, one class a kind of target."""

# B batch, T tokens, D model, C classes

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.models.dropout import dropout
from jaxfm.models.encoder import Encoder
from jaxfm.models.presets import EncoderConfig
from jaxfm.parallel.mesh import with_axes


class TokenClassifier(nnx.Module):
    """An encoder and one linear layer that scores each token (as transformers' ForTokenClassification)."""

    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype = jnp.float32,
        scan: bool = True,
    ):
        """Makes encoder and head; logits are always f32."""
        self.encoder = Encoder(config, rngs, dtype=dtype, scan=scan)
        self.head = nnx.Linear(
            config.hidden_size,
            num_classes,
            dtype=dtype,
            kernel_init=with_axes(nnx.initializers.truncated_normal(config.initializer_range), "embed", "classes"),
            bias_init=with_axes(nnx.initializers.zeros_init(), "classes"),
            rngs=rngs,
        )
        self.dropout_rate = config.dropout

    def __call__(self, batch: dict[str, jax.Array], *, key: jax.Array | None = None) -> jax.Array:
        """Returns logits [B, T, C] in f32; `key` turns dropout on."""
        encoder_key, head_key = (None, None) if key is None else tuple(jax.random.split(key))
        hidden_BTD = self.encoder(
            batch["tokens"], batch["segment_ids"], batch["positions"], batch["type_ids"], key=encoder_key
        )
        return self.head(dropout(hidden_BTD, self.dropout_rate, head_key)).astype(jnp.float32)
