"""A conditional random field over the words of packed rows (Lafferty et al. 2001; Lample et al. 2016, section 2.2).

The words of a segment form one chain, and pieces that no word is read at are skipped: a scan over the tokens of a row
carries its state past them. The alternative, to gather the words [B, W, C] first, would need a bound W on the words of
a row, hardly less than its tokens where rows are packed, and a second array of segments; and it would save little, as
the work of a token, B C^2, is nothing beside the encoder's B D^2. A chain begins anew where a segment does.
"""

# B batch, T tokens, C classes

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.models.attention import MASKED
from jaxfm.parallel.mesh import constrain, with_axes

# Of `bounds`, bit by bit: the word is the first, or the last, of its sentence.
FIRST, LAST = 1, 2


class TransitionScores(NamedTuple):
    """What the tags of a chain add to the scores of its words, f32; -1e30 where the scheme does not allow it.

    Attributes:
      start: [C] of a sentence's first tag.
      end: [C] of a sentence's last tag.
      pairs: [C, C] of a tag (row) that is followed by another (column).
    """

    start: jax.Array
    end: jax.Array
    pairs: jax.Array


class LinearChain(nnx.Module):
    """The scores of transitions as parameters, 0 at first, so that training begins with constrained softmax."""

    def __init__(self, start: np.ndarray, end: np.ndarray, pairs: np.ndarray, rngs: nnx.Rngs):
        """Makes the parameters; bool [C], [C] and [C, C] say what is allowed."""
        zeros, classes = nnx.initializers.zeros_init(), len(start)
        key = rngs.params()
        self.start = nnx.Param(with_axes(zeros, "classes")(key, (classes,), jnp.float32))
        self.end = nnx.Param(with_axes(zeros, "classes")(key, (classes,), jnp.float32))
        self.pairs = nnx.Param(with_axes(zeros, "classes", "classes")(key, (classes, classes), jnp.float32))
        # Tuples, not arrays: what a model is beside its parameters must be static.
        self.allowed = (tuple(start.tolist()), tuple(end.tolist()), tuple(map(tuple, pairs.tolist())))

    def scores(self) -> TransitionScores:
        """Returns the scores; what is not allowed has -1e30 whatever its parameter, which so has no gradient."""
        params = (self.start[...], self.end[...], self.pairs[...])
        return TransitionScores(
            *(
                jnp.where(np.asarray(allowed), param, MASKED)
                for allowed, param in zip(self.allowed, params, strict=True)
            )
        )


class _State(NamedTuple):
    """What the scan carries from one token to the next.

    Attributes:
      log_probs_BC: of the tag of the last word, given the words of its chain up to it.
      label_B: gold tag of the last word.
      segment_B: of the last word; 0 before the first.
    """

    log_probs_BC: jax.Array
    label_B: jax.Array
    segment_B: jax.Array


def chain_loss(
    logits_BTC: jax.Array,
    labels_BT: jax.Array,
    segment_ids_BT: jax.Array,
    bounds_BT: jax.Array,
    scores: TransitionScores,
) -> tuple[jax.Array, jax.Array]:
    """Returns each word's share of the chains' negative log-likelihoods, nats [B, T], and the filtered tags [B, T].

    The share of a word is log p's normaliser at the word less the scores of its gold tag: only their sum over a chain,
    the log-likelihood by the forward algorithm, means something. A filtered tag is the likeliest given the words so
    far. Where a sentence was cut into windows, the chain of a window has no start or end score at the cut: nothing is
    known of the word beside it.

    Args:
      logits_BTC: scores of the words at their first pieces; any others are not read.
      labels_BT: gold classes at the words, -1 elsewhere.
      segment_ids_BT: segments, from 1.
      bounds_BT: bits FIRST and LAST at the words, -1 elsewhere.
      scores: of the transitions.
    """
    valid_BT = labels_BT >= 0
    first_BT, last_BT = (((bounds_BT & bit) > 0) & (bounds_BT >= 0) for bit in (FIRST, LAST))
    logits_BTC = logits_BTC + jnp.where(first_BT[..., None], scores.start, 0.0)
    logits_BTC += jnp.where(last_BT[..., None], scores.end, 0.0)
    # The scan goes over whole rows, whatever their tokens are cut over.
    logits_BTC = constrain(logits_BTC, "batch", "keys", "classes")

    def step(state: _State, token: tuple[jax.Array, ...]) -> tuple[_State, tuple[jax.Array, jax.Array]]:
        logits_BC, label_B, valid_B, segment_B = token
        continues_B = segment_B == state.segment_B
        into_BC = jax.nn.logsumexp(state.log_probs_BC[:, :, None] + scores.pairs, axis=1)
        joint_BC = jnp.where(continues_B[:, None], into_BC, 0.0) + logits_BC
        normaliser_B = jax.nn.logsumexp(joint_BC, axis=-1)
        log_probs_BC = joint_BC - normaliser_B[:, None]
        gold_B = jnp.take_along_axis(logits_BC, jnp.maximum(label_B, 0)[:, None], axis=-1)[:, 0]
        gold_B += jnp.where(continues_B, scores.pairs[state.label_B, jnp.maximum(label_B, 0)], 0.0)
        after = _State(
            jnp.where(valid_B[:, None], log_probs_BC, state.log_probs_BC),
            jnp.where(valid_B, label_B, state.label_B),
            jnp.where(valid_B, segment_B, state.segment_B),
        )
        return after, (jnp.where(valid_B, normaliser_B - gold_B, 0.0), jnp.argmax(log_probs_BC, axis=-1))

    none_B = jnp.zeros(len(labels_BT), labels_BT.dtype)
    state = _State(jnp.zeros_like(logits_BTC[:, 0]), none_B, jnp.zeros_like(segment_ids_BT[:, 0]))
    tokens = tuple(jnp.swapaxes(each, 0, 1) for each in (logits_BTC, labels_BT, valid_BT, segment_ids_BT))
    # Computed again in the backward pass: kept of a token is the state [B, C], not the candidates [B, C, C].
    _, (loss_TB, label_TB) = jax.lax.scan(jax.checkpoint(step), state, tokens)
    return loss_TB.T, label_TB.T
