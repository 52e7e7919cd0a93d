"""MaxSim of a batch: of each token of a query the most similar token of a document, summed over the query's tokens.

Khattab and Zaharia 2020, equation 3. A text is a segment of a packed row, so queries and documents of a batch lie among
each other; queries are taken out of their rows (they are short), documents are compared where they lie.
"""

# B rows of queries, R rows of documents, T tokens, S = G K segments of a row, G groups a row, K texts a group,
# J = K - 1 texts beside the anchor, L tokens of a query, P numbers a vector

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.parallel.mesh import constrain

_NEVER = -1e30  # similarity to a token that is not there


def taken_out(
    vectors_BTP: jax.Array, segment_ids_BT: jax.Array, numbers: np.ndarray, length: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the first `length` tokens of segments as [B, len(numbers), L, P], and bool [B, len(numbers), L].

    `numbers` are those of the segments, the same in every row; a segment's tokens lie one after the other.
    """
    is_here = segment_ids_BT[:, None, :] == jnp.asarray(numbers)[None, :, None]
    start_BG = jnp.argmax(is_here, axis=-1)
    count_BG = jnp.sum(is_here, axis=-1)
    offsets_L = jnp.arange(length)
    at_BGL = jnp.minimum(start_BG[..., None] + offsets_L, segment_ids_BT.shape[1] - 1)
    flat = at_BGL.reshape(len(at_BGL), -1)
    found = jnp.take_along_axis(vectors_BTP, flat[..., None], axis=1)
    found = found.reshape(*at_BGL.shape, vectors_BTP.shape[-1])
    return found, offsets_L < count_BG[..., None]


def similarities(
    vectors_BTP: jax.Array,
    segment_ids_BT: jax.Array,
    compared_BT: jax.Array,
    *,
    groups: int,
    texts: int,
    query_length: int,
) -> jax.Array:
    """Returns MaxSim of each anchor with each other text of the batch, f32 [n, n, J], n = B G; 0 where one is absent.

    Rows of documents are compared one after the other, each computed again in the backward pass: memory holds the
    products of all query tokens with the tokens of one row, [B G L, T].

    Args:
      vectors_BTP: of length 1.
      segment_ids_BT: text k of group g of a row is segment g K + k + 1; tokens of negative ones belong to it too.
      compared_BT: bool, which tokens are compared where they are of a document.
      groups: G.
      texts: K.
      query_length: tokens of an anchor that are compared, L.
    """
    rows, segment_ids_BT = len(vectors_BTP), jnp.abs(segment_ids_BT)
    queries_BGLP, is_token_BGL = taken_out(
        vectors_BTP, segment_ids_BT, np.arange(groups) * texts + 1, query_length
    )  # fmt: skip
    queries_BGLP = constrain(queries_BGLP, "batch", "segments", "segments", "features")
    is_token_BGL = constrain(is_token_BGL, "batch", "segments", "segments")
    # Every device compares its queries with the documents of all devices.
    documents_RTP = constrain(vectors_BTP, "compared", "compared", "features")
    segments_RT = constrain(jnp.where(compared_BT, segment_ids_BT, 0), "compared", "compared")
    numbers = jnp.asarray([group * texts + text + 1 for group in range(groups) for text in range(1, texts)])

    @jax.checkpoint
    def of_row(document: tuple[jax.Array, jax.Array]) -> jax.Array:
        tokens_TP, segments_T = document
        products = jnp.einsum("BGLP,TP->BGLT", queries_BGLP, tokens_TP, precision="highest")
        is_here = segments_T[None, :] == numbers[:, None]  # [G J, T]
        best = best_of(products, is_here)  # [B, G, L, G J]
        present = jnp.any(is_here, axis=-1)
        counted = is_token_BGL[..., None] & present
        return constrain(jnp.sum(jnp.where(counted, best, 0.0), axis=2), "batch", "segments", "segments")

    found = jax.lax.map(of_row, (documents_RTP, segments_RT))  # [R, B, G, G J]
    found = found.reshape(rows, rows, groups, groups, texts - 1)
    return found.transpose(1, 2, 0, 3, 4).reshape(rows * groups, rows * groups, texts - 1)


def best_of(products: jax.Array, is_here_ST: jax.Array) -> jax.Array:
    """Returns the greatest product [..., S] over the tokens [..., T] of each segment.

    Its gradient goes to that token alone, of equal ones the first.
    """
    masked = jnp.where(is_here_ST, jax.lax.stop_gradient(products)[..., None, :], _NEVER)
    return jnp.take_along_axis(products, jnp.argmax(masked, axis=-1), axis=-1)
