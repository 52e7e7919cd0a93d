"""Which words of training rows are changed at a step, drawn for each row by what is in it.

A row's draws depend on the step's key and on its tokens alone, not on its place in the batch: they are the same on any
mesh, and however a batch is cut into micro-batches.
"""

# B batch, T tokens, P places a row, V vocabulary

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masking import Masking, mask_tokens

_WHOLE_WORDS = Masking("whole_word", mask_share=1.0, random_share=0.0)


def row_keys(key: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """Returns a key for each row [B], of a key and a hash of the row's tokens; equal rows have equal keys."""
    words_BT = tokens_BT.astype(jnp.uint32) * jnp.uint32(0x9E3779B1)
    # Multiplied by odd numbers that differ from place to place, so that the order counts, and mixed as in murmur3.
    places_T = 2 * lax.iota(jnp.uint32, tokens_BT.shape[1]) + 1
    mixed_BT = (words_BT ^ (words_BT >> 15)) * (places_T * jnp.uint32(0x85EBCA6B))
    sums_B = (mixed_BT ^ (mixed_BT >> 13)).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, sums_B)


def choose_words(
    keys_B: jax.Array,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    vocabulary: MaskVocabulary,
    share: float,
    limit: int,
) -> tuple[jax.Array, jax.Array]:
    """Chooses words; returns (tokens with those of the words masked, labels: the token where chosen, else -1) [B, T].

    As `masking.mask_tokens` with whole words: a word's tokens are chosen together (of a word of more than
    `masking.WORD_TOKENS` tokens, that many), and `share` of the row's tokens on average. Where the tokenizer does not
    mark words, each token is one.

    Args:
      keys_B: of the rows, see `row_keys`.
      tokens_BT: int32 piece ids.
      segment_ids_BT: int32; tokens of segment 0 are never chosen.
      vocabulary: of the tokens.
      share: of the tokens that may be chosen.
      limit: most tokens of a row.
    """

    def of_row(key: jax.Array, tokens_T: jax.Array, segment_ids_T: jax.Array) -> tuple[jax.Array, jax.Array]:
        masked, labels = mask_tokens(
            key, tokens_T[None], segment_ids_T[None], vocabulary, _WHOLE_WORDS, ratio=share, limit=limit
        )
        return masked[0], labels[0]

    return jax.vmap(of_row)(keys_B, tokens_BT, segment_ids_BT)


def draw_pieces(
    keys_B: jax.Array, logits_BPV: jax.Array, targets_BP: jax.Array, vocabulary: MaskVocabulary, temperature: float
) -> jax.Array:
    """Draws a token for each masked place from a masked LM's probabilities at a temperature; returns int32 [B, P].

    Special tokens are never drawn; in place of a token that goes on with a word stands another such token, and in place
    of one that starts a word another that does: the number of words stays.

    Args:
      keys_B: of the rows.
      logits_BPV: of the masked LM, V at least the vocabulary's.
      targets_BP: what stood there; -1 where nothing is asked for, which gives any token.
      vocabulary: of the tokens.
      temperature: above 0.
    """
    allowed_2V = jnp.stack(
        [jnp.asarray(vocabulary.maskable & (vocabulary.continues == goes_on)) for goes_on in (False, True)]
    )
    missing = logits_BPV.shape[-1] - allowed_2V.shape[-1]
    allowed_2V = jnp.pad(allowed_2V, ((0, 0), (0, max(missing, 0))))[:, : logits_BPV.shape[-1]]
    goes_on_BP = jnp.asarray(vocabulary.continues)[targets_BP] & (targets_BP >= 0)
    allowed_BPV = allowed_2V[goes_on_BP.astype(jnp.int32)]
    scaled_BPV = jnp.where(allowed_BPV, logits_BPV / temperature, -jnp.inf)
    return jax.vmap(jax.random.categorical)(keys_B, scaled_BPV).astype(jnp.int32)
