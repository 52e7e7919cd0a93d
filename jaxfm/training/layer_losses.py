"""How far the layers of a student are from those of a teacher, for the same tokens."""

# L layers, B batch, T tokens, N heads, R relation heads, H head dim, D model (S of the student)

import jax
import jax.numpy as jnp

from jaxfm.models.attention import MASKED, segment_mask


def hidden_loss(student_LBTD: jax.Array, teacher_LBTD: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """Returns the mean squared difference of hidden states, summed over L pairs of layers (TinyBERT, equations 8, 9).

    The mean is over the features of all tokens but padding.
    """
    valid_BT1 = (segment_ids_BT != 0).astype(jnp.float32)[..., None]
    difference = (student_LBTD.astype(jnp.float32) - teacher_LBTD.astype(jnp.float32)) * valid_BT1
    return (difference**2).sum() / jnp.maximum(valid_BT1.sum() * difference.shape[-1], 1.0)


def attention_loss(student_BNTT: jax.Array, teacher_BNTT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """Returns the mean squared difference of scores of attention before the softmax (TinyBERT, equation 7).

    The mean is over heads and over pairs of tokens that see each other; padding is not among them.
    """
    pairs_B1TT = segment_mask(segment_ids_BT) & (segment_ids_BT != 0)[:, None, :, None]
    difference = jnp.where(pairs_B1TT, student_BNTT - teacher_BNTT, 0.0)
    return (difference**2).sum() / jnp.maximum(pairs_B1TT.sum() * student_BNTT.shape[1], 1)


def relation_loss(student_BTNH: jax.Array, teacher_BTNH: jax.Array, segment_ids_BT: jax.Array, heads: int) -> jax.Array:
    """Returns KL(teacher, student) of the relations among the vectors of one kind (MiniLMv2, equations 4 to 8).

    Queries, keys or values of all heads are put together and cut into `heads` relation heads, which both models have;
    a relation is the softmax of their scaled products over the tokens of the same segment. The mean is over relation
    heads and over all tokens but padding.
    """
    mask_B1TT = segment_mask(segment_ids_BT)
    known, found = (_log_relations(x_BTNH, mask_B1TT, heads) for x_BTNH in (teacher_BTNH, student_BTNH))
    divergence_BRT = (jnp.exp(known) * jnp.where(mask_B1TT, known - found, 0.0)).sum(axis=-1)
    valid_B1T = (segment_ids_BT != 0).astype(jnp.float32)[:, None]
    return (divergence_BRT * valid_B1T).sum() / jnp.maximum(valid_B1T.sum() * heads, 1.0)


def _log_relations(x_BTNH: jax.Array, mask_B1TT: jax.Array, heads: int) -> jax.Array:
    batch, tokens, *inner = x_BTNH.shape
    x_BTRH = x_BTNH.reshape(batch, tokens, heads, inner[0] * inner[1] // heads).astype(jnp.float32)
    products_BRTT = jnp.einsum("BTRH,BSRH->BRTS", x_BTRH, x_BTRH, precision="highest")
    scores_BRTT = jnp.where(mask_B1TT, products_BRTT * x_BTRH.shape[-1] ** -0.5, MASKED)
    return jax.nn.log_softmax(scores_BRTT, axis=-1)
