"""One `attend` for every encoder: bidirectional attention in which no token sees another segment."""

# B batch, T tokens (S: the same axis as keys), N heads, H head dim

import jax
import jax.numpy as jnp

from jaxfm.models.dropout import dropout

# Finite, so that a row of nothing but padding gives a uniform softmax and no NaN; exp(-1e30 - max) is exactly 0 in f32.
MASKED = -1e30


def segment_mask(segment_ids_BT: jax.Array) -> jax.Array:
    """Returns bool [B, 1, T, T]: True where query and key are tokens of the same segment (0 is padding).

    Padding attends to padding, so that no row of the softmax is empty; nobody reads what comes of it.
    """
    return (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :])[:, None]


def attend(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    mask_B1TT: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1); returns [B, T, N, H] in the dtype of `q`.

    Scores and softmax are f32 whatever the dtype of the inputs. Dropout falls on the attention weights, as in BERT;
    without a key there is none.
    """
    scale = q_BTNH.shape[-1] ** -0.5
    scores_BNTS = jnp.einsum("BTNH,BSNH->BNTS", q_BTNH * scale, k_BTNH, preferred_element_type=jnp.float32)
    weights_BNTS = jax.nn.softmax(jnp.where(mask_B1TT, scores_BNTS, MASKED), axis=-1)
    weights_BNTS = dropout(weights_BNTS.astype(v_BTNH.dtype), dropout_rate, dropout_key)
    return jnp.einsum("BNTS,BSNH->BTNH", weights_BNTS, v_BTNH)
